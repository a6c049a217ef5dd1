//! When to compare the kernel with the mirror because somebody else may have changed it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// The pause after a comparison; doubles while there is no calm.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause, unless comparisons take long.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Comparisons take at most one part in so many of the time.
const SHARE: u32 = 10;
/// So long after the last pause without a doubt, everything is forgotten.
const CALM: Duration = Duration::from_secs(10);

/// A reason to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Who changed something; `None` when it is not known whether anybody did.
    pub(super) by: Option<String>,
}

/// Where others tell the sync loop that somebody changed its tables.
#[derive(Debug, Clone)]
pub struct Doubts(pub(super) mpsc::Sender<Doubt>);

impl Doubts {
    /// Has the kernel compared with what it should hold. `by` is whose doing it was, `None` when it is not known whether
    /// anybody did anything. Returns whether the sync loop still runs.
    pub fn raise(&self, by: Option<String>) -> bool {
        // One doubt that waits is enough: the comparison finds all changes.
        !matches!(self.0.try_send(Doubt { by }), Err(mpsc::error::TrySendError::Closed(_)))
    }
}

/// Keeps somebody who never stops changing our tables from keeping us busy: the first repair is immediate, the next ones
/// follow at growing distances.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    pause: Duration,
    /// When the pause ends.
    until: Instant,
}

impl Pace {
    /// When the next comparison may be made; `None` is at once.
    pub(super) fn wait_until(&self) -> Option<Instant> {
        self.last.map(|last| last.until)
    }

    /// A comparison was made.
    pub(super) fn ran(&mut self, start: Instant, end: Instant) {
        let pause = match self.last {
            Some(last) if start < last.until + CALM => (last.pause * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        let pause = pause.max(end.saturating_duration_since(start) * (SHARE - 1));
        self.last = Some(Last { pause, until: end + pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pauses_grow_with_trouble_and_go_with_calm() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        assert_eq!(pace.wait_until(), None);
        for pause in [20, 40, 80, 160, 320, 640, 1000, 1000] {
            pace.ran(now, now + millis(1));
            now += millis(1 + pause);
            assert_eq!(pace.wait_until(), Some(now), "pause of {pause} ms");
        }
        now += CALM;
        pace.ran(now, now);
        assert_eq!(pace.wait_until(), Some(now + PAUSE_MIN));
    }

    #[test]
    fn long_comparisons_leave_time_for_other_things() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.ran(now, now + millis(400));
        assert_eq!(pace.wait_until(), Some(now + millis(4000)));
    }

    #[test]
    fn one_doubt_waits() {
        let (sender, mut receiver) = mpsc::channel(1);
        let doubts = Doubts(sender);
        assert!(doubts.raise(Some("nft (pid 1)".to_owned())) && doubts.raise(None));
        assert_eq!(receiver.try_recv().ok(), Some(Doubt { by: Some("nft (pid 1)".to_owned()) }));
        assert!(receiver.try_recv().is_err());
        drop(receiver);
        assert!(!doubts.raise(None));
    }
}
