//! The thread that cleans, and the slot it takes its work from.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{Counts, FamilySweep, FlowTable, Sweep};
use crate::model::Family;

/// How often a walk is made again when the kernel says that it may have missed entries; the last result is used as it is.
const PASSES: u32 = 5;
/// How often a sweep is tried when the kernel fails.
const TRIES: u32 = 5;
/// The pause before the next try, times the number of tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What a cleaning run did in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaning {
    /// The family.
    pub family: Family,
    /// Frontends that were cleaned.
    pub frontends: usize,
    /// Time it took.
    pub duration: Duration,
    /// Entries the kernel told of.
    pub scanned: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// The kernel said of every pass that it may have missed entries.
    pub interrupted: bool,
    /// Why it failed; what was deleted until then stays deleted. It is tried again.
    pub error: Option<String>,
}

/// Is told of every run, on the cleaner's thread.
pub(super) type OnCleaned = Box<dyn FnMut(&Cleaning) + Send>;

/// Work for the cleaner: at most one sweep, which later ones are merged into.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<CleanerState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct CleanerState {
    waiting: Sweep,
    closed: bool,
}

impl Slot {
    /// Adds work. Never waits for the cleaner's work to end.
    pub(super) fn put(&self, sweep: Sweep) {
        self.lock().waiting.merge(sweep);
        self.changed.notify_one();
    }

    /// No more work comes; what waits is not done any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for work; `None` after [`Slot::close`].
    fn take(&self) -> Option<Sweep> {
        let state = self.lock();
        let wait = |state: &mut CleanerState| state.waiting.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| std::mem::take(&mut state.waiting))
    }

    /// Gives work back that failed; what was put in meanwhile is right where it differs.
    fn give_back(&self, family: Family, sweep: FamilySweep) {
        self.lock().waiting.family_mut(family).merge_earlier(sweep);
    }

    /// Sleeps, but not beyond [`Slot::close`].
    fn pause(&self, duration: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), duration, |state| !state.closed));
    }

    fn lock(&self) -> MutexGuard<'_, CleanerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the cleaner.
pub(super) fn start(slot: Arc<Slot>, table: impl FlowTable + 'static, report: OnCleaned) -> io::Result<JoinHandle<()>> {
    let work = move || Cleaner { slot, table, report, failures: HashMap::new() }.run();
    Builder::new().name("conntrack".into()).spawn(work)
}

struct Cleaner<T> {
    slot: Arc<Slot>,
    table: T,
    report: OnCleaned,
    /// Of each family, since its last success.
    failures: HashMap<Family, u32>,
}

impl<T: FlowTable> Cleaner<T> {
    fn run(mut self) {
        while let Some(mut sweep) = self.slot.take() {
            let mut failures = 0;
            for family in Family::ALL {
                let part = std::mem::take(sweep.family_mut(family));
                if !part.is_empty() {
                    failures = failures.max(self.clean(family, part));
                }
            }
            if failures > 0 {
                self.slot.pause(PAUSE * failures);
            }
        }
    }

    /// Cleans a family, tells of it, and says how often that has failed in a row; 0 also when it is given up.
    fn clean(&mut self, family: Family, sweep: FamilySweep) -> u32 {
        let start = Instant::now();
        let mut counts = Counts::default();
        let result = self.passes(family, &sweep, &mut counts);
        let Counts { scanned, deleted, interrupted } = counts;
        let frontends = sweep.len();
        let error = result.err().map(|error| error.to_string());
        let cleaning = Cleaning { family, frontends, duration: start.elapsed(), scanned, deleted, interrupted, error };
        debug!(%family, frontends, scanned, deleted, interrupted, duration = ?cleaning.duration, "conntrack cleaned");
        (self.report)(&cleaning);
        let Some(error) = cleaning.error else {
            self.failures.remove(&family);
            return 0;
        };
        let failures = self.failures.remove(&family).unwrap_or_default() + 1;
        if failures >= TRIES {
            warn!(%family, error, "cannot delete stale conntrack entries: flows may keep going to endpoints that are gone");
            return 0;
        }
        debug!(%family, error, "cannot delete stale conntrack entries; trying again");
        self.failures.insert(family, failures);
        self.slot.give_back(family, sweep);
        failures
    }

    fn passes(&mut self, family: Family, sweep: &FamilySweep, total: &mut Counts) -> io::Result<()> {
        for filter in sweep.filters(family) {
            let mut interrupted = false;
            for _ in 0..PASSES {
                let slot = &self.slot;
                let counts = self.table.sweep(&filter, &mut |entry| sweep.is_stale(entry), &mut |batch| {
                    // A sync may have come in between that allows what was stale before.
                    let state = slot.lock();
                    let later = state.waiting.family(family);
                    batch.iter_mut().for_each(|(entry, stale)| *stale = later.allows(entry) != Some(true));
                })?;
                total.scanned += counts.scanned;
                total.deleted += counts.deleted;
                interrupted = counts.interrupted;
                if !interrupted {
                    break;
                }
            }
            total.interrupted |= interrupted;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cleaner_tests.rs"]
mod tests;
