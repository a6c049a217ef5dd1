//! What the kernel takes: first load, one changed endpoint, a Service that comes and goes, a restart; and repairs of tables
//! that nobody owns.
//!
//! Run as root: `cargo bench --bench kernel [SERVICES...]`, by default 1000 and 10000 with 10 endpoints each, and
//! `unsized` for maps without a size. Everything happens in a network namespace of its own.

#![allow(missing_docs)]

mod cluster;

use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family};
use portway::netlink::{self, NftKernel};
use portway::ruleset::{Kernel as _, Op, SetId, Transaction};

const ENDPOINTS: usize = 10;
const ROUNDS: usize = 200;
const REPAIRS: usize = 9;

fn main() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network namespace of its own");
    println!(
        "| services x endpoints | first load | one endpoint p50 / p99 | service added and deleted p50 | restart | memory: \
         steady, peak of first load, peak of restart |"
    );
    println!("|---|---|---|---|---|---|");
    let mut options = cluster::options();
    if std::env::args().any(|arg| arg == "unsized") {
        options.sizing.floor = u32::MAX;
    }
    let given: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    for services in if given.is_empty() { vec![1_000, 10_000] } else { given } {
        row(services, &options);
    }
    println!("\n| services x endpoints | repair of one element p50 | of a deleted table p50 |");
    println!("|---|---|---|");
    for services in [100, 1_000, 10_000] {
        repairs(services);
    }
}

/// From when the sync loop hears of a change by others to when it is undone.
fn repairs(services: usize) {
    let open =
        || NftKernel::open_with(netlink::Options { owned: false, ..netlink::Options::default() }).expect("nf_tables");
    let mut stranger = open();
    stranger.cleanup().expect("a clean start");
    let (mut controller, reports) = Controller::new(open(), cluster::options());
    controller.handle(cluster::events(services, ENDPOINTS), Instant::now());
    let table = stranger.read(Family::Ipv4).expect("readable").expect("there");
    let element = table.sets[&SetId::Endpoints].values().next().expect("an element").clone();
    drop(table);
    let mut repair = |op: &Op| -> Vec<Duration> {
        let change = Transaction { ops: vec![(Family::Ipv4, op.clone())] };
        (0..REPAIRS)
            .map(|_| {
                stranger.apply(&change).expect("nobody owns it");
                timed(|| controller.verify())
            })
            .collect()
    };
    let one = repair(&Op::DeleteElements(SetId::Endpoints, vec![element]));
    let all = repair(&Op::DeleteTable);
    assert_eq!(reports.borrow().failures, 0);
    println!("| {services} x {ENDPOINTS} | {:.0?} | {:.0?} |", percentile(&one, 50), percentile(&all, 50));
}

fn row(services: usize, options: &Options) {
    let mut kernel = NftKernel::open().expect("nf_tables");
    kernel.cleanup().expect("a clean start");
    let (mut controller, reports) = Controller::new(kernel, options.clone());
    let before = memory("VmRSS");
    let events = cluster::events(services, ENDPOINTS);
    let first = timed(|| controller.handle(events, Instant::now()));
    let first_peak = memory("VmHWM") - before;
    netlink::give_back_memory();
    let state = memory("VmRSS") - before;
    let endpoint: Vec<Duration> = (1..=ROUNDS)
        .map(|round| {
            let slice = cluster::slice(services / 2, ENDPOINTS, round);
            timed(|| controller.handle([Event::Slice(Box::new(slice))], Instant::now()))
        })
        .collect();
    let service: Vec<Duration> = (1..=ROUNDS / 4)
        .map(|_| {
            let new = cluster::service(services);
            let key = new.key.clone();
            let slice = cluster::slice(services, ENDPOINTS, 0);
            let events = [Event::Slice(Box::new(slice)), Event::Service(Box::new(new))];
            timed(|| {
                controller.handle(events, Instant::now());
                controller.handle([Event::ServiceDeleted(key)], Instant::now());
            })
        })
        .collect();
    assert_eq!(reports.borrow().failures, 0);
    drop(controller);
    let (mut next, reports) = Controller::new(NftKernel::open().expect("nf_tables"), options.clone());
    let mut events = cluster::events(services, ENDPOINTS);
    events.push(Event::Slice(Box::new(cluster::slice(services / 2, ENDPOINTS, ROUNDS))));
    let restart = timed(|| next.handle(events, Instant::now()));
    let restart_peak = memory("VmHWM") - before;
    assert_eq!((reports.borrow().added, reports.borrow().deleted), (0, 0), "a restart writes nothing");
    println!(
        "| {services} x {ENDPOINTS} | {:.0?} | {:.0?} / {:.0?} | {:.0?} | {restart:.0?} | {:.1} MiB, {:.1} MiB, {:.1} MiB |",
        first,
        percentile(&endpoint, 50),
        percentile(&endpoint, 99),
        percentile(&service, 50),
        state / 1024.0,
        first_peak / 1024.0,
        restart_peak / 1024.0,
    );
}

/// A line of this process's status, in KiB. The highest value starts anew.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process");
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let value = value.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
    std::fs::write("/proc/self/clear_refs", "5").expect("root may");
    value.expect("the line is there")
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100]
}
