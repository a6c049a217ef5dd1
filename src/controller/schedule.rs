//! When each family is programmed next. Pure: callers pass the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::Family;

/// The first wait after a failed sync; doubles up to [`RETRY_MAX`]. Also how long a new event waits after a failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failed sync.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often the loop checks whether the process that owns the tables has ended.
const TAKEN_RETRY: Duration = Duration::from_millis(200);

/// What is due when (specification 9.1): changes at once, but not before `minSyncPeriod` after the last sync; a family whose
/// last attempt failed after a wait that doubles, or sooner when something changes.
#[derive(Debug)]
pub(super) struct Schedule {
    min_sync_period: Duration,
    /// When the oldest change that no sync has taken arrived.
    requested: Option<Instant>,
    last_sync: Option<Instant>,
    retries: BTreeMap<Family, Retry>,
}

/// A family whose last attempt failed.
#[derive(Debug)]
struct Retry {
    failures: u32,
    wait: Duration,
    /// When it is tried again in any case.
    at: Instant,
    /// When it may be tried again because something changed.
    at_request: Instant,
    requested: bool,
}

impl Schedule {
    pub(super) fn new(min_sync_period: Duration) -> Self {
        Self { min_sync_period, requested: None, last_sync: None, retries: BTreeMap::new() }
    }

    /// Something changed.
    pub(super) fn request(&mut self, now: Instant) {
        self.requested.get_or_insert(now);
        self.retries.values_mut().for_each(|retry| retry.requested = true);
    }

    /// When the oldest change that no sync has taken arrived.
    pub(super) fn requested(&self) -> Option<Instant> {
        self.requested
    }

    /// When families whose tables are known take over changes; `None` while there are none.
    pub(super) fn update_at(&self) -> Option<Instant> {
        let requested = self.requested?;
        Some(self.last_sync.map_or(requested, |last| requested.max(last + self.min_sync_period)))
    }

    /// When a family whose table is not known is tried; `None` when nothing is in the way.
    pub(super) fn retry_at(&self, family: Family) -> Option<Instant> {
        let retry = self.retries.get(&family)?;
        Some(if retry.requested { retry.at.min(retry.at_request) } else { retry.at })
    }

    /// A sync has taken all changes.
    pub(super) fn took_changes(&mut self) {
        self.requested = None;
    }

    /// A sync of a family has succeeded.
    pub(super) fn succeeded(&mut self, family: Family, now: Instant) {
        self.last_sync = Some(now);
        self.retries.remove(&family);
    }

    /// A sync of a family that took so long has failed; how long is waited for the next attempt.
    pub(super) fn failed(&mut self, family: Family, now: Instant, took: Duration) -> Duration {
        let before = self.retries.get(&family);
        let wait = before.map_or(RETRY_MIN, |retry| (retry.wait * 2).clamp(RETRY_MIN, RETRY_MAX));
        let failures = before.map_or(0, |retry| retry.failures) + 1;
        // Requests alone let at most half of the time go into a family that fails: the other one has changes too.
        let at_request = now + RETRY_MIN.max(took);
        let retry = Retry { failures, wait, at: now + wait, at_request, requested: false };
        self.retries.insert(family, retry);
        wait
    }

    /// Another process owns the tables. It is polled, because nothing announces its end.
    pub(super) fn taken(&mut self, family: Family, now: Instant) {
        let failures = self.retries.get(&family).map_or(0, |retry| retry.failures);
        let at = now + TAKEN_RETRY;
        let retry = Retry { failures, wait: Duration::ZERO, at, at_request: at, requested: false };
        self.retries.insert(family, retry);
    }

    /// Failed attempts since the last success, in the family that has most.
    pub(super) fn failures(&self) -> u32 {
        self.retries.values().map(|retry| retry.failures).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::Ipv4;
    const V6: Family = Family::Ipv6;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_change_is_due_at_once_and_the_next_after_the_period() {
        let (mut schedule, start) = (Schedule::new(seconds(30)), Instant::now());
        assert_eq!(schedule.update_at(), None);
        schedule.request(start);
        assert_eq!(schedule.update_at(), Some(start));
        schedule.took_changes();
        schedule.succeeded(V4, start + seconds(1));
        assert_eq!(schedule.update_at(), None, "nothing changed since");
        schedule.request(start + seconds(2));
        schedule.request(start + seconds(3));
        assert_eq!(schedule.requested(), Some(start + seconds(2)));
        assert_eq!(schedule.update_at(), Some(start + seconds(31)));
        schedule.took_changes();
        schedule.succeeded(V4, start + seconds(31));
        schedule.request(start + seconds(90));
        assert_eq!(schedule.update_at(), Some(start + seconds(90)));
    }

    #[test]
    fn a_request_runs_it_sooner_whatever_the_wait() {
        let (mut schedule, mut now) = (Schedule::new(Duration::ZERO), Instant::now());
        let waits: Vec<Duration> = (0..12).map(|_| schedule.failed(V4, now, Duration::ZERO)).collect();
        assert_eq!((waits[0], waits[1], waits[11]), (RETRY_MIN, RETRY_MIN * 2, RETRY_MAX));
        assert_eq!((schedule.retry_at(V4), schedule.failures()), (Some(now + RETRY_MAX), 12));
        schedule.request(now + Duration::from_millis(1));
        assert_eq!(schedule.retry_at(V4), Some(now + RETRY_MIN));
        now += seconds(7);
        schedule.failed(V4, now, Duration::ZERO);
        assert_eq!(schedule.retry_at(V4), Some(now + RETRY_MAX), "one request, one attempt");
    }

    #[test]
    fn a_family_that_fails_leaves_the_other_its_time() {
        let (mut schedule, now) = (Schedule::new(Duration::ZERO), Instant::now());
        for _ in 0..12 {
            schedule.failed(V6, now, seconds(9));
        }
        schedule.request(now);
        assert_eq!(schedule.retry_at(V6), Some(now + seconds(9)));
        assert_eq!((schedule.update_at(), schedule.retry_at(V4)), (Some(now), None));
        schedule.succeeded(V6, now);
        assert_eq!((schedule.retry_at(V6), schedule.failures()), (None, 0));
    }

    #[test]
    fn whoever_has_the_tables_is_asked_often() {
        let (mut schedule, now) = (Schedule::new(Duration::ZERO), Instant::now());
        schedule.taken(V4, now);
        assert_eq!((schedule.retry_at(V4), schedule.failures()), (Some(now + TAKEN_RETRY), 0));
        assert_eq!(schedule.failed(V4, now, Duration::ZERO), RETRY_MIN);
    }
}
