//! The log on stderr, and its level, which can be changed while the program runs.

pub mod line;
mod recent;

use std::fmt;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use recent::Recent;

/// The running log.
#[derive(Debug)]
pub struct Log {
    /// Its level.
    pub level: LogLevel,
    /// Its last warnings and errors.
    pub recent: Recent,
}

/// Why a level cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// Not in the language of filters.
    #[error("{text:?} is not a log filter, as `debug` or `info,portway::nftables=trace`: {reason}")]
    Filter {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing to set.
    #[error("the log's level cannot be changed: {0}")]
    Fixed(String),
}

/// The running log's level.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Control>);

trait Control: Send + Sync {
    fn get(&self) -> Option<String>;
    fn set(&self, filter: EnvFilter) -> Result<(), reload::Error>;
}

impl<S> Control for Handle<EnvFilter, S> {
    fn get(&self) -> Option<String> {
        self.with_current(ToString::to_string).ok()
    }

    fn set(&self, filter: EnvFilter) -> Result<(), reload::Error> {
        self.reload(filter)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}

impl LogLevel {
    /// The level of a log that was set up with this reload handle.
    pub fn new<S: 'static>(handle: Handle<EnvFilter, S>) -> Self {
        Self(Arc::new(handle))
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.get().unwrap_or_default()
    }

    /// Sets another filter, in the language of `RUST_LOG`.
    pub fn set(&self, text: &str) -> Result<(), LevelError> {
        let text = text.trim();
        let fault = |reason: String| LevelError::Filter { text: text.to_owned(), reason };
        if text.is_empty() {
            return Err(fault("it is empty".to_owned()));
        }
        let filter = EnvFilter::builder().parse(text).map_err(|error| fault(error.to_string()))?;
        self.0.set(filter).map_err(|error| LevelError::Fixed(error.to_string()))
    }
}

/// The filter for klog's levels: up to 1 is information for operators, 2 to 5 adds each sync, 6 and more everything.
pub fn filter_of(verbosity: u32) -> &'static str {
    match verbosity {
        0 | 1 => "info",
        2..=5 => "info,portway=debug",
        _ => "debug,portway=trace",
    }
}

/// Logs to stderr, as text or as JSON. `RUST_LOG` wins over `level`.
pub fn to_stderr(level: &str, is_json: bool) -> Log {
    let recent = Recent::default();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| line::Lines);
    let builder = builder.with_ansi(line::is_possible());
    let level = if is_json {
        let builder = builder.json().with_filter_reloading();
        let level = LogLevel::new(builder.reload_handle());
        builder.finish().with(recent.clone()).init();
        level
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let level = LogLevel::new(builder.reload_handle());
        builder.finish().with(recent.clone()).init();
        level
    };
    Log { level, recent }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn a_level_is_read_changed_and_refused() {
        let (_layer, handle) = reload::Layer::<EnvFilter, Registry>::new("info".into());
        let level = LogLevel::new(handle);
        assert_eq!(level.get(), "info");
        level.set(" info,portway::nftables=trace\n").expect("a filter");
        assert_eq!(level.get(), "portway::nftables=trace,info");
        for text in ["", "portway=loud", "a=b=c"] {
            level.set(text).expect_err(text);
        }
        assert_eq!(level.get(), "portway::nftables=trace,info", "a refused filter changes nothing");
    }
}
