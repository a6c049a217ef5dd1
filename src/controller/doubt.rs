//! Doubts: reports that somebody else may have changed our tables, and how often they are checked.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::ruleset::ChangedParts;

/// Minimum charge per comparison against the time budget. With [`CREDIT`]: ten at once, and then one a second.
const PRICE: Duration = Duration::from_secs(1);
/// A comparison is charged this many times the time it took, so that comparisons take at most a tenth of the time.
const SHARE: u32 = 10;
/// The same where it found a table gone: until it is back no Service works, so it may take half of the time.
const SHARE_OF_LOADS: u32 = 2;
/// How far the time budget may be overdrawn.
const CREDIT: Duration = Duration::from_secs(10);

/// A report that our tables may differ from the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Who changed something; `None` when it is not known whether anybody did.
    pub(super) by: Option<String>,
    /// What may differ.
    pub(super) touched: ChangedParts,
}

/// With which other threads report to the sync loop that somebody changed its tables. Reports that wait are merged.
#[derive(Debug, Clone)]
pub struct Doubts(watch::Sender<Option<Doubt>>);

impl Doubts {
    /// And the receiver on which the loop waits for doubts.
    pub(super) fn new() -> (Self, watch::Receiver<Option<Doubt>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), receiver)
    }

    /// Requests a comparison of what was touched with what the kernel should hold. `by` names the program that touched
    /// it; `None` when it is not known whether anybody did. Returns whether the sync loop still runs.
    pub fn raise(&self, by: Option<String>, touched: ChangedParts) -> bool {
        self.0.send_modify(|waiting| {
            let doubt = waiting.get_or_insert_default();
            doubt.by = by.or(doubt.by.take());
            doubt.touched.merge(touched);
        });
        !self.0.is_closed()
    }

    /// Whether there is a doubt.
    pub(super) fn is_raised(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Takes the doubt. Call it before reading: what is raised later may be about what happens later.
    pub(super) fn take(&self) -> Option<Doubt> {
        let mut doubt = None;
        self.0.send_if_modified(|waiting| {
            doubt = waiting.take();
            false
        });
        doubt
    }
}

/// Limits comparisons while another program keeps changing our tables: a few are immediate, more have to wait.
#[derive(Debug, Default)]
pub(super) struct ComparisonLimiter {
    /// When the budget is balanced again.
    paid: Option<Instant>,
}

impl ComparisonLimiter {
    /// When the next comparison may be made.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.paid.and_then(|paid| paid.checked_sub(CREDIT)).map_or(now, |due| due.max(now))
    }

    /// A comparison was made; `loaded` when a table was gone.
    pub(super) fn ran(&mut self, start: Instant, end: Instant, loaded: bool) {
        let share = if loaded { SHARE_OF_LOADS } else { SHARE };
        let price = PRICE.max(end.saturating_duration_since(start) * share);
        self.paid = Some(self.paid.map_or(end, |paid| paid.max(end)) + price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_few_comparisons_are_immediate_and_more_wait() {
        let (mut limiter, now) = (ComparisonLimiter::default(), Instant::now());
        for _ in 0..=CREDIT.as_secs() {
            assert_eq!(limiter.next(now), now);
            limiter.ran(now, now, false);
        }
        let next = limiter.next(now);
        assert_eq!(next, now + PRICE);
        limiter.ran(next, next, false);
        assert_eq!(limiter.next(next), next + PRICE, "and so on");
        let calm = next + CREDIT + PRICE;
        limiter.ran(calm, calm, false);
        assert_eq!(limiter.next(calm), calm, "after some calm");
    }

    /// How long ten comparisons of 2 s take, when each is asked for at once.
    fn ten_long_ones(loaded: bool) -> Duration {
        let (mut limiter, start) = (ComparisonLimiter::default(), Instant::now());
        let mut now = start;
        for _ in 0..10 {
            now = limiter.next(now);
            limiter.ran(now, now + millis(2_000), loaded);
            now += millis(2_000);
        }
        now - start
    }

    #[test]
    fn long_comparisons_leave_time_for_other_things() {
        let took = ten_long_ones(false);
        assert!(took >= millis(2_000) * 10 * (SHARE - 2), "{took:?}");
    }

    #[test]
    fn a_table_that_is_gone_waits_less_and_yet_not_all_time_goes_into_it() {
        let took = ten_long_ones(true);
        assert!((millis(26_000)..=millis(40_000)).contains(&took), "{took:?}");
    }

    #[test]
    fn doubts_that_wait_become_one() {
        let (doubts, receiver) = Doubts::new();
        assert!(!doubts.is_raised() && doubts.take().is_none());
        let touched = |family| {
            let mut touched = ChangedParts::default();
            touched.structure(family);
            touched
        };
        assert!(doubts.raise(Some("nft (pid 1)".to_owned()), touched(Family::Ipv4)));
        assert!(doubts.raise(None, touched(Family::Ipv6)));
        assert!(doubts.is_raised() && receiver.has_changed().expect("open"));
        let mut both = touched(Family::Ipv4);
        both.structure(Family::Ipv6);
        assert_eq!(doubts.take(), Some(Doubt { by: Some("nft (pid 1)".to_owned()), touched: both }));
        assert!(!doubts.is_raised());
        assert!(doubts.raise(None, ChangedParts::Everything));
        assert_eq!(doubts.take(), Some(Doubt { by: None, touched: ChangedParts::Everything }));
        drop(receiver);
        assert!(!doubts.raise(None, ChangedParts::Everything));
    }
}
