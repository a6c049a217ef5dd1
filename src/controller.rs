//! The sync loop: one thread owns the model, the mirror and the kernel; everybody else sends events and gets reports.

mod snapshot;

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

pub use snapshot::{Snapshot, SnapshotError, Snapshots};

use crate::config::Options;
use crate::diff::{Hints, Mirror, Objection, StaleAffinity, Update, stale_records};
use crate::model::{Changes, Event, Family, Kind, Model, ObjectKey};
use crate::ruleset::{Kernel, KernelError, SetId, Table, Transaction};

/// The first wait after a failed sync; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failed sync.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Elements the kernel may refuse in one sync, with their Services set aside, before the loop waits and tries again.
const REFUSALS_MAX: usize = 8;
/// Lines a sync logs of what Services do not get: a Service can claim thousands of ports of another one.
const OBJECTIONS_TOLD: usize = 20;
/// How often the kernel is compared with the mirror although nothing is in doubt.
const VERIFY_EVERY: Duration = Duration::from_secs(3600);

/// What the last sync did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Number of syncs so far; 0 before the first.
    pub syncs: u64,
    /// Services known.
    pub services: usize,
    /// Elements the last sync added to sets and maps.
    pub added: usize,
    /// Elements the last sync deleted.
    pub deleted: usize,
    /// From the arrival of the oldest event to the commit in the kernel.
    pub latency: Duration,
    /// Failed attempts since the last success.
    pub failures: u32,
}

/// Is told what the sync loop does: metrics, health, conntrack clean-up, health-check ports. Called on the loop's thread,
/// so it must hand long work to somebody else.
pub trait Observer: Send {
    /// Events arrived and are about to be folded into the model.
    fn received(&mut self, _batch: &[Event]) {}
    /// Something changed that a sync has to deal with.
    fn requested(&mut self) {}
    /// The kernel is equal to the mirror again; called after every successful sync, also one that sent nothing.
    fn synced(&mut self, _sync: &Synced<'_>) {}
    /// The kernel refused, or what somebody else changed could not be compared or repaired; it will be tried again.
    fn failed(&mut self, _cause: &KernelError, _duration: Duration) {}
    /// The rules are right, but chains nobody uses any more could not be deleted.
    fn cleanup_failed(&mut self, _cause: &KernelError) {}
    /// A comparison with the kernel found and repaired this many elements changed by somebody else.
    fn repaired(&mut self, _elements: usize) {}
}

/// A successful sync.
#[derive(Debug)]
pub struct Synced<'a> {
    /// All objects.
    pub model: &'a Model,
    /// What the kernel holds now; `mirror.settings()` are in force.
    pub mirror: &'a Mirror,
    /// What had changed since the last attempt. A full sync deals with everything, whatever this says.
    pub changes: &'a Changes,
    /// Everything was compared with the kernel (first sync, or after a failure), not just the changes.
    pub full: bool,
    /// What was sent; without operations when nothing had to be.
    pub transaction: &'a Transaction,
    /// Time the sync took, without waiting for it.
    pub duration: Duration,
}

/// A failed sync.
struct Failure {
    cause: KernelError,
    /// The Services whose element was refused, where that is known.
    blamed: Vec<ObjectKey>,
}

impl From<KernelError> for Failure {
    fn from(cause: KernelError) -> Self {
        Self { cause, blamed: Vec::new() }
    }
}

/// What wakes the loop.
enum Wake {
    Events(Option<Vec<Event>>),
    Asked(SyncSender<Snapshot>),
    Tick,
}

/// Keeps the kernel equal to the model.
pub struct Controller<K> {
    kernel: K,
    options: Options,
    model: Model,
    mirror: Option<Mirror>,
    reports: watch::Sender<Report>,
    observers: Vec<Box<dyn Observer>>,
    /// Kept, so that the channel stays open.
    asking: Snapshots,
    asked: mpsc::Receiver<SyncSender<Snapshot>>,
    started: Instant,
    verified: Instant,
    last_sync: Option<Instant>,
    retry: Option<(Instant, Duration)>,
}

