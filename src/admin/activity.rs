//! What the sync loop did lately, remembered for `portway status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::controller::{Observer, Repair, Synced};
use crate::model::{Event, Family};
use crate::ruleset::KernelError;

/// What happened last, of each kind.
#[derive(Debug, Clone, Default)]
pub(super) struct LastActivity {
    /// A source sent objects.
    pub(super) event: Option<Instant>,
    /// A sync succeeded, and how long it took.
    pub(super) sync: Option<(Instant, Duration)>,
    /// From the change of a pod or Service to the kernel.
    pub(super) latency: Option<Duration>,
    /// Why syncs fail, by family; without an entry after a success.
    pub(super) failures: BTreeMap<Family, String>,
    /// The process that has the tables, while its end is waited for; `None` after a success or a failure.
    pub(super) waiting: Option<String>,
    /// How often the tables had been changed by somebody else and were repaired, since the start.
    pub(super) repairs: usize,
    /// The last time, and what it was.
    pub(super) repair: Option<(Instant, String)>,
}

/// Shared between the sync loop, which writes, and the admin socket.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<LastActivity>>);

impl Activity {
    /// The tables are ours, and were made right.
    pub(super) fn has_tables(&self) -> bool {
        let seen = self.lock();
        seen.sync.is_some() && seen.waiting.is_none()
    }

    pub(super) fn seen(&self) -> LastActivity {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, LastActivity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Activity {
    fn received(&mut self, batch: &[Event]) {
        // The addresses of this host come from elsewhere.
        if batch.iter().any(|event| !matches!(event, Event::LocalAddresses(_))) {
            self.lock().event = Some(Instant::now());
        }
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        let now = SystemTime::now();
        let newest = sync.changes.triggers.values().flatten().max();
        let mut seen = self.lock();
        // A full sync deals with changes from before the start.
        if let Some(newest) = newest.filter(|_| !sync.full) {
            seen.latency = now.duration_since(*newest).ok();
        }
        seen.sync = Some((Instant::now(), sync.duration));
        seen.failures.remove(&sync.family);
        seen.waiting = None;
    }

    fn failed(&mut self, family: Family, cause: &KernelError, _: Duration) {
        let mut seen = self.lock();
        seen.failures.insert(family, cause.to_string());
        seen.waiting = None;
    }

    fn waiting(&mut self, cause: &KernelError) {
        self.lock().waiting = Some(cause.to_string());
    }

    fn repaired(&mut self, repair: &Repair) {
        let mut seen = self.lock();
        seen.repairs += 1;
        seen.repair = Some((Instant::now(), repair.to_string()));
    }
}
