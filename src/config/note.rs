//! What is to be said about a configuration once the log is open.

/// A warning, one line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The line.
    pub text: String,
}

impl Note {
    /// A warning.
    pub fn warn(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// Writes it to the log.
    pub fn log(&self) {
        tracing::warn!("{}", self.text);
    }
}
