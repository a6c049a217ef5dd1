//! The sync loop: one thread owns the model, the mirror and the kernel; everybody else sends events and gets reports.

mod doubt;
mod load;
mod mend;
mod snapshot;

use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

pub use doubt::Doubts;
pub use snapshot::{Snapshot, SnapshotError, Snapshots};

use crate::config::Options;
use crate::diff::{Hints, Load, Mirror, Objection, StaleAffinity, Steps, Update, stale_records};
use crate::model::{Changes, Event, Family, Kind, Model, ObjectKey};
use crate::ruleset::{Kernel, KernelError, SetId, Table, Touched, Transaction};
use doubt::{Doubt, Pace};
use load::Slice;

/// The first wait after a failed sync; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failed sync.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often is asked whether whoever has the tables is gone.
const TAKEN_RETRY: Duration = Duration::from_millis(200);
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
    /// This is what Services of a sync that is about to be made do not get.
    fn objected(&mut self, _objections: &[Objection]) {}
    /// The kernel refused, or what somebody else changed could not be compared or repaired; it will be tried again.
    fn failed(&mut self, _cause: &KernelError, _duration: Duration) {}
    /// The rules are right, but chains nobody uses any more could not be deleted.
    fn cleanup_failed(&mut self, _cause: &KernelError) {}
    /// Somebody else has the tables; the loop waits until they are free.
    fn waiting(&mut self, _cause: &KernelError) {}
    /// A comparison with the kernel found changes by somebody else, and repaired them.
    fn repaired(&mut self, _repair: &Repair) {}
}

/// What somebody else had changed, and was put right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// Elements that were missing or wrong.
    pub added: usize,
    /// Elements that were too much or wrong.
    pub deleted: usize,
    /// Who it was, where that is known: `nft (pid 123)`.
    pub by: Option<String>,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("somebody else");
        match (self.added, self.deleted) {
            (0, 0) => write!(f, "changed by {by}; rules put right"),
            (added, deleted) => write!(f, "changed by {by}; put right: {added} elements added, {deleted} deleted"),
        }
    }
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
    /// Elements added and deleted.
    pub elements: (usize, usize),
    /// What was changed of tables in force, besides elements of maps that have got a successor; without operations when
    /// nothing had to be.
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
    Doubted,
    Tick,
}

/// What was sent to the kernel.
#[derive(Debug)]
struct Sent {
    added: usize,
    deleted: usize,
    /// A table was made.
    loaded: bool,
    /// Changes of tables in force.
    changes: Transaction,
}

