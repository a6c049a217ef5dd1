//! What the kernel takes: first load, one changed endpoint, 3 to 4 endpoints, a Service that comes and goes, a restart;
//! what it and `nft` take for a table of kube-proxy's shape; repairs of tables that nobody owns; and a map that is replaced.
//!
//! Run as root: `cargo bench --bench kernel [-- --quick] [unsized] [growth] [reading]`: `unsized` for maps without a size, `growth` and
//! `reading` for nothing else than that, on the screen. Everything happens in network namespaces of its own.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family, Protocol};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{ChainId, ChangedParts, Element, Kernel as _, Op, SetId, Term, Transaction, Verdict};

use support::netns::in_netns;
use support::peer;
use support::plot::{Chart, Series};
use support::report::{Report, is_quick};
use support::stats::{grouped, median, per_mille, short};

const ENDPOINTS: usize = 10;
const FIRST_LOADS: usize = 3;
const ROUNDS: usize = 400;
/// Rounds of what takes kube-proxy's shape seconds.
const PEER_ROUNDS: usize = 5;
const REPAIRS: usize = 9;
const READS: usize = 3;

fn main() {
    let (ours, peers): (&[usize], &[usize]) = if is_quick() {
        (&[100, 1_000, 10_000], &[100, 1_000, 3_000])
    } else {
        (&[100, 1_000, 10_000, 100_000], &[100, 1_000, 3_000, 10_000])
    };
    if std::env::args().any(|arg| arg == "growth") {
        ours.iter().for_each(|services| println!("{}", in_netns(|| replacement(*services)).cells().join(" | ")));
        return;
    }
    if std::env::args().any(|arg| arg == "reading") {
        ours.iter().for_each(|services| println!("{}", in_netns(|| reading(*services)).join(" | ")));
        return;
    }
    let mut report = Report::new("kernel");
    let ours: Vec<Ours> = ours.iter().map(|services| in_netns(|| measure(*services))).collect();
    let peers: Vec<Peer> = peers.iter().map(|services| in_netns(|| measure_peer(*services))).collect();

    report.table(&[
        "Portway, services x endpoints",
        "first load",
        "one endpoint p50 / p99",
        "3 to 4 endpoints and back p50",
        "Service added p50",
        "Service deleted p50",
        "restart",
        "all deleted",
        "kernel memory",
    ]);
    for row in &ours {
        report.row(&[
            name(row.services),
            short(row.first),
            format!("{} / {}", short(median(&row.endpoint)), short(per_mille(&row.endpoint, 990))),
            short(median(&row.scaled)),
            short(median(&row.added)),
            short(median(&row.deleted)),
            short(row.restart),
            short(row.emptied),
            if row.memory > 50e6 { format!("{:.0} MB", row.memory / 1e6) } else { "-".to_owned() },
        ]);
    }
    report.table(&["kube-proxy's shape by nft, services x endpoints", "first load", "one endpoint p50"]);
    for row in &peers {
        report.row(&[name(row.services), short(row.first), short(median(&row.endpoint))]);
    }
    report.table(&[
        "Repairs, services x endpoints",
        "one endpoint",
        "one frontend",
        "a rule",
        "1,000 endpoints",
        "all frontends",
        "all endpoints",
        "one endpoint, everything compared",
        "a deleted table",
    ]);
    for services in [100, 1_000, 10_000] {
        let repairs = in_netns(|| repairs(services)).map(|times| short(median(&times)));
        report.row(&[vec![name(services)], repairs.into()].concat());
    }
    report.table(&[
        "The largest map replaced, services x endpoints",
        "a Service added at other times p50",
        "changes meanwhile p50",
        "p99",
        "the longest",
        "until the old one was gone",
    ]);
    for row in &ours {
        let replacement = in_netns(|| replacement(row.services));
        report.row(&[vec![name(row.services), short(median(&row.added))], replacement.cells()].concat());
    }
    report.table(&[
        "A map read back, services x endpoints",
        "elements counted by the kernel",
        "not counted (before 6.16)",
    ]);
    for row in &ours {
        report.row(&[vec![name(row.services)], in_netns(|| reading(row.services)).into()].concat());
    }
    draw(
        "first-load",
        "Empty table to everything in force",
        &ours.iter().map(|row| (row.services, row.first)).collect::<Vec<_>>(),
        &peers.iter().map(|row| (row.services, row.first)).collect::<Vec<_>>(),
    );
    draw(
        "one-endpoint",
        "One endpoint changes",
        &ours.iter().map(|row| (row.services, median(&row.endpoint))).collect::<Vec<_>>(),
        &peers.iter().map(|row| (row.services, median(&row.endpoint))).collect::<Vec<_>>(),
    );
}

fn name(services: usize) -> String {
    format!("{} x {ENDPOINTS}", grouped(services))
}

type Loaded = (Controller<NftKernel>, tokio::sync::watch::Receiver<portway::controller::Report>);

struct Ours {
    services: usize,
    first: Duration,
    endpoint: Vec<Duration>,
    scaled: Vec<Duration>,
    added: Vec<Duration>,
    deleted: Vec<Duration>,
    restart: Duration,
    emptied: Duration,
    /// Bytes.
    memory: f64,
}

struct Peer {
    services: usize,
    first: Duration,
    endpoint: Vec<Duration>,
}

