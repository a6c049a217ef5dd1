//! What the kernel takes: first load, one changed endpoint, other numbers of endpoints, a Service that comes and goes, a restart;
//! what it and `nft` take for tables of kube-proxy's shape, of 1.36 and of 1.37; repairs of tables that nobody owns; and a map
//! that is replaced.
//!
//! Run as root: `cargo bench --bench kernel [-- --quick] [unsized] [growth] [reading] [numbers]`: `unsized` for maps without a size,
//! `growth`, `reading` and `numbers` (of endpoints) for nothing else than that, on the screen. Everything happens in network namespaces of its own.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::time::{Duration, Instant};

use portway::model::{Event, Protocol};

use support::netns::in_netns;
use support::peer::{self, Version};
use support::plot::{Chart, Series};
use support::report::{Report, is_quick};
use support::stats::{grouped, median, per_mille, short};
use support::tables::ENDPOINTS;
use support::upkeep::{Loop, controller, reading, repairs, replacement, timed};

const FIRST_LOADS: usize = 3;
const ROUNDS: usize = 400;
/// Rounds of what takes kube-proxy's shape seconds.
const PEER_ROUNDS: usize = 5;

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
    if std::env::args().any(|arg| arg == "numbers") {
        for services in ours {
            let [within, beyond] =
                in_netns(|| numbers(&mut controller(), *services)).map(|times| short(median(&times)));
            println!("{} | {within} | {beyond}", name(*services));
        }
        return;
    }
    let mut report = Report::new("kernel");
    let ours: Vec<Ours> = ours.iter().map(|services| in_netns(|| measure(*services))).collect();
    // With several endpoints all versions of kube-proxy write the same.
    let peers: Vec<Load> =
        peers.iter().map(|services| in_netns(|| measure_peer(Version::V1_36, *services, ENDPOINTS))).collect();

    report.table(&[
        "Portway, services x endpoints",
        "first load",
        "one endpoint p50 / p99",
        "4 to 3 endpoints and back p50",
        "4 to 1 and back p50",
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
            short(median(&row.within)),
            short(median(&row.beyond)),
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
    report.table(&["Services with one endpoint", "", "first load", "one endpoint p50"]);
    for services in if is_quick() { vec![1_000] } else { vec![1_000, 10_000] } {
        let ours = in_netns(|| measure_singles(services));
        let peers = Version::ALL.map(|version| in_netns(|| measure_peer(version, services, 1)));
        let names = Version::ALL.map(|version| format!("kube-proxy {}'s shape by nft", version.name()));
        for (who, row) in [("Portway".to_owned(), ours)].into_iter().chain(names.into_iter().zip(peers)) {
            report.row(&[grouped(services), who, short(row.first), short(median(&row.endpoint))]);
        }
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
        "The largest map replaced, services x 1 to 19 endpoints, 10 on average",
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

struct Ours {
    services: usize,
    first: Duration,
    endpoint: Vec<Duration>,
    /// Another number of endpoints, with which a Service keeps its verdict.
    within: Vec<Duration>,
    /// Another one, for which it gets a new verdict.
    beyond: Vec<Duration>,
    added: Vec<Duration>,
    deleted: Vec<Duration>,
    restart: Duration,
    emptied: Duration,
    /// Bytes.
    memory: f64,
}

/// A first load, and what a change takes after it.
struct Load {
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
    let key = cluster::service(services).key;
    let (added, deleted) = (0..ROUNDS / 4)
        .map(|_| {
            let new = Event::Service(cluster::service(services).into());
            (sync(vec![slice(services, ENDPOINTS, 0), new]), sync(vec![Event::ServiceDeleted(key.clone())]))
        })
        .unzip();
    assert_eq!(reports.borrow().failures, 0);
    let mut running = (controller, reports);
    let [within, beyond] = change_numbers(&mut running, services);
    drop(running);

    let (mut next, reports) = self::controller();
    let mut events = events;
    events.push(slice(services / 2, ENDPOINTS, ROUNDS));
    events.extend(small_slices(services));
    let restart = timed(|| next.handle(events, Instant::now()));
    assert_eq!((reports.borrow().added, reports.borrow().deleted), (0, 0), "a restart writes nothing");
    let all = (0..services).map(|n| Event::ServiceDeleted(cluster::service(n).key));
    let emptied = timed(|| next.handle(all, Instant::now()));
    assert_eq!(reports.borrow().failures, 0);
    Ours { services, first, endpoint, within, beyond, added, deleted, restart, emptied, memory }
}

/// The Services whose numbers of endpoints are not those of all others, in the end. As in any cluster, others have 1 and 4 endpoints, too:
/// no chain comes or goes.
fn small_slices(services: usize) -> [Event; 3] {
    [(0, 1), (1, 4), (services / 3, 4)]
        .map(|(n, endpoints)| Event::Slice(cluster::resized(n, ENDPOINTS, endpoints, 0).into()))
}

/// A Service gets an endpoint fewer and gets it back; then three, which are more than its chain allows for.
fn change_numbers((controller, reports): &mut Loop, services: usize) -> [Vec<Duration>; 2] {
    controller.handle(small_slices(services), Instant::now());
    let times = [3, 1].map(|least| {
        let change = |endpoints| Event::Slice(cluster::resized(services / 3, ENDPOINTS, endpoints, 0).into());
        let numbers = (0..ROUNDS).map(|round| if round % 2 == 0 { least } else { 4 });
        numbers.map(|endpoints| timed(|| controller.handle([change(endpoints)], Instant::now()))).collect()
    });
    assert_eq!(reports.borrow().failures, 0);
    times
}

/// The same on a table of its own.
fn numbers(running: &mut Loop, services: usize) -> [Vec<Duration>; 2] {
    eprintln!("numbers of endpoints, {services} Services");
    running.0.handle(cluster::events(services, ENDPOINTS), Instant::now());
    change_numbers(running, services)
}

/// The median of some first loads, and the controller of the last one.
fn first_load(events: &[Event]) -> (Duration, Loop) {
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

fn measure_singles(services: usize) -> Load {
    eprintln!("Portway, {services} Services with one endpoint");
    let (first, (mut controller, reports)) = first_load(&cluster::events(services, 1));
    let change = |round| Event::Slice(cluster::slice(services / 2, 1, round).into());
    let endpoint = (1..=ROUNDS).map(|round| timed(|| controller.handle([change(round)], Instant::now()))).collect();
    assert_eq!(reports.borrow().failures, 0);
    Load { services, first, endpoint }
}

fn measure_peer(version: Version, services: usize, endpoints: usize) -> Load {
    eprintln!("kube-proxy {}'s shape, {services} Services x {endpoints}", version.name());
    let first = peer::load(&peer::table(version, services, endpoints, Protocol::Tcp));
    let change = |round| peer::change(version, services / 2, endpoints, round);
    let endpoint = (1..=PEER_ROUNDS).map(|round| peer::load(&change(round))).collect();
    Load { services, first, endpoint }
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
