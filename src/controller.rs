//! The sync loop: one thread owns the model and the [`Programmer`]; everybody else sends events and gets reports. This room
//! decides when something is done, and what follows a failure; what is done is the programmer's.
//!
//! The loop never sleeps while something could be answered: minSyncPeriod, the wait after a failure and the pace of repairs
//! are points in time it waits for, beside events, doubts and questions.

mod doubt;
mod observer;
mod schedule;
mod snapshot;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

pub use doubt::Doubts;
pub use observer::{Observer, Repair, Report, Synced};
pub use snapshot::{Snapshot, SnapshotError, Snapshots};

use crate::config::Options;
use crate::diff::Mirror;
use crate::model::{Changes, Event, Family, Kind, Model, ObjectKey};
use crate::programmer::{Failure, Programmer, Sent};
use crate::ruleset::{Kernel, KernelError, Touched};
use doubt::{Doubt, Pace};
use schedule::Schedule;
use snapshot::Question;

/// How often is looked whether the Node has been waited for long enough.
const NODE_POLL: Duration = Duration::from_millis(200);
/// Elements the kernel may refuse in one sync, with their Services set aside, before the loop waits and tries again.
const REFUSALS_MAX: usize = 8;
/// Lines that are logged at once of what Services do not get: a Service can claim thousands of ports of another one.
const OBJECTIONS_TOLD: usize = 20;
/// How often the kernel is compared with the mirror although nothing is in doubt.
const VERIFY_EVERY: Duration = Duration::from_secs(3600);

/// What wakes the loop.
enum Wake {
    Events(Option<Vec<Event>>),
    Asked(Question),
    Doubted,
    Due,
}

