//! What is to be said about a configuration once the log is open.

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Worth a warning, otherwise information.
    pub is_warning: bool,
    /// The line.
    pub text: String,
}

impl Note {
    /// A warning.
    pub fn warn(text: impl Into<String>) -> Self {
        Self { is_warning: true, text: text.into() }
    }

    /// Information.
    pub fn info(text: impl Into<String>) -> Self {
        Self { is_warning: false, text: text.into() }
    }

    /// Writes it to the log.
    pub fn log(&self) {
        if self.is_warning {
            tracing::warn!("{}", self.text);
        } else {
            tracing::info!("{}", self.text);
        }
    }
}
