//! How far long work has got: one line on a terminal that is written over, and nothing elsewhere.

use std::time::{Duration, Instant};

use crate::logging::line;

/// Work that is over sooner shows nothing.
const QUIET: Duration = Duration::from_millis(300);
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(100);

/// A line on standard error; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    begun: Instant,
    last: Option<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_shown: line::is_possible(), begun: Instant::now(), last: None }
    }

    /// The same where there is a terminal: for work that reports nothing elsewhere.
    pub(super) fn on_terminal() -> Option<Self> {
        Some(Self::new()).filter(|progress| progress.is_shown)
    }

    /// Shows where the work is, unless the last line is very young.
    pub(super) fn say(&mut self, text: &str) {
        let is_due = self.last.map_or(self.begun.elapsed() >= QUIET, |last| last.elapsed() >= PAUSE);
        if self.is_shown && is_due {
            self.last = Some(Instant::now());
            line::show(&cut(text, width()));
        }
    }

    /// Shows how many are done.
    pub(super) fn count(&mut self, done: usize, total: usize, what: &str) {
        self.say(&format!("{done} of {total} {what}"));
    }

    /// Takes the line away, for something else to be printed.
    pub(super) fn clear(&mut self) {
        if self.last.take().is_some() {
            line::clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What can be written over: a line that is broken into two could not.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns.filter(|columns| *columns > 0).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_two() {
        assert_eq!(cut("3 of 12 nodes", 80), "3 of 12 nodes");
        assert_eq!(cut("3 of 12 nodes", 5), "3 of");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        let mut progress = Progress { is_shown: false, begun: Instant::now(), last: None };
        progress.say("never");
        assert_eq!(progress.last, None);
    }
}
