//! The whole program against an API server: start to first sync, one change, churn, memory, restart.
//!
//! Run as root: `cargo bench --bench e2e [-- --quick] [starts]`: `starts` for starts and restarts at 100,000 Services alone, on the
//! screen. With kube-proxy in the folder KUBEBUILDER_ASSETS the same of it, up to 10,000 Services. `portway run` is a process of its
//! own in a network namespace; when the kernel committed is learnt from the kernel.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use support::api_server::ApiServer;
use support::commits::{Commit, Generation, listen, settle, wait_for};
use support::kube_proxy::{self, Measured};
use support::objects;
use support::process::{Memory, Program};
use support::report::{Report, is_quick};
use support::stats::{grouped, median, per_mille, short};

const ENDPOINTS: usize = 10;
/// How often `starts` starts and restarts.
const STARTS: usize = 3;
/// Longer than anything takes: a restart at 100,000 Services reads a million elements back.
const LIMIT: Duration = Duration::from_secs(600);
/// How long what follows a first sync may take: what is freed late shall be free.
const REST: Duration = Duration::from_secs(3);
/// Where churn is measured. With the most Services a part of the changes is of the number of endpoints.
const CHURN_SERVICES: usize = 10_000;
const COUNT_CHURN_SERVICES: usize = 100_000;
/// How many endpoints a Service has from one change to the next while a Deployment of 10 replaces its pods: with the defaults of
/// Kubernetes, 2 of which may be missing, and with one more and none missing.
const ROLL_OUTS: [[usize; 20]; 2] = [
    [8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 9, 10],
    [11, 10, 11, 10, 11, 10, 11, 10, 11, 10, 11, 10, 11, 10, 11, 10, 11, 10, 11, 10],
];
/// So many changes for one that changes the number.
const PER_COUNT_CHANGE: usize = 10;
/// The most Services that kube-proxy is measured with.
const PEER_SERVICES: usize = 10_000;
/// Changes a second.
const CHURN_RATE: u32 = 500;

fn main() {
    if std::env::args().any(|argument| argument == "starts") {
        support::netns::in_netns(|| starts(100_000));
        return;
    }
    let (sizes, runs, changes, churn): (&[usize], _, _, _) =
        if is_quick() { (&[1_000, 10_000], 1, 500, 10) } else { (&[1_000, 10_000, 100_000], 3, 3_000, 60) };
    let mut report = Report::new("e2e");
    report.line(&sizes_of_objects());
    let rows: Vec<Row> =
        sizes.iter().map(|services| support::netns::in_netns(|| measure(*services, runs, changes, churn))).collect();
    report.table(&[
        "services x endpoints",
        "lists, JSON",
        "start to first sync",
        "CPU time of that",
        "restart, nothing changed",
        "written at restart",
    ]);
    for row in &rows {
        report.row(&[
            row.name(),
            format!("{:.1} MB", row.list_bytes as f64 / 1e6),
            short(row.first_sync),
            short(row.first_cpu),
            short(row.restart),
            format!("{} transactions", row.restart_commits),
        ]);
    }
    report.table(&[
        "services x endpoints",
        "one endpoint changes: p50 / p99 / p99.9",
        "JSON of a change",
        "memory after first sync",
        "at most",
        "after restart, changes and churn",
    ]);
    for row in &rows {
        let share = |per| short(per_mille(&row.changes, per));
        let megabytes = |value: f64| format!("{value:.0} MB");
        report.row(&[
            row.name(),
            format!("{} / {} / {}", share(500), share(990), share(999)),
            format!("{} bytes", grouped(row.change_bytes)),
            megabytes(row.memory.resident),
            megabytes(row.memory.peak),
            format!("{:.0} MB, at most {:.0} MB", row.memory_after.resident, row.memory_after.peak),
        ]);
    }
    peers(&mut report, sizes);
    report.table(&["churn", "slices written", "CPU of one core", "write to commit p50 / p99 / max", "transactions"]);
    for (row, churn) in rows.iter().flat_map(|row| row.churn.iter().map(move |churn| (row, churn))) {
        let counts = churn.numbers.words();
        report.row(&[
            format!("{} at {CHURN_RATE}/s{counts}", row.name()),
            format!("{} in {:.1} s", grouped(churn.lags.len()), churn.time.as_secs_f64()),
            format!("{:.1} %", churn.cpu.as_secs_f64() / churn.time.as_secs_f64() * 100.0),
            format!(
                "{} / {} / {}",
                short(median(&churn.lags)),
                short(per_mille(&churn.lags, 990)),
                short(per_mille(&churn.lags, 1000))
            ),
            grouped(churn.commits),
        ]);
    }
}