impl Sent {
    fn new(changes: Transaction) -> Self {
        let (added, deleted) = changes.element_counts();
        Self { added, deleted, loaded: false, changes }
    }
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
    /// Settled as soon as `pace` allows it.
    doubts: Doubts,
    doubted: watch::Receiver<Option<Doubt>>,
    pace: Pace,
    /// Who has the tables that we wait for.
    taken: Option<String>,
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
        let (doubts, doubted) = Doubts::new();
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
            doubts,
            doubted,
            pace: Pace::default(),
            taken: None,
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
            let patience = self.patience();
            let wake = runtime.block_on(async {
                tokio::select! {
                    batch = events.recv() => Wake::Events(batch),
                    Some(asked) = self.asked.recv() => Wake::Asked(asked),
                    Ok(()) = self.doubted.changed() => Wake::Doubted,
                    () = tokio::time::sleep(patience) => Wake::Tick,
                }
            });
            match wake {
                Wake::Events(Some(batch)) => self.collect(batch, &mut events),
                Wake::Events(None) => return,
                // Whoever asked may have given up by now.
                Wake::Asked(asked) => drop(asked.send(self.snapshot())),
                Wake::Doubted | Wake::Tick => self.tick(Instant::now()),
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
        self.fold(batch);
        // Not what arrives meanwhile: however fast events come, they must not keep the sync away.
        for _ in 0..events.len() {
            events.try_recv().into_iter().for_each(|batch| self.fold(batch));
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
        let Some(mirror) = self.mirror.take() else {
            return;
        };
        let start = Instant::now();
        let mended = match &doubt.touched {
            Touched::Everything => None,
            Touched::Parts(parts) => mend::mend(&mut self.kernel, &mirror, parts).unwrap_or_else(|cause| {
                debug!(%cause, "what was touched cannot be put right alone");
                None
            }),
        };
        let whole = mended.is_none();
        let result = match mended {
            Some(changes) => {
                self.mirror = Some(mirror);
                Ok(Sent::new(changes))
            }
            None => self.read_tables().map_err(Failure::from).and_then(|tables| self.rebase_onto(mirror, tables)),
        };
        match result {
            Ok(Sent { added, deleted, loaded, changes }) if loaded || !changes.is_empty() => {
                let repair = Repair { added, deleted, by: doubt.by };
                warn!(took = ?start.elapsed(), whole, "the tables were {repair}");
                self.observers.iter_mut().for_each(|observer| observer.repaired(&repair));
            }
            Ok(_) => debug!(took = ?start.elapsed(), whole, "the tables are as they should be"),
            Err(Failure { cause, .. }) => {
                // The table may be wrong: somebody waits for its repair from now on.
                self.observers.iter_mut().for_each(|observer| observer.requested());
                self.failed(&cause, start.elapsed());
            }
        }
        let end = Instant::now();
        self.pace.ran(start, end);
        if whole {
            self.verified = end;
            self.release();
        }
    }

    /// Once in a while. A table that only we can change is as we left it: listing it would cost seconds at worst. Services
    /// that were set aside get another chance.
    fn look_after(&mut self) {
        let families: Vec<Family> = self.mirror.iter().flat_map(Mirror::families).collect();
        if families.into_iter().all(|family| self.kernel.guards(family)) {
            let start = Instant::now();
            self.verified = start;
            if let Some(mirror) = self.mirror.take() {
                match self.forget_orphans(&mirror) {
                    Ok(()) => self.mirror = Some(mirror),
                    Err(cause) => self.failed(&cause, start.elapsed()),
                }
            }
            self.release();
        } else {
            self.verify();
        }
    }

    /// Gives Services that were set aside another chance.
    fn release(&mut self) {
        if self.model.all_set_aside().len() > 0 {
            self.model.release();
            self.sync(self.verified);
        }
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        // Before there is a mirror there is nothing to compare, however long that takes.
        let verify = self.mirror.as_ref().map_or(VERIFY_EVERY, |_| self.verify_at(now).saturating_duration_since(now));
        let retry = self.retry.map_or(verify, |(at, _)| at.saturating_duration_since(now));
        let node = if self.mirror.is_none() && self.model.is_ready() { Duration::from_millis(200) } else { verify };
        verify.min(retry).min(node)
    }

    fn tick(&mut self, now: Instant) {
        if self.mirror.is_none() {
            if self.retry.is_none_or(|(at, _)| at <= now) {
                self.sync(now);
            }
        } else if self.verify_at(now) <= now {
            if self.doubts.is_raised() { self.settle() } else { self.look_after() }
        }
    }

    /// When the kernel, or what others touched of it, is to be compared with the mirror.
    fn verify_at(&self, now: Instant) -> Instant {
        let regular = self.verified + VERIFY_EVERY;
        if self.doubts.is_raised() { self.pace.next(now).min(regular) } else { regular }
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
        if self.mirror.is_none() && !self.claim() {
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
            Ok(sent) => self.succeeded(&sent, &changes, full, start.elapsed(), received.elapsed()),
            Err(Failure { cause, .. }) => self.failed(&cause, start.elapsed()),
        }
    }

    /// Whether the tables are ours to change. If not, it is asked again soon: nobody tells us when they are.
    fn claim(&mut self) -> bool {
        match self.kernel.claim() {
            Ok(()) => {
                if self.taken.take().is_some() {
                    info!("the tables are free: taking over");
                }
                true
            }
            Err(cause) => {
                if !cause.is_taken() {
                    self.observers.iter_mut().for_each(|observer| observer.requested());
                }
                self.failed(&cause, Duration::ZERO);
                false
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
    fn first_sync(&mut self) -> Result<Sent, Failure> {
        // Whatever it was, it was before this reading.
        self.doubts.take();
        let settings = self.options.settings(&self.model);
        let tables = self.read_tables()?;
        let hints = tables.iter().map(|(family, table)| (*family, Hints::of(table))).collect();
        let (mirror, objections) = Mirror::build(settings, &self.model, &hints);
        drop(hints);
        self.report(&objections);
        self.rebase_onto(mirror, tables)
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

    /// Makes the kernel, which holds these tables, equal to a mirror: in one transaction where tables are in force.
    fn rebase_onto(&mut self, mirror: Mirror, tables: HashMap<Family, Table>) -> Result<Sent, Failure> {
        let mut steps = Steps::default();
        let mut loads = Vec::new();
        for family in Family::ALL {
            let table = tables.get(&family);
            if let Some(load) = mirror.load(family, table) {
                loads.push(load);
            } else {
                steps.extend(mirror.rebase(family, table));
            }
        }
        drop(tables);
        let mut sent = self.commit(&mirror, steps)?;
        for load in loads {
            sent.loaded = true;
            sent.added += self.load(&mirror, load)?;
        }
        self.forget_orphans(&mirror)?;
        self.mirror = Some(mirror);
        Ok(sent)
    }

    /// Deletes affinity records that no sticky frontend stands behind.
    fn forget_orphans(&mut self, mirror: &Mirror) -> Result<(), KernelError> {
        for family in mirror.families().collect::<Vec<_>>() {
            let records = self.kernel.read_set(family, SetId::Affinity.into())?;
            let orphans = mirror.orphans(family, &records);
            if !orphans.is_empty() {
                self.kernel.forget(family, SetId::Affinity, &orphans)?;
            }
        }
        Ok(())
    }

    fn next_sync(&mut self, mut mirror: Mirror, changes: &Changes) -> Result<Sent, Failure> {
        let settings = self.options.settings(&self.model);
        let Update { steps, stale, objections } = mirror.update(&settings, &self.model, changes);
        self.report(&objections);
        let sent = self.commit(&mirror, steps)?;
        self.forget_stale(stale)?;
        self.mirror = Some(mirror);
        Ok(sent)
    }

    /// Takes the steps that lead to a mirror.
    fn commit(&mut self, mirror: &Mirror, steps: Steps) -> Result<Sent, Failure> {
        let mut filled = 0;
        self.apply(mirror, &steps.first)?;
        for load in mirror.fill(&steps) {
            filled += self.load(mirror, load)?;
        }
        self.apply(mirror, &steps.main)?;
        self.apply(mirror, &steps.replaced)?;
        if !steps.after.is_empty()
            && let Err(cause) = self.kernel.apply(&steps.after)
        {
            // An unused chain does no harm; the next comparison with the kernel tries again.
            debug!(%cause, "unused chains stay for now");
            self.observers.iter_mut().for_each(|observer| observer.cleanup_failed(&cause));
        }
        let mut changes = steps.first;
        changes.extend(steps.main);
        let mut sent = Sent::new(changes);
        sent.added += filled;
        Ok(sent)
    }

    /// Sends a transaction that leads to a mirror; where the kernel refuses an element, finds out whose it is.
    fn apply(&mut self, mirror: &Mirror, transaction: &Transaction) -> Result<(), Failure> {
        if transaction.is_empty() {
            return Ok(());
        }
        let result = self.kernel.apply(transaction);
        result.map_err(|cause| Failure { blamed: mirror.blamed(transaction, &cause), cause })
    }

    /// Sends transactions one by one, each as large as the kernel takes it quickly; the number of their elements.
    fn load(&mut self, mirror: &Mirror, mut load: Load<'_>) -> Result<usize, Failure> {
        let (mut slice, mut loaded) = (Slice::default(), 0);
        while let Some(part) = load.next(slice.size()) {
            loaded += slice.send(part, |part| self.apply(mirror, part), |failure| failure.cause.is_too_big())?;
        }
        Ok(loaded)
    }

    fn forget_stale(&mut self, stale: Vec<(Family, StaleAffinity)>) -> Result<(), KernelError> {
        let mut by_family: HashMap<Family, Vec<StaleAffinity>> = HashMap::new();
        for (family, one) in stale {
            by_family.entry(family).or_default().push(one);
        }
        for (family, stale) in by_family {
            let records = self.kernel.read_set(family, SetId::Affinity.into())?;
            let elements = stale_records(&records, &stale);
            if !elements.is_empty() {
                debug!(%family, records = elements.len(), "forgetting affinity records");
                self.kernel.forget(family, SetId::Affinity, &elements)?;
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, sent: &Sent, changes: &Changes, full: bool, duration: Duration, latency: Duration) {
        let Sent { added, deleted, changes: ref transaction, .. } = *sent;
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
            let sync =
                Synced { model: &self.model, mirror, changes, full, elements: (added, deleted), transaction, duration };
            self.observers.iter_mut().for_each(|observer| observer.synced(&sync));
        }
        debug!(services, added, deleted, ?latency, "synced");
    }

    fn failed(&mut self, cause: &KernelError, duration: Duration) {
        // The mirror may be ahead of the kernel: read back before the next attempt.
        self.mirror = None;
        if cause.is_taken() {
            return self.wait_for_others(cause);
        }
        self.observers.iter_mut().for_each(|observer| observer.failed(cause, duration));
        if let KernelError::Refused { errno: libc::ENFILE, .. } = cause {
            // It cannot happen; should the kernel count otherwise than we do, more room helps.
            self.options.sizing.headroom = self.options.sizing.headroom.saturating_mul(2);
        }
        let wait = self.retry.map_or(RETRY_MIN, |(_, wait)| (wait * 2).clamp(RETRY_MIN, RETRY_MAX));
        self.retry = Some((Instant::now() + wait, wait));
        self.reports.send_modify(|report| report.failures += 1);
        error!(%cause, retry_in = ?wait, "sync failed; the rules in the kernel stay as they are");
    }

    fn report(&mut self, objections: &[Objection]) {
        for objection in objections.iter().take(OBJECTIONS_TOLD) {
            warn!("{objection}");
        }
        let more = objections.len().saturating_sub(OBJECTIONS_TOLD);
        if more > 0 {
            warn!(more, "more of the kind; `portway faults` shows them");
        }
        self.observers.iter_mut().for_each(|observer| observer.objected(objections));
    }

    fn wait_for_others(&mut self, cause: &KernelError) {
        self.retry = Some((Instant::now() + TAKEN_RETRY, Duration::ZERO));
        let words = cause.to_string();
        if self.taken.as_ref() != Some(&words) {
            warn!(%cause, "waiting; the rules in the kernel stay as they are");
            self.observers.iter_mut().for_each(|observer| observer.waiting(cause));
            self.taken = Some(words);
        }
    }
}
