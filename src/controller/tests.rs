use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;

use super::*;
use crate::model::ObjectKey;
use crate::ruleset::{ChangedParts, FakeKernel, Intercepted, Interceptor, KernelError, SetId, Table, Transaction};
use crate::testing::{added, added_slice, listed, service, slice};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a new event waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(120);

/// Refuses transactions of some families, and counts.
#[derive(Debug, Clone, Default)]
struct Refuser {
    refused: Arc<Mutex<BTreeSet<Family>>>,
    reads: Arc<AtomicUsize>,
}

impl Interceptor<FakeKernel> for Refuser {
    fn apply(&mut self, kernel: &mut FakeKernel, transaction: &Transaction) -> Result<(), KernelError> {
        let refused = self.refused.lock().expect("no panic");
        if transaction.ops.iter().any(|(family, _)| refused.contains(family)) {
            let (object, reason) = ("the transaction".to_owned(), "it was told to".to_owned());
            return Err(KernelError::Refused { op: 0, element: None, object, reason, errno: libc::EBUSY });
        }
        kernel.apply(transaction)
    }

    fn read(&mut self, kernel: &mut FakeKernel, family: Family) -> Result<Option<Table>, KernelError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        kernel.read(family)
    }
}

/// Remembers what was done in which family.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<(Family, &'static str)>>>);