/// A sync that is going on.
struct Sync {
    start: Instant,
    /// When the oldest event it deals with arrived.
    received: Instant,
    changes: Changes,
    succeeded: bool,
    added: usize,
    deleted: usize,
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
    /// Dealt with as soon as `pace` allows it.
    doubts: Doubts,
    doubted: watch::Receiver<Option<Doubt>>,
    pace: Pace,
    schedule: Schedule,
    /// Who has the tables that we wait for.
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
        let now = Instant::now();
        let this = Self {
            programmer: Programmer::new(kernel),
            schedule: Schedule::new(options.min_sync_period),
            options,
            model: Model::default(),
            reports,
            observers: Vec::new(),
            asking: Snapshots::new(asking),
            asked,
            doubts,
            doubted,
            pace: Pace::default(),
            taken: None,
            started: now,
            verified: now,
        };
        (this, receiver)
    }

    /// Adds somebody who wants to know.
    pub fn observe(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// Where others ask what the loop knows.
    pub fn snapshots(&self) -> Snapshots {
        self.asking.clone()
    }

    /// Where others say that somebody changed the tables.
    pub fn doubts(&self) -> Doubts {
        self.doubts.clone()
    }

    /// Runs until all senders are gone. Rules stay in force afterwards. Call it on a thread of its own.
    pub fn run(mut self, mut events: mpsc::Receiver<Vec<Event>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(cause) => return error!(%cause, "cannot start the sync loop"),
        };
        loop {
            let due = tokio::time::Instant::from_std(self.next_due(Instant::now()));
            let wake = runtime.block_on(async {
                tokio::select! {
                    // However fast events come, who asks is answered, and repairs are made.
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
                    // All that have queued up while the kernel was busy. Not what arrives meanwhile: however fast events
                    // come, they must not keep the sync away.
                    for _ in 0..events.len() {
                        events.try_recv().into_iter().for_each(|batch| self.fold(batch));
                    }
                }
                // What still waits for its time is in the manifests or in the API: the next process finds it.
                Wake::Events(None) => return self.finish(),
                Wake::Asked(question) => self.answer(question),
                Wake::Doubted | Wake::Due => {}
            }
            self.work(Instant::now());
        }
    }

    /// Sends what waits for minSyncPeriod, where the kernel can take it: nobody else will.
    fn finish(mut self) {
        if self.schedule.update_at().is_some() {
            self.sync(Instant::now(), true);
        }
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may have given up by now.
        match question {
            Question::Snapshot(asker) => drop(asker.send(self.snapshot())),
            Question::Confirm(changes, asker) => drop(asker.send(self.programmer.confirm(changes))),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            model: self.model.clone(),
            mirror: self.programmer.mirror().cloned(),
            report: self.reports.borrow().clone(),
        }
    }

    /// Folds events and brings the kernel up to date at once; `received` is when the oldest of them arrived.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>, received: Instant) {
        let batch: Vec<Event> = events.into_iter().collect();
        if !batch.is_empty() {
            self.schedule.request(received);
        }
        self.fold(batch);
        self.sync(Instant::now(), true);
    }

    fn fold(&mut self, batch: Vec<Event>) {
        self.tell(|observer| observer.received(&batch));
        batch.into_iter().for_each(|event| self.model.apply(event));
    }

    fn tell(&mut self, what: impl FnMut(&mut Box<dyn Observer>)) {
        self.observers.iter_mut().for_each(what);
    }

    /// The kernel, for tests.
    pub fn kernel(&mut self) -> &mut K {
        self.programmer.kernel()
    }

    /// What is known of the cluster.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The mirror, when all tables are what it says.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.programmer.mirror().filter(|_| self.unknown().next().is_none())
    }

    /// The families whose table may not be as it should be.
    fn unknown(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| !self.programmer.knows(*family))
    }

    /// When there is something to do next, unless something wakes the loop before.
    fn next_due(&self, now: Instant) -> Instant {
        let knows_any = self.programmer.known().next().is_some();
        // Before there is a mirror there is nothing to compare, however long that takes.
        let compare = if knows_any { self.compare_at(now) } else { now + VERIFY_EVERY };
        if !self.is_ready() {
            // Only the wait for the Node ends by itself.
            return if self.model.is_ready() { compare.min(now + NODE_POLL) } else { compare };
        }
        let update = self.schedule.update_at().filter(|_| knows_any);
        let retries = self.unknown().map(|family| self.schedule.retry_at(family).unwrap_or(now));
        retries.chain(update).fold(compare, Instant::min)
    }

    /// Does what is due.
    fn work(&mut self, now: Instant) {
        self.sync(now, false);
        if self.programmer.known().next().is_some() && self.compare_at(now) <= now {
            if self.doubts.is_raised() { self.settle() } else { self.look_after() }
        }
    }

    /// When the kernel, or what others touched of it, is to be compared with the mirror.
    fn compare_at(&self, now: Instant) -> Instant {
        let regular = self.verified + VERIFY_EVERY;
        if self.doubts.is_raised() { self.pace.next(now).min(regular) } else { regular }
    }

    fn is_ready(&self) -> bool {
        self.model.is_ready()
            && self.model.has_listed(Kind::Node)
            && (self.model.node().is_some() || self.started.elapsed() >= self.options.node_wait)
            && (self.model.local_addresses().is_some() || !self.options.needs_addresses)
    }

    /// Has families whose table is known take over changes, when it is time or `at_once`, and tries those whose table is not.
    fn sync(&mut self, now: Instant, at_once: bool) {
        if !self.is_ready() {
            return;
        }
        let knows_any = self.programmer.known().next().is_some();
        let updates = knows_any && (at_once || self.schedule.update_at().is_some_and(|at| at <= now));
        let due = |family: &Family| self.schedule.retry_at(*family).is_none_or(|at| at <= now);
        let mut rebuilds: Vec<Family> = self.unknown().filter(due).collect();
        if !rebuilds.is_empty() && !self.claim(&rebuilds) {
            rebuilds.clear();
        }
        if !updates && rebuilds.is_empty() {
            return;
        }
        if !rebuilds.is_empty() || !self.model.pending().is_empty() {
            self.tell(|observer| observer.requested());
        }
        let received = self.schedule.requested().unwrap_or(now);
        // A family that is tried alone leaves them to the one whose time has not come.
        let takes_changes = updates || !knows_any;
        let changes = if takes_changes { self.model.take_changes() } else { Changes::default() };
        if takes_changes {
            self.schedule.took_changes();
        }
        let start = Instant::now();
        let mut sync = Sync { start, received, changes, succeeded: false, added: 0, deleted: 0 };
        if updates {
            let settings = self.options.settings(&self.model);
            let results = self.programmer.update(&settings, &self.model, &sync.changes);
            self.report_objections();
            for (family, result) in results {
                self.conclude(family, result, false, &mut sync);
            }
        }
        if !knows_any {
            // Whatever it was, it was before this reading.
            self.doubts.take();
        }
        for family in rebuilds {
            sync.start = Instant::now();
            let result = self.rebuild(family);
            self.conclude(family, result, true, &mut sync);
        }
        self.report(&sync);
    }

    /// Whether the tables are ours to change. If not, it is asked again soon: nobody tells us when they are.
    fn claim(&mut self, families: &[Family]) -> bool {
        match self.programmer.claim() {
            Ok(()) => {
                if self.taken.take().is_some() {
                    info!("the tables are free: taking over");
                }
                true
            }
            Err(cause) => {
                if !cause.is_taken() {
                    self.tell(|observer| observer.requested());
                }
                families.iter().for_each(|family| self.failed(*family, &cause, Duration::ZERO));
                false
            }
        }
    }

    fn rebuild(&mut self, family: Family) -> Result<Sent, Failure> {
        let settings = self.options.settings(&self.model);
        let result = self.programmer.rebuild(family, settings, &self.model);
        self.report_objections();
        result
    }

    fn report_objections(&mut self) {
        for (_, objections) in self.programmer.take_objections() {
            for objection in objections.iter().take(OBJECTIONS_TOLD) {
                warn!("{objection}");
            }
            let more = objections.len().saturating_sub(OBJECTIONS_TOLD);
            if more > 0 {
                warn!(more, "more of the kind; `portway faults` shows them");
            }
            self.tell(|observer| observer.objected(&objections));
        }
    }

    /// Deals with what came of a family's sync. Where the kernel refused an element, goes on without its Service.
    fn conclude(&mut self, family: Family, mut result: Result<Sent, Failure>, rebuilt: bool, sync: &mut Sync) {
        let mut full = rebuilt;
        for _ in 0..REFUSALS_MAX {
            let Err(Failure { cause, blamed }) = &result else { break };
            if blamed.is_empty() {
                break;
            }
            // Without knowing what the kernel holds it might be somebody else's doing.
            if full {
                self.set_aside(family, blamed, cause);
            }
            full = true;
            result = self.rebuild(family);
        }
        match result {
            Ok(sent) => self.succeeded(family, &sent, full, sync),
            Err(Failure { cause, .. }) => self.failed(family, &cause, sync.start.elapsed()),
        }
    }

    /// One bad element must not keep all others out of the kernel: goes on without the Services it belongs to, until they
    /// change or the table is verified.
    fn set_aside(&mut self, family: Family, services: &[ObjectKey], cause: &KernelError) {
        for service in services {
            error!(%service, %family, %cause, "Service {service} is set aside: nothing of it is in force in {family} until it changes");
            self.model.set_aside(service.clone(), family, cause.to_string());
        }
    }

    fn succeeded(&mut self, family: Family, sent: &Sent, full: bool, sync: &mut Sync) {
        self.schedule.succeeded(family, Instant::now());
        sync.succeeded = true;
        sync.added += sent.added;
        sync.deleted += sent.deleted;
        if let Some(cause) = &sent.not_deleted {
            self.tell(|observer| observer.cleanup_failed(family, cause));
        }
        // A family that is not served has a table that must not be there, and nothing to tell of.
        let Some(mirror) = self.programmer.mirror().filter(|mirror| mirror.families().any(|f| f == family)) else {
            return;
        };
        let done = Synced {
            family,
            model: &self.model,
            mirror,
            changes: &sync.changes,
            full,
            elements: (sent.added, sent.deleted),
            transaction: &sent.changes,
            duration: sync.start.elapsed(),
        };
        self.observers.iter_mut().for_each(|observer| observer.synced(&done));
    }

    fn failed(&mut self, family: Family, cause: &KernelError, duration: Duration) {
        let now = Instant::now();
        if cause.is_taken() {
            self.schedule.taken(family, now);
            return self.wait_for_others(cause);
        }
        self.tell(|observer| observer.failed(family, cause, duration));
        if let KernelError::Refused { errno: libc::ENFILE, .. } = cause {
            // It cannot happen; should the kernel count otherwise than we do, more room helps.
            self.options.sizing.headroom = self.options.sizing.headroom.saturating_mul(2);
        }
        let wait = self.schedule.failed(family, now, duration);
        self.reports.send_modify(|report| report.failures = self.schedule.failures());
        error!(%family, %cause, retry_in = ?wait, "sync failed; the rules in the kernel stay as they are");
    }

    fn wait_for_others(&mut self, cause: &KernelError) {
        let words = cause.to_string();
        if self.taken.as_ref() != Some(&words) {
            warn!(%cause, "waiting; the rules in the kernel stay as they are");
            self.tell(|observer| observer.waiting(cause));
            self.taken = Some(words);
        }
    }

    fn report(&mut self, sync: &Sync) {
        let (services, latency) = (self.model.service_count(), sync.received.elapsed());
        let Sync { added, deleted, .. } = *sync;
        let failures = self.schedule.failures();
        if !sync.succeeded {
            return;
        }
        let mut first = false;
        self.reports.send_modify(|report| {
            first = report.syncs == 0;
            *report = Report { syncs: report.syncs + 1, services, added, deleted, latency, failures };
        });
        if first {
            info!(services, added, deleted, ?latency, "first sync done");
        }
        debug!(services, added, deleted, ?latency, "synced");
    }

    /// Reads the tables back and repairs what differs from the mirror.
    pub fn verify(&mut self) {
        let by = self.doubts.take().and_then(|doubt| doubt.by);
        self.compare(Doubt { by, touched: Touched::Everything });
    }

    /// Reads back what others are said to have touched, and repairs what differs from the mirror.
    pub fn settle(&mut self) {
        if let Some(doubt) = self.doubts.take() {
            self.compare(doubt);
        }
    }

    fn compare(&mut self, doubt: Doubt) {
        let start = Instant::now();
        let (mut repair, mut repaired, mut whole) =
            (Repair { by: doubt.by, ..Repair::default() }, false, BTreeSet::new());
        for family in self.programmer.known() {
            let part = match &doubt.touched {
                Touched::Everything => None,
                Touched::Parts(parts) => match parts.get(&family) {
                    None => continue,
                    part => part,
                },
            };
            let begin = Instant::now();
            match self.programmer.compare(family, part) {
                Ok((sent, read_all)) => {
                    whole.extend(read_all.then_some(family));
                    repaired |= !sent.is_nothing();
                    repair.added += sent.added;
                    repair.deleted += sent.deleted;
                }
                Err(Failure { cause, .. }) => {
                    // The table may be wrong: somebody waits for its repair from now on.
                    self.tell(|observer| observer.requested());
                    self.failed(family, &cause, begin.elapsed());
                    whole.insert(family);
                }
            }
        }
        if repaired {
            warn!(took = ?start.elapsed(), ?whole, "the tables were {repair}");
            self.tell(|observer| observer.repaired(&repair));
        } else {
            debug!(took = ?start.elapsed(), ?whole, "the tables are as they should be");
        }
        let end = Instant::now();
        self.pace.ran(start, end);
        if matches!(doubt.touched, Touched::Everything) || !whole.is_empty() {
            self.verified = end;
            self.release();
        }
    }

    /// Once in a while. A table that only we can change is as we left it: listing it would cost seconds at worst. Services
    /// that were set aside get another chance.
    fn look_after(&mut self) {
        if !self.programmer.guards_all() {
            return self.verify();
        }
        let start = Instant::now();
        self.verified = start;
        for family in self.programmer.known() {
            if let Err(Failure { cause, .. }) = self.programmer.forget_orphans(family) {
                self.failed(family, &cause, start.elapsed());
            }
        }
        self.release();
    }

    /// Gives Services that were set aside another chance.
    fn release(&mut self) {
        if self.model.all_set_aside().len() > 0 {
            self.model.release();
            self.sync(Instant::now(), true);
        }
    }
}

#[cfg(test)]
mod tests;
