//! The sync loop: one thread owns the model and the [`Programmer`]; all others send events and receive reports. This
//! module decides when a sync runs and what follows a failure; the programmer changes the tables.
//!
//! The loop never sleeps while it could answer. minSyncPeriod, the wait after a failure and the limit of repairs are
//! points in time it waits for, beside events, questions (snapshots) and doubts (somebody else may have changed the
//! tables).

mod claims;
mod comparison;
mod doubt;
mod observer;
mod schedule;
mod snapshot;
mod sync;
mod thread;

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tracing::error;

pub use claims::{FollowedClaims, Touched};
pub use doubt::Doubts;
pub use observer::{Observer, Repair, Report, Synced};
pub use snapshot::{Snapshot, SnapshotError, Snapshots};
pub use thread::{EndError, SyncThread};

use crate::config::Options;
use crate::model::{Event, Family, Kind, Model};
use crate::programmer::{Failure, Programmer};
use crate::ruleset::Kernel;
use doubt::{ComparisonLimiter, Doubt};
use schedule::Schedule;
use snapshot::Question;

/// How often the loop checks whether it has waited long enough for the Node object.
const NODE_POLL: Duration = Duration::from_millis(200);
/// How often the kernel is compared with the mirror when no change by others is known.
const VERIFY_EVERY: Duration = Duration::from_secs(3600);

/// What wakes the loop.
enum Wake {
    Events(Option<Vec<Event>>),
    Asked(Question),
    Doubted,
    Due,
}

/// Keeps the kernel equal to the model.
pub struct Controller<K> {
    programmer: Programmer<K>,
    options: Options,
    model: Model,
    reports: watch::Sender<Report>,
    observers: Vec<Box<dyn Observer>>,
    /// Kept, so that the channel stays open.
    asking: Snapshots,
    asked: mpsc::Receiver<Question>,
    /// Dealt with as soon as `limiter` allows it.
    doubts: Doubts,
    doubted: watch::Receiver<Option<Doubt>>,
    limiter: ComparisonLimiter,
    schedule: Schedule,
    /// The process that owns the tables, while we wait for it to end.
    taken: Option<String>,
    started: Instant,
    verified: Instant,
}

impl<K: Kernel> Controller<K> {
    /// A controller that has programmed nothing yet, and where its reports can be watched.
    pub fn new(kernel: K, options: Options) -> (Self, watch::Receiver<Report>) {
        let (reports, receiver) = watch::channel(Report::default());
        let (asking, asked) = mpsc::channel(1);
        let (doubts, doubted) = Doubts::new();
        let (now, mut model) = (Instant::now(), Model::default());
        model.ignore_triggers_before(SystemTime::now());
        if !options.reset_for.is_zero() || !options.fast_path_devices.is_empty() {
            model.watch_departures();
        }
        let this = Self {
            programmer: Programmer::new(kernel, options.reset_for),
            schedule: Schedule::new(options.min_sync_period),
            options,
            model,
            reports,
            observers: Vec::new(),
            asking: Snapshots::new(asking),
            asked,
            doubts,
            doubted,
            limiter: ComparisonLimiter::default(),
            taken: None,
            started: now,
            verified: now,
        };
        (this, receiver)
    }

    /// Adds an observer.
    pub fn observe(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// A handle with which other threads ask for snapshots.
    pub fn snapshots(&self) -> Snapshots {
        self.asking.clone()
    }

    /// A handle with which other threads report that somebody changed the tables.
    pub fn doubts(&self) -> Doubts {
        self.doubts.clone()
    }

    /// Runs until all senders are gone. Rules stay in force afterwards. Call it on a thread of its own.
    pub fn run(mut self, mut events: mpsc::Receiver<Vec<Event>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(cause) => return error!(%cause, "cannot start the sync loop"),
        };
        self.programmer.read_ahead();
        loop {
            let due = tokio::time::Instant::from_std(self.next_due(Instant::now()));
            let wake = runtime.block_on(async {
                tokio::select! {
                    // In this order: however fast events come, questions are answered and repairs are made.
                    biased;
                    Some(question) = self.asked.recv() => Wake::Asked(question),
                    Ok(()) = self.doubted.changed() => Wake::Doubted,
                    batch = events.recv() => Wake::Events(batch),
                    () = tokio::time::sleep_until(due) => Wake::Due,
                }
            });
            match wake {
                Wake::Events(Some(batch)) => {
                    self.schedule.request(Instant::now());
                    self.fold(batch);
                    // All that queued up while the kernel was busy, but nothing that arrives from now on: a steady stream
                    // of events must not put off the sync.
                    for _ in 0..events.len() {
                        events.try_recv().into_iter().for_each(|batch| self.fold(batch));
                    }
                }
                // All senders are gone: the process ends.
                Wake::Events(None) => return self.finish(),
                Wake::Asked(question) => self.answer(question),
                Wake::Doubted | Wake::Due => {}
            }
            self.work(Instant::now());
        }
    }

