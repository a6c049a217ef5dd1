//! Tables that are in force: how they are read back, repaired, and given larger maps (`kernel.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::{Controller, Report};
use portway::model::{Event, Family};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{ChainId, ChangedParts, Element, Kernel as _, Op, SetId, Term, Transaction, Verdict};
use tokio::sync::watch;

use super::stats::{median, per_mille, short};
use super::tables::ENDPOINTS;
use crate::cluster;

const REPAIRS: usize = 9;
const READS: usize = 3;

/// A sync loop and what it reports.
pub type Loop = (Controller<NftKernel>, watch::Receiver<Report>);

/// On the real kernel.
pub fn controller() -> Loop {
    Controller::new(NftKernel::open().expect("nf_tables"), options())
}

/// What a change waits for while the largest map is replaced.
pub struct Replacement {
    /// What each change took.
    pub changes: Vec<Duration>,
    /// Until the old map was gone.
    pub whole: Duration,
}

impl Replacement {
    /// As results have it: p50, p99, the longest, the whole.
    pub fn cells(&self) -> Vec<String> {
        let share = |per| short(per_mille(&self.changes, per));
        vec![share(500), share(990), share(1000), short(self.whole)]
    }
}

/// Reads the tables whole, on a kernel that counts the elements of maps and on one that does not.
pub fn reading(services: usize) -> [String; 2] {
    eprintln!("reading, {services} Services");
    let (mut controller, _) = controller();
    controller.handle(cluster::events(services, ENDPOINTS), Instant::now());
    drop(controller);
    [true, false].map(|modern| {
        let options = nftables::KernelOptions { owned: false, modern };
        let mut kernel = NftKernel::open_with(options).expect("nf_tables");
        let times: Vec<Duration> =
            (0..READS).map(|_| timed(|| drop(kernel.read(Family::Ipv4).expect("readable").expect("there")))).collect();
        short(median(&times))
    })
}

/// Services have from 1 to this many endpoints, 10 on average: each number has a chain of its own.
const MOST_ENDPOINTS: usize = 19;

/// A Service is added that makes the map of endpoints, and it alone, too large for what it is. Then endpoints change one by
/// one, as fast as that goes, until the map's successor is in force.
pub fn replacement(services: usize) -> Replacement {
    eprintln!("a replaced map, {services} Services");
    let mut options = cluster::options();
    let endpoints = |n| 1 + n % MOST_ENDPOINTS;
    options.sizing.floor = (0..services).map(endpoints).sum::<usize>() as u32 + 1;
    let (mut controller, reports) = Controller::new(NftKernel::open().expect("nf_tables"), options);
    let slice = |n, generation| Event::Slice(Arc::new(cluster::slice(n, endpoints(n), generation)));
    let mut events = cluster::events(services, ENDPOINTS);
    events.extend((0..services).map(|n| slice(n, 0)));
    controller.handle(events, Instant::now());
    let (snapshots, (sender, events)) = (controller.snapshots(), tokio::sync::mpsc::channel(1));
    let sync_loop = std::thread::spawn(move || controller.run(events));
    let change = |events: Vec<Event>| {
        let before = reports.borrow().syncs;
        timed(|| {
            sender.blocking_send(events).expect("the loop runs");
            while reports.borrow().syncs == before {
                std::thread::sleep(Duration::from_micros(50));
            }
        })
    };
    let start = Instant::now();
    let mut changes = vec![change(vec![slice(services, 0), Event::Service(Arc::new(cluster::service(services)))])];
    let is_growing = || {
        let snapshot = snapshots.take(Duration::from_secs(60)).expect("the loop runs");
        snapshot.mirror.is_some_and(|mirror| mirror.is_growing(Family::Ipv4))
    };
    assert!(services < 1_000 || is_growing(), "it is not replaced");
    let mut whole = Duration::ZERO;
    while whole.is_zero() {
        let generation = changes.len();
        changes.extend((0..50).map(|n| change(vec![slice(services / 2, generation + n)])));
        if !is_growing() {
            whole = start.elapsed();
        }
    }
    assert_eq!(reports.borrow().failures, 0);
    drop(sender);
    sync_loop.join().expect("it ends");
    Replacement { changes, whole }
}

/// From just before somebody changes a table that nobody owns to when that is undone.
pub fn repairs(services: usize) -> [Vec<Duration>; 8] {
    eprintln!("repairs, {services} Services");
    let open = || NftKernel::open_with(nftables::KernelOptions::new(false)).expect("nf_tables");
    let mut stranger = open();
    let (mut controller, reports) = Controller::new(open(), options());
    let (sender, heard) = std::sync::mpsc::channel();
    let listens = controller.kernel().watch(move |by, touched| sender.send((by, touched)).is_ok()).expect("a socket");
    assert!(listens, "nobody owns the tables");
    controller.handle(cluster::events(services, ENDPOINTS), Instant::now());
    let table = stranger.read(Family::Ipv4).expect("readable").expect("there");
    let endpoints: Vec<Element> = table.sets[&SetId::Endpoints].values().collect();
    let frontends: Vec<Element> = table.sets[&SetId::Services].values().collect();
    drop(table);
    let mut repair = |op: Op, everything: bool| -> Vec<Duration> {
        let change = Transaction { ops: vec![(Family::Ipv4, op)] };
        (0..REPAIRS)
            .map(|_| {
                let took = timed(|| {
                    stranger.apply(&change).expect("nobody owns it");
                    let (by, touched) = heard.recv().expect("it listens");
                    controller.doubts().raise(by, if everything { ChangedParts::Everything } else { touched });
                    controller.check_doubts();
                });
                for family in Family::ALL {
                    let table = stranger.read(family).expect("readable");
                    let steps = controller.mirror().expect("synced").rebase(family, table.as_ref());
                    assert!(steps.is_empty(), "it is undone");
                }
                // What was announced late, of a change with more announcements than there is room for.
                while heard.try_recv().is_ok() {}
                took
            })
            .collect()
    };
    let one = |elements: &[Element]| vec![elements[elements.len() / 2].clone()];
    let delete = |set: SetId, elements| Op::DeleteElements(set.into(), elements);
    let times = [
        repair(delete(SetId::Endpoints, one(&endpoints)), false),
        repair(delete(SetId::Services, one(&frontends)), false),
        repair(Op::AddRule(ChainId::Dispatch, vec![Term::Verdict(Verdict::Drop)]), false),
        repair(delete(SetId::Endpoints, endpoints.iter().take(1_000).cloned().collect()), false),
        repair(delete(SetId::Services, frontends.clone()), false),
        repair(delete(SetId::Endpoints, endpoints.clone()), false),
        repair(delete(SetId::Endpoints, one(&endpoints)), true),
        repair(Op::DeleteTable, false),
    ];
    assert_eq!(reports.borrow().failures, 0);
    times
}

/// No map has a size where that is asked for.
fn options() -> Options {
    let mut options = cluster::options();
    if std::env::args().any(|arg| arg == "unsized") {
        options.sizing.floor = u32::MAX;
    }
    options
}

/// How long that takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