/// kube-proxy itself, against the same API server.
fn peers(report: &mut Report, sizes: &[usize]) {
    let Some((path, version)) = kube_proxy::find() else {
        return report.line("kube-proxy was not measured: KUBEBUILDER_ASSETS names no folder that has it.");
    };
    report.table(&[
        &format!("{version}, services x endpoints"),
        "start to first sync",
        "one endpoint changes, 9 times: p50 / longest",
        "memory after first sync",
        "at most",
    ]);
    for services in sizes.iter().copied().filter(|services| *services <= PEER_SERVICES) {
        eprintln!("{services} Services, {version}");
        let change = |generation| (service(services, generation), address(generation));
        let measured = support::netns::in_netns(|| kube_proxy::measure(&path, services, ENDPOINTS, change));
        let Measured { start, changes, memory } = measured;
        report.row(&[
            format!("{} x {ENDPOINTS}", grouped(services)),
            short(start),
            format!("{} / {}", short(median(&changes)), short(per_mille(&changes, 1000))),
            format!("{:.0} MB", memory.resident),
            format!("{:.0} MB", memory.peak),
        ]);
    }
}

/// What docs/scale.md calculates with.
fn sizes_of_objects() -> String {
    let slice = |endpoints| objects::slice(&cluster::slice(5_000, endpoints, 0), 1_000_000).to_string().len();
    let service = objects::service(&cluster::service(5_000), 1_000_000).to_string().len();
    format!(
        "JSON of a slice with 1, 10 and 100 endpoints: {}, {} and {} bytes; of a Service: {service} bytes.",
        slice(1),
        slice(10),
        slice(100)
    )
}

struct Row {
    services: usize,
    list_bytes: usize,
    first_sync: Duration,
    first_cpu: Duration,
    restart: Duration,
    restart_commits: u32,
    changes: Vec<Duration>,
    change_bytes: usize,
    /// After the first sync.
    memory: Memory,
    memory_after: Memory,
    churn: Vec<Churn>,
}

impl Row {
    fn name(&self) -> String {
        format!("{} x {ENDPOINTS}", grouped(self.services))
    }
}

/// How the numbers of endpoints change.
#[derive(Clone, Copy)]
enum Numbers {
    /// Not at all.
    Same,
    /// In a tenth of the changes, each of another Service: one more than ever before, or one fewer.
    Once,
    /// In a tenth of the changes, which are roll-outs of one Service after the other.
    RollOuts,
}

impl Numbers {
    fn words(self) -> &'static str {
        match self {
            Numbers::Same => "",
            Numbers::Once => ", a tenth with one endpoint more or fewer, each of another Service",
            Numbers::RollOuts => ", a tenth of roll-outs with 8 to 10 and 10 to 11 endpoints",
        }
    }

    /// The Service and its number of endpoints, of the change with this number and generation.
    fn change(self, services: usize, i: usize, generation: usize) -> (usize, usize) {
        let (nth, rest) = (i / PER_COUNT_CHANGE, i % PER_COUNT_CHANGE);
        match self {
            Numbers::Once if rest == 0 => (service(services, generation), [ENDPOINTS + 1, ENDPOINTS - 1][nth % 2]),
            Numbers::RollOuts if rest == 0 => {
                let (roll_out, step) = (nth / ROLL_OUTS[0].len(), nth % ROLL_OUTS[0].len());
                (service(services, roll_out * 2 + 1), ROLL_OUTS[roll_out % 2][step])
            }
            _ => (service(services, generation), ENDPOINTS),
        }
    }
}

struct Churn {
    numbers: Numbers,
    lags: Vec<Duration>,
    time: Duration,
    cpu: Duration,
    commits: usize,
}

fn measure(services: usize, runs: usize, changes: usize, churn_seconds: u32) -> Row {
    eprintln!("{services} Services");
    let mut server = ApiServer::start(services, ENDPOINTS);
    let generation = Generation::new();
    let (mut first_syncs, mut first_cpus) = (Vec::new(), Vec::new());
    for _ in 1..runs {
        let program = Program::start(&server.url());
        let (time, cpu) = first_sync(&program, &generation);
        first_syncs.push(time);
        first_cpus.push(cpu);
        program.stop();
        portway::nftables::NftKernel::open().and_then(|mut kernel| kernel.cleanup()).expect("no table is left");
    }
    let program = Program::start(&server.url());
    let (time, cpu) = first_sync(&program, &generation);
    first_syncs.push(time);
    first_cpus.push(cpu);
    std::thread::sleep(REST);
    let memory = program.memory();

    program.stop();

    let before = generation.get();
    let program = Program::start(&server.url());
    let restart = program.wait_for("first sync done", LIMIT) - program.started;
    let restart_commits = generation.get().wrapping_sub(before);
    std::thread::sleep(REST);

    let commits = listen();
    let (times, change_bytes) = one_by_one(&mut server, &commits, services, changes);
    let count = CHURN_RATE * churn_seconds;
    let runs: &[Numbers] = match services {
        CHURN_SERVICES => &[Numbers::Same],
        COUNT_CHURN_SERVICES => &[Numbers::Once, Numbers::RollOuts],
        _ => &[],
    };
    let mut first = changes;
    let mut run = |numbers: &Numbers| {
        let churn = churn(&program, &mut server, &commits, (services, *numbers), first, count);
        first += count as usize;
        churn
    };
    let churn = runs.iter().map(&mut run).collect();
    settle(&commits, Duration::from_millis(200));
    let memory_after = program.memory();
    program.stop();
    Row {
        services,
        list_bytes: server.list_bytes("services") + server.list_bytes("endpointslices"),
        first_sync: median(&first_syncs),
        first_cpu: median(&first_cpus),
        restart,
        restart_commits,
        changes: times,
        change_bytes,
        memory,
        memory_after,
        churn,
    }
}