impl Log {
    fn take(&self) -> Vec<(Family, &'static str)> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl Observer for Log {
    fn synced(&mut self, sync: &Synced<'_>) {
        let what = if sync.full { "full" } else { "changes" };
        self.0.lock().expect("no panic").push((sync.family, what));
    }

    fn failed(&mut self, family: Family, _: &KernelError, _: Duration) {
        self.0.lock().expect("no panic").push((family, "failed"));
    }
}

type Tested = Controller<Intercepted<FakeKernel, Refuser>>;

fn controller(options: Options) -> (Tested, watch::Receiver<Report>, Refuser, Log) {
    let (gate, log) = (Refuser::default(), Log::default());
    let (mut controller, reports) =
        Controller::new(Intercepted { kernel: FakeKernel::new(), interceptor: gate.clone() }, options);
    controller.observe(log.clone());
    (controller, reports, gate, log)
}

fn frontends(controller: &mut Tested, family: Family) -> usize {
    let table = controller.kernel().kernel.listing(family);
    table.map_or(0, |table| table.sets[&SetId::Services.into()].len())
}

fn dual_stack(number: u8) -> Event {
    let mut service = service(&format!("s{number}"), &format!("10.96.0.{number}"));
    service.cluster_ips.push(crate::testing::ip(&format!("fd00:96::{number}")));
    added(service)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn while_changes_wait_for_their_time_everything_else_is_served() {
    let options = Options { min_sync_period: Duration::from_secs(3600), ..Options::new("n1") };
    let (controller, reports, gate, _) = controller(options);
    let (snapshots, doubts) = (controller.snapshots(), controller.doubts());
    let (sender, events) = mpsc::channel(8);
    let thread = std::thread::spawn(move || controller.run(events));
    sender.blocking_send(listed("n1")).expect("it runs");
    eventually("the first sync", || reports.borrow().syncs == 1);

    sender.blocking_send(vec![dual_stack(1)]).expect("it runs");
    eventually("a snapshot with the change", || {
        snapshots.take(PATIENCE).expect("an answer").model.service_count() == 1
    });
    assert_eq!(reports.borrow().syncs, 1, "its time has not come");
    let reads = gate.reads.load(Ordering::SeqCst);
    assert!(doubts.raise(None, ChangedParts::Everything));
    eventually("a comparison", || gate.reads.load(Ordering::SeqCst) >= reads + 2);

    drop(sender);
    eventually("the end", || thread.is_finished());
    assert_eq!(reports.borrow().syncs, 2, "the last changes are not left behind");
}

/// Does not answer a transaction before it is told to.
struct Stuck {
    reached: std::sync::mpsc::Sender<()>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Interceptor<FakeKernel> for Stuck {
    fn apply(&mut self, kernel: &mut FakeKernel, transaction: &Transaction) -> Result<(), KernelError> {
        self.reached.send(()).ok();
        // Also when the test has ended.
        self.release.recv().ok();
        kernel.apply(transaction)
    }
}

#[test]
fn the_end_does_not_wait_for_a_kernel_that_does_not_answer() {
    const LIMIT: Duration = Duration::from_secs(5);
    let start = || {
        let ((reached, stuck), (release, released)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let interceptor = Stuck { reached, release: released };
        let kernel = Intercepted { kernel: FakeKernel::new(), interceptor };
        let (controller, _) = Controller::new(kernel, Options::new("n1"));
        let (sender, events) = mpsc::channel(8);
        let sync_loop = SyncThread::start(controller, events).expect("a thread");
        sender.blocking_send(listed("n1")).expect("it runs");
        stuck.recv_timeout(PATIENCE).expect("a transaction");
        (sync_loop, release)
    };
    let (sync_loop, _release) = start();
    let begin = Instant::now();
    assert!(matches!(sync_loop.end(), Err(EndError::Late)));
    // Room for a machine with other things to do.
    assert!(begin.elapsed() >= LIMIT && begin.elapsed() < LIMIT * 2, "{:?}", begin.elapsed());

    // One that answers in time has all changes.
    let (sync_loop, release) = start();
    std::thread::spawn(move || {
        sleep(Duration::from_millis(300));
        drop(release);
    });
    let begin = Instant::now();
    sync_loop.end().expect("the loop has ended");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
}

#[test]
fn changes_that_wait_are_synced_when_their_time_comes() {
    let options = Options { min_sync_period: Duration::from_millis(300), ..Options::new("n1") };
    let (controller, reports, ..) = controller(options);
    let (sender, events) = mpsc::channel(8);
    let thread = std::thread::spawn(move || controller.run(events));
    sender.blocking_send(listed("n1")).expect("it runs");
    eventually("the first sync", || reports.borrow().syncs == 1);
    let first = Instant::now();
    for number in 1..=3 {
        sender.blocking_send(vec![dual_stack(number)]).expect("it runs");
    }
    eventually("the second sync", || reports.borrow().syncs == 2);
    assert!(first.elapsed() > Duration::from_millis(150), "not at once");
    assert_eq!(reports.borrow().services, 3, "all in one");
    drop(sender);
    thread.join().expect("no panic");
}

#[test]
fn after_failures_a_new_event_is_tried_at_once() {
    let (mut controller, reports, gate, _) = controller(Options::new("n1"));
    *gate.refused.lock().expect("no panic") = Family::ALL.into();
    controller.handle(listed("n1"), Instant::now());
    // By itself it would try after 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 seconds.
    for number in 1..=6 {
        sleep(AFTER_FAILURE);
        controller.handle([dual_stack(number)], Instant::now());
        assert_eq!(reports.borrow().failures, 1 + u32::from(number));
    }
    controller.handle([dual_stack(7)], Instant::now());
    assert_eq!(reports.borrow().failures, 7, "but not without pause");
    gate.refused.lock().expect("no panic").clear();
    sleep(AFTER_FAILURE);
    controller.handle([], Instant::now());
    assert_eq!(reports.borrow().failures, 0, "that event is not forgotten");
    assert_eq!(frontends(&mut controller, Family::Ipv4), 7);
}

#[test]
fn what_is_refused_in_one_family_does_not_stop_the_other() {
    use Family::{Ipv4, Ipv6};
    let (mut controller, reports, gate, log) = controller(Options::new("n1"));
    gate.refused.lock().expect("no panic").insert(Ipv6);
    controller.handle(listed("n1").into_iter().chain([dual_stack(1)]), Instant::now());
    assert_eq!(log.take(), [(Ipv4, "full"), (Ipv6, "failed")]);
    assert_eq!((frontends(&mut controller, Ipv4), frontends(&mut controller, Ipv6)), (1, 0));
    let report = reports.borrow().clone();
    assert_eq!((report.syncs, report.failures), (1, 1));
    let known = controller.snapshot().mirror.expect("one family").families().collect::<Vec<_>>();
    assert_eq!((known, controller.mirror().is_none()), (vec![Ipv4], true));

    controller.handle([dual_stack(2)], Instant::now());
    assert_eq!(log.take(), [(Ipv4, "changes")], "the other waits");
    sleep(AFTER_FAILURE);
    controller.handle([dual_stack(3)], Instant::now());
    assert_eq!(log.take(), [(Ipv4, "changes"), (Ipv6, "failed")]);
    assert_eq!((frontends(&mut controller, Ipv4), reports.borrow().failures), (3, 2));

    gate.refused.lock().expect("no panic").clear();
    sleep(AFTER_FAILURE);
    controller.handle([dual_stack(4)], Instant::now());
    assert_eq!(log.take(), [(Ipv4, "changes"), (Ipv6, "full")]);
    assert_eq!((frontends(&mut controller, Ipv4), frontends(&mut controller, Ipv6)), (4, 4));
    assert!(controller.mirror().is_some() && reports.borrow().failures == 0);

    // The same with changes instead of a whole table.
    gate.refused.lock().expect("no panic").insert(Ipv4);
    controller.handle([dual_stack(5)], Instant::now());
    assert_eq!(log.take(), [(Ipv4, "failed"), (Ipv6, "changes")]);
    assert_eq!((frontends(&mut controller, Ipv4), frontends(&mut controller, Ipv6)), (4, 5));
}

#[test]
fn a_service_refused_in_one_family_is_served_in_the_other() {
    let (mut controller, reports, ..) = controller(Options::new("n1"));
    let refused = crate::ruleset::Bytes::new().ip(crate::testing::ip("fd00:96::1")).u8(6).u16(80);
    controller.kernel().kernel.refused_keys = [(SetId::Services, refused)].into();
    controller.handle(listed("n1").into_iter().chain([dual_stack(1), dual_stack(2)]), Instant::now());
    assert_eq!(reports.borrow().failures, 0);
    assert_eq!([Family::Ipv4, Family::Ipv6].map(|family| frontends(&mut controller, family)), [2, 1]);
}

#[test]
fn what_is_set_aside_is_nobody_elses() {
    let (mut controller, ..) = controller(Options::new("n1"));
    let slot = crate::ruleset::Bytes::new().ip(crate::testing::ip("10.96.0.1")).u8(6).u16(80).u32_host(0);
    controller.kernel().kernel.refused_keys = [(SetId::Endpoints, slot)].into();
    let mut thief = service("thief", "10.96.0.2");
    thief.external_ips.push(crate::testing::ip("10.96.0.1"));
    let events =
        [added(service("victim", "10.96.0.1")), added_slice(slice("victim", "n1", &["10.1.0.1"])), added(thief)];
    controller.handle(listed("n1").into_iter().chain(events), Instant::now());
    let mirror = controller.mirror().expect("a sync");
    let frontends = |name| mirror.frontends_of(Family::Ipv4, &ObjectKey::new("ns", name)).len();
    assert_eq!((frontends("victim"), frontends("thief")), (0, 1), "its ClusterIP alone");
    assert_eq!(mirror.lost_by(Family::Ipv4, &ObjectKey::new("ns", "thief")).len(), 1);
}