impl<K: Kernel> Controller<K> {
    /// A controller that has programmed nothing yet, and where its reports can be watched.
    pub fn new(kernel: K, options: Options) -> (Self, watch::Receiver<Report>) {
        let (reports, receiver) = watch::channel(Report::default());
        let (asking, asked) = mpsc::channel(1);
        let now = Instant::now();
        let this = Self {
            kernel,
            options,
            model: Model::default(),
            mirror: None,
            reports,
            observers: Vec::new(),
            asking: Snapshots(asking),
            asked,
            started: now,
            verified: now,
            last_sync: None,
            retry: None,
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

    /// Runs until all senders are gone. Rules stay in force afterwards. Call it on a thread of its own.
    pub fn run(mut self, mut events: mpsc::Receiver<Vec<Event>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(cause) => return error!(%cause, "cannot start the sync loop"),
        };
        loop {
            let patience = self.patience();
            let wake = runtime.block_on(async {
                tokio::select! {
                    batch = events.recv() => Wake::Events(batch),
                    Some(asked) = self.asked.recv() => Wake::Asked(asked),
                    () = tokio::time::sleep(patience) => Wake::Tick,
                }
            });
            match wake {
                Wake::Events(Some(batch)) => self.collect(batch, &mut events),
                Wake::Events(None) => return,
                // Whoever asked may have given up by now.
                Wake::Asked(asked) => drop(asked.send(self.snapshot())),
                Wake::Tick => self.tick(Instant::now()),
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { model: self.model.clone(), mirror: self.mirror.clone(), report: self.reports.borrow().clone() }
    }

    /// Takes a batch and all that have queued up behind it while the kernel was busy, then syncs once.
    fn collect(&mut self, batch: Vec<Event>, events: &mut mpsc::Receiver<Vec<Event>>) {
        let received = Instant::now();
        if let Some(wait) =
            self.last_sync.and_then(|at| (at + self.options.min_sync_period).checked_duration_since(received))
        {
            std::thread::sleep(wait);
        }
        let mut next = Some(batch);
        while let Some(batch) = next {
            self.fold(batch);
            next = events.try_recv().ok();
        }
        self.sync(received);
    }

    /// Folds events and brings the kernel up to date; `received` is when the oldest of them arrived.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>, received: Instant) {
        self.fold(events.into_iter().collect());
        self.sync(received);
    }

    fn fold(&mut self, batch: Vec<Event>) {
        self.observers.iter_mut().for_each(|observer| observer.received(&batch));
        batch.into_iter().for_each(|event| self.model.apply(event));
    }

    /// The kernel, for tests.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// What is known of the cluster.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The mirror, once there was a first sync.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// Reads the tables back and repairs what differs from the mirror.
    pub fn verify(&mut self) {
        let Some(mirror) = self.mirror.take() else {
            return;
        };
        let start = Instant::now();
        match self.read_tables().map_err(Failure::from).and_then(|tables| self.rebase_onto(mirror, &tables)) {
            Ok(sent) if !sent.is_empty() => {
                let (added, deleted) = sent.element_counts();
                warn!(added, deleted, "the table was changed by someone else; repaired");
                self.observers.iter_mut().for_each(|observer| observer.repaired(added + deleted));
            }
            Ok(_) => {}
            Err(Failure { cause, .. }) => {
                // The table may be wrong: somebody waits for its repair from now on.
                self.observers.iter_mut().for_each(|observer| observer.requested());
                self.observers.iter_mut().for_each(|observer| observer.failed(&cause, start.elapsed()));
                self.failed(&cause);
            }
        }
        self.verified = Instant::now();
        if self.model.all_set_aside().len() > 0 {
            self.model.release();
            self.sync(self.verified);
        }
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        let verify = (self.verified + VERIFY_EVERY).saturating_duration_since(now);
        let retry = self.retry.map_or(verify, |(at, _)| at.saturating_duration_since(now));
        let node = if self.mirror.is_none() && self.model.is_ready() { Duration::from_millis(200) } else { verify };
        verify.min(retry).min(node)
    }

    fn tick(&mut self, now: Instant) {
        if self.mirror.is_none() {
            if self.retry.is_none_or(|(at, _)| at <= now) {
                self.sync(now);
            }
        } else if self.verified + VERIFY_EVERY <= now {
            self.verify();
        }
    }

    fn is_ready(&self) -> bool {
        self.model.is_ready()
            && self.model.has_listed(Kind::Node)
            && (self.model.node().is_some() || self.started.elapsed() >= self.options.node_wait)
            && (self.model.local_addresses().is_some() || !self.options.needs_addresses)
    }

    fn sync(&mut self, received: Instant) {
        if !self.is_ready() || (self.mirror.is_none() && self.retry.is_some_and(|(at, _)| at > Instant::now())) {
            return;
        }
        if self.mirror.is_none() || !self.model.pending().is_empty() {
            self.observers.iter_mut().for_each(|observer| observer.requested());
        }
        let start = Instant::now();
        let changes = self.model.take_changes();
        let mut full = self.mirror.is_none();
        let mut result = match self.mirror.take() {
            None => self.first_sync(),
            Some(mirror) => self.next_sync(mirror, &changes),
        };
        for _ in 0..REFUSALS_MAX {
            let Err(Failure { cause, blamed }) = &result else { break };
            if blamed.is_empty() {
                break;
            }
            // Without knowing what the kernel holds it might be somebody else's doing.
            if full {
                self.set_aside(blamed, cause);
            }
            full = true;
            result = self.first_sync();
        }
        match result {
            Ok(transaction) => self.succeeded(&transaction, &changes, full, start.elapsed(), received.elapsed()),
            Err(Failure { cause, .. }) => {
                self.observers.iter_mut().for_each(|observer| observer.failed(&cause, start.elapsed()));
                self.failed(&cause);
            }
        }
    }

    /// One bad element must not keep all others out of the kernel: goes on without the Services it belongs to, until they
    /// change or the table is verified.
    fn set_aside(&mut self, services: &[ObjectKey], cause: &KernelError) {
        for service in services {
            error!(%service, %cause, "Service {service} is set aside: none of it is in force until it changes");
            self.model.set_aside(service.clone(), cause.to_string());
        }
    }

    /// Reads back what the kernel holds, and sends the difference only: after a restart with nothing changed, nothing.
    fn first_sync(&mut self) -> Result<Transaction, Failure> {
        let settings = self.options.settings(&self.model);
        let tables = self.read_tables()?;
        let hints = tables.iter().map(|(family, table)| (*family, Hints::of(table))).collect();
        let (mirror, objections) = Mirror::build(settings, &self.model, &hints);
        report(&objections);
        self.rebase_onto(mirror, &tables)
    }

    fn read_tables(&mut self) -> Result<HashMap<Family, Table>, KernelError> {
        let mut tables = HashMap::new();
        for family in Family::ALL {
            if let Some(table) = self.kernel.read(family)? {
                tables.insert(family, table);
            }
        }
        Ok(tables)
    }

    /// Makes the kernel, which holds these tables, equal to a mirror.
    fn rebase_onto(&mut self, mirror: Mirror, tables: &HashMap<Family, Table>) -> Result<Transaction, Failure> {
        let (mut main, mut after) = (Transaction::default(), Transaction::default());
        for family in Family::ALL {
            let (change, leftovers) = mirror.rebase(family, tables.get(&family));
            main.ops.extend(change.ops);
            after.ops.extend(leftovers.ops);
        }
        self.commit(&mirror, &main, &after)?;
        self.forget_orphans(&mirror)?;
        self.mirror = Some(mirror);
        Ok(main)
    }

    /// Deletes affinity records that no sticky frontend stands behind.
    fn forget_orphans(&mut self, mirror: &Mirror) -> Result<(), KernelError> {
        for family in mirror.families().collect::<Vec<_>>() {
            let records = self.kernel.read_set(family, SetId::Affinity)?;
            let orphans = mirror.orphans(family, &records);
            if !orphans.is_empty() {
                self.kernel.forget(family, SetId::Affinity, &orphans)?;
            }
        }
        Ok(())
    }

    fn next_sync(&mut self, mut mirror: Mirror, changes: &Changes) -> Result<Transaction, Failure> {
        let settings = self.options.settings(&self.model);
        let Update { main, after, stale, objections } = mirror.update(&settings, &self.model, changes);
        report(&objections);
        self.commit(&mirror, &main, &after)?;
        self.forget_stale(stale)?;
        self.mirror = Some(mirror);
        Ok(main)
    }

    fn commit(&mut self, mirror: &Mirror, main: &Transaction, after: &Transaction) -> Result<(), Failure> {
        if !main.is_empty() {
            self.kernel.apply(main).map_err(|cause| Failure { blamed: mirror.blamed(main, &cause), cause })?;
        }
        if !after.is_empty()
            && let Err(cause) = self.kernel.apply(after)
        {
            // An unused chain does no harm; the next comparison with the kernel tries again.
            debug!(%cause, "unused chains stay for now");
            self.observers.iter_mut().for_each(|observer| observer.cleanup_failed(&cause));
        }
        Ok(())
    }

    fn forget_stale(&mut self, stale: Vec<(Family, StaleAffinity)>) -> Result<(), KernelError> {
        let mut by_family: HashMap<Family, Vec<StaleAffinity>> = HashMap::new();
        for (family, one) in stale {
            by_family.entry(family).or_default().push(one);
        }
        for (family, stale) in by_family {
            let records = self.kernel.read_set(family, SetId::Affinity)?;
            let elements = stale_records(&records, &stale);
            if !elements.is_empty() {
                debug!(%family, records = elements.len(), "forgetting affinity records");
                self.kernel.forget(family, SetId::Affinity, &elements)?;
            }
        }
        Ok(())
    }

    fn succeeded(
        &mut self,
        transaction: &Transaction,
        changes: &Changes,
        full: bool,
        duration: Duration,
        latency: Duration,
    ) {
        let (added, deleted) = transaction.element_counts();
        let services = self.model.service_count();
        let mut first = false;
        self.retry = None;
        self.last_sync = Some(Instant::now());
        self.reports.send_modify(|report| {
            first = report.syncs == 0;
            *report = Report { syncs: report.syncs + 1, services, added, deleted, latency, failures: 0 };
        });
        if first {
            info!(services, added, deleted, ?latency, "first sync done");
        }
        if let Some(mirror) = &self.mirror {
            let sync = Synced { model: &self.model, mirror, changes, full, transaction, duration };
            self.observers.iter_mut().for_each(|observer| observer.synced(&sync));
        }
        debug!(services, added, deleted, ?latency, "synced");
    }

    fn failed(&mut self, cause: &KernelError) {
        // The mirror may be ahead of the kernel: read back before the next attempt.
        self.mirror = None;
        let wait = self.retry.map_or(RETRY_MIN, |(_, wait)| (wait * 2).min(RETRY_MAX));
        self.retry = Some((Instant::now() + wait, wait));
        self.reports.send_modify(|report| report.failures += 1);
        error!(%cause, retry_in = ?wait, "sync failed; the rules in the kernel stay as they are");
    }
}

fn report(objections: &[Objection]) {
    for objection in objections.iter().take(OBJECTIONS_TOLD) {
        warn!("{objection}");
    }
    let more = objections.len().saturating_sub(OBJECTIONS_TOLD);
    if more > 0 {
        warn!(more, "more of the kind; `portway services` shows them");
    }
}