/// Starts and restarts, one line each.
fn starts(services: usize) {
    let server = ApiServer::start(services, ENDPOINTS);
    let generation = Generation::new();
    for round in 0..2 * STARTS {
        let program = Program::start(&server.url());
        let (what, time) = if round % 2 == 0 {
            ("start", first_sync(&program, &generation).0)
        } else {
            ("restart", program.wait_for("first sync done", LIMIT) - program.started)
        };
        let cpu = program.cpu();
        std::thread::sleep(REST);
        let Memory { resident, peak, .. } = program.memory();
        println!("{what}: {}, CPU {}, memory {resident:.0} MB, at most {peak:.0} MB", short(time), short(cpu));
        program.stop();
        if round % 2 == 1 {
            portway::nftables::NftKernel::open().and_then(|mut kernel| kernel.cleanup()).expect("no table is left");
        }
    }
}

/// From the start of the process to the last commit before it says that the first sync is done; and its CPU time.
fn first_sync(program: &Program, generation: &Generation) -> (Duration, Duration) {
    let (mut last, mut committed) = (generation.get(), None);
    let mut is_said = false;
    while !is_said {
        is_said = program.hears("first sync done", Duration::from_micros(500)).is_some();
        let now = generation.get();
        if now != last {
            (last, committed) = (now, Some(Instant::now()));
        }
        assert!(program.started.elapsed() < LIMIT, "no first sync");
    }
    (committed.expect("a commit") - program.started, program.cpu())
}

/// Changes one endpoint after the other, each when the one before is in the kernel.
fn one_by_one(
    server: &mut ApiServer,
    commits: &Receiver<Commit>,
    services: usize,
    changes: usize,
) -> (Vec<Duration>, usize) {
    let mut bytes = 0;
    let times = (1..=changes)
        .map(|generation| {
            let (sent, len) = server.change(service(services, generation), ENDPOINTS, generation);
            bytes = len;
            let address = address(generation);
            let at = wait_for(commits, LIMIT, |added| added.contains(&address));
            std::thread::sleep(Duration::from_millis(2));
            at - sent
        })
        .collect();
    (times, bytes)
}

/// Writes changes at a fixed rate, whether or not the program keeps up.
fn churn(
    program: &Program,
    server: &mut ApiServer,
    commits: &Receiver<Commit>,
    (services, numbers): (usize, Numbers),
    first: usize,
    count: u32,
) -> Churn {
    settle(commits, Duration::from_millis(200));
    let (start, cpu) = (Instant::now(), program.cpu());
    let sent: Vec<Instant> = (0..count)
        .map(|i| {
            let due = start + Duration::from_secs(1) * i / CHURN_RATE;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let generation = first + 1 + i as usize;
            let (service, endpoints) = numbers.change(services, i as usize, generation);
            server.change(service, endpoints, generation).0
        })
        .collect();
    let mut lags = vec![None; sent.len()];
    let mut transactions = 0;
    while lags.iter().any(Option::is_none) {
        let commit = commits.recv_timeout(LIMIT).expect("all changes reach the kernel");
        transactions += 1;
        for added in commit.added {
            if let Some(i) = generation_of(added).checked_sub(first + 1).filter(|i| *i < sent.len()) {
                lags[i].get_or_insert(commit.at - sent[i]);
            }
        }
    }
    let lags = lags.into_iter().flatten().collect();
    Churn { numbers, lags, time: start.elapsed(), cpu: program.cpu() - cpu, commits: transactions }
}

/// Which Service a change is about: all in turn, in no order a cache would like.
fn service(services: usize, generation: usize) -> usize {
    generation * 7_919 % services
}

/// The first endpoint of that generation.
fn address(generation: usize) -> std::net::Ipv4Addr {
    match cluster::slice(0, 1, generation).endpoints[0].address {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

/// The generation whose first endpoint this is; some large number for other endpoints.
fn generation_of(address: std::net::Ipv4Addr) -> usize {
    u32::from(address).wrapping_sub(u32::from(self::address(0))) as usize
}
