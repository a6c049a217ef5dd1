//! When to compare the kernel with the mirror because somebody else may have changed it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// What a comparison costs at least, of time that is granted. With [`CREDIT`]: ten at once, and then one a second.
const PRICE: Duration = Duration::from_secs(1);
/// What it costs for the time it takes: it may take one part in so many.
const SHARE: u32 = 10;
/// Time that may be spent before it is granted.
const CREDIT: Duration = Duration::from_secs(10);

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

/// Keeps somebody who never stops changing our tables from keeping us busy. A few repairs are immediate, more have to wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the time that was spent will have been granted.
    paid: Option<Instant>,
}

impl Pace {
    /// When the next comparison may be made.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.paid.and_then(|paid| paid.checked_sub(CREDIT)).map_or(now, |due| due.max(now))
    }

    /// A comparison was made.
    pub(super) fn ran(&mut self, start: Instant, end: Instant) {
        let price = PRICE.max(end.saturating_duration_since(start) * SHARE);
        self.paid = Some(self.paid.map_or(end, |paid| paid.max(end)) + price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_few_comparisons_are_immediate_and_more_wait() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..=CREDIT.as_secs() {
            assert_eq!(pace.next(now), now);
            pace.ran(now, now);
        }
        let next = pace.next(now);
        assert_eq!(next, now + PRICE);
        pace.ran(next, next);
        assert_eq!(pace.next(next), next + PRICE, "and so on");
        let calm = next + CREDIT + PRICE;
        pace.ran(calm, calm);
        assert_eq!(pace.next(calm), calm, "after some calm");
    }

    #[test]
    fn long_comparisons_leave_time_for_other_things() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut now = start;
        for _ in 0..10 {
            now = pace.next(now);
            pace.ran(now, now + millis(2_000));
            now += millis(2_000);
        }
        assert!(now - start >= millis(2_000) * 10 * (SHARE - 2), "{:?}", now - start);
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