    /// Sends changes that still wait for minSyncPeriod, and deletes what was to wait: no later sync would.
    fn finish(mut self) {
        if self.schedule.update_at().is_some() {
            self.sync(Instant::now(), true);
        }
        self.delete_all_chains();
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may have given up by now.
        match question {
            Question::Snapshot(asker) => drop(asker.send(self.snapshot())),
            Question::Confirm(changes, asker) => {
                // Chains that are to go anyway are no difference.
                self.delete_all_chains();
                drop(asker.send(self.programmer.confirm(changes)));
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            model: self.model.clone(),
            mirror: self.programmer.mirror().cloned(),
            report: self.reports.borrow().clone(),
        }
    }

    /// Applies events to the model and syncs at once; `received` is when the oldest of them arrived.
    #[cfg(any(test, feature = "testing"))]
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>, received: Instant) {
        let batch: Vec<Event> = events.into_iter().collect();
        if !batch.is_empty() {
            self.schedule.request(received);
        }
        self.fold(batch);
        self.sync(Instant::now(), true);
        self.delete_all_chains();
        while self.programmer.growing().next().is_some() {
            self.grow();
        }
    }

    fn fold(&mut self, batch: Vec<Event>) {
        self.tell(|observer| observer.received(&batch));
        batch.into_iter().for_each(|event| self.model.apply(event));
    }

    fn tell(&mut self, what: impl FnMut(&mut Box<dyn Observer>)) {
        self.observers.iter_mut().for_each(what);
    }

    /// The kernel.
    pub fn kernel(&mut self) -> &mut K {
        self.programmer.kernel()
    }

    /// What is known of the cluster.
    #[cfg(any(test, feature = "testing"))]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The mirror, when all tables are what it says.
    #[cfg(any(test, feature = "testing"))]
    pub fn mirror(&self) -> Option<&crate::diff::Mirror> {
        self.programmer.mirror().filter(|_| self.unknown().next().is_none())
    }

    /// The families whose table may not be as it should be.
    fn unknown(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| !self.programmer.knows(*family))
    }

    /// When there is something to do next, unless something wakes the loop before.
    fn next_due(&self, now: Instant) -> Instant {
        if self.programmer.growing().next().is_some() {
            return now;
        }
        let knows_any = self.programmer.known().next().is_some();
        // Before there is a mirror there is nothing to compare, however long that takes.
        let compare = if knows_any { self.compare_at(now) } else { now + VERIFY_EVERY };
        if !self.is_ready() {
            // Only the wait for the Node ends by itself.
            return if self.model.is_ready() { compare.min(now + NODE_POLL) } else { compare };
        }
        let update = self.schedule.update_at().filter(|_| knows_any);
        let retries = self.unknown().map(|family| self.schedule.retry_at(family).unwrap_or(now));
        let others = [self.programmer.forgets_at(), self.programmer.deletes_at(), self.programmer.looks_again_at()];
        retries.chain(update).chain(others.into_iter().flatten()).fold(compare, Instant::min)
    }

    /// Does what is due.
    fn work(&mut self, now: Instant) {
        self.sync(now, false);
        if self.programmer.known().next().is_some() && self.compare_at(now) <= now {
            if self.doubts.is_raised() { self.check_doubts() } else { self.look_after() }
        }
        self.delete_chains(now);
        self.look_again(now);
        self.grow();
    }

    /// Deletes affinity records that packets have written anew.
    fn look_again(&mut self, now: Instant) {
        for (family, result) in self.programmer.look_again(now) {
            if let Err(Failure { cause, .. }) = result {
                self.failed(family, &cause, now.elapsed());
            }
        }
    }

    /// Deletes the chains that wait for it, now.
    fn delete_all_chains(&mut self) {
        for _ in Family::ALL {
            self.programmer.deletes_at().into_iter().for_each(|at| self.delete_chains(at));
        }
    }

    /// Deletes the chains that are due.
    fn delete_chains(&mut self, now: Instant) {
        for (family, result) in self.programmer.delete_chains(now) {
            match result {
                Ok(None) => {}
                Ok(Some(cause)) => self.tell(|observer| observer.cleanup_failed(family, &cause)),
                Err(Failure { cause, .. }) => self.failed(family, &cause, now.elapsed()),
            }
        }
    }

    /// Takes a step in replacing maps by larger ones. Changes that arrive meanwhile come before the next step.
    fn grow(&mut self) {
        for family in self.programmer.growing() {
            let start = Instant::now();
            if let Err(Failure { cause, .. }) = self.programmer.grow(family) {
                self.failed(family, &cause, start.elapsed());
            }
        }
    }

    /// When the kernel, or what others touched of it, is to be compared with the mirror.
    fn compare_at(&self, now: Instant) -> Instant {
        let regular = self.verified + VERIFY_EVERY;
        if self.doubts.is_raised() { self.limiter.next(now).min(regular) } else { regular }
    }

    fn is_ready(&self) -> bool {
        self.model.is_ready()
            && self.model.has_listed(Kind::Node)
            && (self.model.node().is_some() || self.started.elapsed() >= self.options.node_wait)
            && (self.model.local_addresses().is_some() || !self.options.needs_addresses)
    }
}

#[cfg(test)]
mod tests;