fn measure(services: usize) -> Ours {
    eprintln!("Portway, {services} Services");
    let events = cluster::events(services, ENDPOINTS);
    let before = kernel_memory();
    let (first, (mut controller, reports)) = first_load(&events);
    let memory = kernel_memory() - before;
    let slice = |n, endpoints, generation| Event::Slice(cluster::slice(n, endpoints, generation).into());
    let mut sync = |events: Vec<Event>| timed(|| controller.handle(events, Instant::now()));
    let endpoint = (1..=ROUNDS).map(|round| sync(vec![slice(services / 2, ENDPOINTS, round)])).collect();
    let (small, key) = (services / 3, cluster::service(services).key);
    // As in any cluster, others have 3 and 4 endpoints too: no chain comes or goes.
    sync(vec![slice(0, 3, 0), slice(1, 4, 0), slice(small, 3, 0)]);
    let scaled = (0..ROUNDS).map(|round| sync(vec![slice(small, 4 - round % 2, 0)])).collect();
    let (added, deleted) = (0..ROUNDS / 4)
        .map(|_| {
            let new = Event::Service(cluster::service(services).into());
            (sync(vec![slice(services, ENDPOINTS, 0), new]), sync(vec![Event::ServiceDeleted(key.clone())]))
        })
        .unzip();
    assert_eq!(reports.borrow().failures, 0);
    drop(controller);

    let (mut next, reports) = self::controller();
    let mut events = events;
    events.extend([slice(services / 2, ENDPOINTS, ROUNDS), slice(0, 3, 0), slice(1, 4, 0), slice(small, 3, 0)]);
    let restart = timed(|| next.handle(events, Instant::now()));
    assert_eq!((reports.borrow().added, reports.borrow().deleted), (0, 0), "a restart writes nothing");
    let all = (0..services).map(|n| Event::ServiceDeleted(cluster::service(n).key));
    let emptied = timed(|| next.handle(all, Instant::now()));
    assert_eq!(reports.borrow().failures, 0);
    Ours { services, first, endpoint, scaled, added, deleted, restart, emptied, memory }
}

/// The median of some first loads, and the controller of the last one.
fn first_load(events: &[Event]) -> (Duration, Loaded) {
    let mut times = Vec::new();
    loop {
        let (mut controller, reports) = controller();
        let events = events.to_vec();
        times.push(timed(|| controller.handle(events, Instant::now())));
        if times.len() == FIRST_LOADS {
            return (median(&times), (controller, reports));
        }
        controller.kernel().cleanup().expect("no table is left");
    }
}

fn controller() -> Loaded {
    Controller::new(NftKernel::open().expect("nf_tables"), options())
}

/// What a change waits for while the largest map is replaced.
struct Replacement {
    changes: Vec<Duration>,
    whole: Duration,
}

impl Replacement {
    fn cells(&self) -> Vec<String> {
        let share = |per| short(per_mille(&self.changes, per));
        vec![share(500), share(990), share(1000), short(self.whole)]
    }
}

/// Reads the tables whole, on a kernel that counts the elements of maps and on one that does not.
fn reading(services: usize) -> [String; 2] {
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

/// A Service is added that makes the map of endpoints, and it alone, too large for what it is. Then endpoints change one by
/// one, as fast as that goes, until the map's successor is in force.
fn replacement(services: usize) -> Replacement {
    eprintln!("a replaced map, {services} Services");
    let mut options = cluster::options();
    options.sizing.floor = (services * ENDPOINTS + 1) as u32;
    let (mut controller, reports) = Controller::new(NftKernel::open().expect("nf_tables"), options);
    controller.handle(cluster::events(services, ENDPOINTS), Instant::now());
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
    let slice = |n, generation| Event::Slice(Arc::new(cluster::slice(n, ENDPOINTS, generation)));
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
fn repairs(services: usize) -> [Vec<Duration>; 8] {
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

fn measure_peer(services: usize) -> Peer {
    eprintln!("kube-proxy's shape, {services} Services");
    let first = peer::load(&peer::table(services, ENDPOINTS, Protocol::Tcp));
    let endpoint = (1..=PEER_ROUNDS).map(|round| peer::load(&peer::change(services / 2, ENDPOINTS, round))).collect();
    Peer { services, first, endpoint }
}

/// Bytes the kernel itself uses. Whatever else happens on the machine is in it, so only large differences mean something.
fn kernel_memory() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("proc");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field of meminfo");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    };
    // What large tables are allocated from, besides small objects.
    field("SUnreclaim:") + field("VmallocUsed:") + field("Percpu:")
}

/// No map has a size where that is asked for.
fn options() -> Options {
    let mut options = cluster::options();
    if std::env::args().any(|arg| arg == "unsized") {
        options.sizing.floor = u32::MAX;
    }
    options
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn draw(file: &str, title: &'static str, ours: &[(usize, Duration)], peers: &[(usize, Duration)]) {
    let points = |rows: &[(usize, Duration)]| rows.iter().map(|(n, time)| (*n as f64, time.as_secs_f64())).collect();
    let chart = Chart {
        title,
        subtitle: "Portway: decoded objects to commit. kube-proxy's shape: nft -f. 10 endpoints each",
        label: |value| short(Duration::from_secs_f64(value)).replace(".00", ""),
        logarithmic: true,
        series: vec![
            Series { name: "kube-proxy's shape", color: "#c2410c", points: points(peers) },
            Series { name: "Portway", color: "#1d4ed8", points: points(ours) },
        ],
    };
    chart.write(file);
}
