//! What a packet pays: new flows, established packets and TCP connections through tables of several sizes, against no
//! table, a table with one dnat rule, and a table of kube-proxy's shape.
//!
//! Run as root: `cargo bench --bench datapath [-- --quick]`, or `-- [services=N] A.nft B.nft` to compare tables made by hand:
//! each answers at 10.0.0.1:80/TCP (and at the N - 1 addresses after it) for pods at port 8080 in 11.0.0.0/8 and 12.0.0.0/8, which
//! is what a listing of ours does that `-- listing [services=N] [single]` prints. Everything is pinned to one CPU and the variants
//! take turns in short batches; what is told are medians over the rounds, because whatever else the machine does hits all alike.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portway::model::Protocol;

use support::lane::{Flow, Lane};
use support::peer::{self, Version};
use support::plot::{Chart, Series};
use support::report::{Report, is_quick};
use support::stats::{grouped, middle};
use support::tables::{ENDPOINTS, Table, listing, one_rule};

/// Packets of a batch: about a millisecond.
const BATCH: u32 = 500;
/// Connections of a batch.
const CONNECTIONS: usize = 100;
/// Flows whose packets are sent in turn.
const FLOWS: u32 = 200;
/// Rounds in which tables made by hand are compared: medians of so many repeat within 10 ns.
const COMPARISONS: usize = 900;

/// A table, its lane and what was measured there.
struct Subject {
    table: Table,
    protocol: Protocol,
    lane: Lane,
    /// Nanoseconds a packet, of each round.
    new: Vec<f64>,
    established: Vec<f64>,
    /// Connections a second, of each round.
    connections: Vec<f64>,
}

fn main() {
    use Table::{
        BesideDirect, Direct, Hashing, None as Nothing, OneRule, Peer, PeerSingle, Portway, PortwaySingle, Resets,
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let services = arguments.iter().find_map(|word| word.strip_prefix("services="));
    let services = services.map_or(1, |number| number.parse().expect("a number of Services"));
    let files: Vec<String> = arguments.iter().filter(|name| name.ends_with(".nft")).cloned().collect();
    let is_asked = |word: &str| arguments.iter().any(|argument| argument == word);
    match (is_asked("listing"), files.is_empty(), services) {
        (true, ..) => return list(if is_asked("single") { PortwaySingle(services) } else { Portway(services) }),
        (false, false, 1) => return compare(files),
        (false, false, _) => return compare_many(files, services),
        (false, true, _) => {}
    }
    let singles = |services| {
        [PortwaySingle(services)].into_iter().chain(Version::ALL.map(|version| PeerSingle(version, services)))
    };
    let (mut tables, rounds) = if is_quick() {
        let ours = [Portway(1), Portway(1_000), Hashing(1_000), Resets(1_000), BesideDirect(1_000), Direct(100)];
        ([&[Nothing, OneRule], &ours[..], &[Portway(10_000), Peer(1), Peer(1_000)]].concat(), 400)
    } else {
        let ours = [Portway(1), Portway(1_000), Hashing(1_000), Portway(10_000), Portway(100_000)];
        let more = [Resets(1_000), BesideDirect(1_000), Direct(100)];
        ([&[Nothing, OneRule], &ours[..], &more, &[Peer(1), Peer(1_000), Peer(10_000)]].concat(), 2_000)
    };
    tables.extend(singles(1).chain(singles(if is_quick() { 1_000 } else { 10_000 })));
    let mut tcp: Vec<Subject> = tables.iter().map(|table| Subject::new(*table, Protocol::Tcp)).collect();
    let small = [Nothing, OneRule, Portway(1_000), Peer(1_000)];
    let mut udp = small.map(|table| Subject::new(table, Protocol::Udp));
    let mut report = Report::new("datapath");
    settle_on_one_cpu();
    forward(&mut tcp, rounds);
    connect(&mut tcp, rounds / 10);
    show(&mut report, &tcp, "TCP");
    show_parts(&mut report, &tcp);
    forward(&mut udp, rounds / 2);
    show(&mut report, &udp, "UDP");
    draw(&tcp);
}

/// Prints a table of ours.
fn list(table: Table) {
    let _lane = Lane::build();
    table.load(Protocol::Tcp);
    print!("{}", listing());
}

/// New flows only, and no result file. The tables take turns in one lane and are loaded anew each time: lanes, and places in
/// memory, differ by some 20 ns.
fn compare(files: Vec<String>) {
    let subject = Subject::new(Table::OneRule, Protocol::Tcp);
    let mut tables = vec![(Table::OneRule.name(), one_rule(Protocol::Tcp))];
    tables.extend(files.into_iter().map(|file| (read(&file), file)).map(|(text, file)| (file, text)));
    settle_on_one_cpu();
    let mut times = vec![Vec::new(); tables.len()];
    for round in 0..COMPARISONS {
        for n in (0..tables.len()).map(|n| (n + round) % tables.len()) {
            peer::load(&format!("flush ruleset\n{}", tables[n].1));
            subject.lane.forget_flows();
            let packets = |flows: Range<u32>| subject.lane.first_packets(flows.map(|n| subject.flow(n)));
            subject.lane.send(&packets(0..BATCH));
            times[n].push(subject.time(&packets(BATCH..3 * BATCH)));
        }
    }
    for ((name, _), rounds) in tables.iter().zip(&times) {
        println!("over one rule: new flow {:+.0} ns: {name}", added(rounds, &times[0]));
    }
}

/// The same for tables of many Services, which take too long to load: each has a lane of its own. Differences between lanes are
/// small beside what memory costs here.
fn compare_many(files: Vec<String>, services: usize) {
    let mut subjects =
        vec![Subject::new(Table::OneRule, Protocol::Tcp), Subject::new(Table::Peer(services), Protocol::Tcp)];
    let mut names: Vec<String> = subjects.iter().map(|subject| subject.table.name()).collect();
    for file in files {
        eprintln!("loading: {file}");
        let text = read(&file);
        let load = || {
            peer::load(&text);
        };
        subjects.push(Subject::loaded(Table::Portway(services), Protocol::Tcp, load));
        names.push(file);
    }
    settle_on_one_cpu();
    new_flows(&mut subjects, COMPARISONS as u32);
    for (name, subject) in names.iter().zip(&subjects) {
        println!("over one rule: new flow {:+.0} ns: {name}", added(&subject.new, &subjects[0].new));
    }
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Pins this thread, and those it starts, to the last CPU, and lets nothing else take its place there if that is allowed.
fn settle_on_one_cpu() {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut cpus = CpuSet::new();
    cpus.set(last).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)).expect("a CPU");
    let own = nix::unistd::gettid().to_string();
    let done = Command::new("chrt").args(["--fifo", "--pid", "1", &own]).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("no real-time priority: other work of this machine adds noise");
    }
}

impl Subject {
    fn new(table: Table, protocol: Protocol) -> Self {
        eprintln!("loading: {}", table.name());
        Self::loaded(table, protocol, || table.load(protocol))
    }

    fn loaded(table: Table, protocol: Protocol, load: impl FnOnce()) -> Self {
        let lane = Lane::build();
        load();
        lane.trust_checksums();
        Self { table, protocol, lane, new: Vec::new(), established: Vec::new(), connections: Vec::new() }
    }

    /// Flow number `n`: of a client of its own, to a Service taken at random, the same in every run.
    fn flow(&self, n: u32) -> Flow {
        Flow::from_client(n, self.protocol, self.target(n))
    }

    fn target(&self, n: u32) -> (Ipv4Addr, u16) {
        self.table.target(n.wrapping_mul(2_654_435_761) as usize >> 8)
    }

    /// Nanoseconds a frame.
    fn time(&self, frames: &[Vec<u8>]) -> f64 {
        let start = Instant::now();
        self.lane.send(frames);
        start.elapsed().as_nanos() as f64 / frames.len() as f64
    }
}

/// New flows and established packets.
fn forward(subjects: &mut [Subject], rounds: usize) {
    let established: Vec<Vec<Vec<u8>>> = subjects
        .iter()
        .map(|subject| {
            let flows: Vec<Flow> = (0..FLOWS).map(|n| subject.flow(n)).collect();
            let frames = match subject.table {
                // No node remembers anything, and answers do not come this way.
                Table::Direct(_) => subject.lane.later_packets(&flows),
                _ => subject.lane.establish(&flows),
            };
            frames.into_iter().cycle().take(BATCH as usize).collect()
        })
        .collect();
    let before: Vec<u64> = subjects.iter().map(|subject| subject.lane.arrived()).collect();
    for _ in 0..rounds {
        for (subject, frames) in subjects.iter_mut().zip(&established) {
            subject.established.push(subject.time(frames));
        }
    }
    new_flows(subjects, rounds as u32);
    for (subject, before) in subjects.iter().zip(before) {
        let (sent, arrived) = (2 * rounds as u64 * u64::from(BATCH), subject.lane.arrived() - before);
        assert!(arrived >= sent, "{}: {arrived} of {sent} packets arrived", subject.table.name());
    }
}

fn new_flows(subjects: &mut [Subject], rounds: u32) {
    for round in 0..rounds {
        for subject in subjects.iter_mut() {
            // Other clients in each round; those of before are forgotten now and then.
            let first = FLOWS + round % 20 * BATCH;
            if round % 20 == 0 {
                subject.lane.forget_flows();
            }
            let flows = (first..first + BATCH).map(|n| subject.flow(n));
            let frames = subject.lane.first_packets(flows);
            subject.new.push(subject.time(&frames));
        }
    }
}

/// TCP connections from socket to socket, closed at once.
fn connect(subjects: &mut [Subject], rounds: usize) {
    let mut subjects: Vec<&mut Subject> =
        subjects.iter_mut().filter(|one| !matches!(one.table, Table::Direct(_))).collect();
    for subject in &subjects {
        subject.lane.serve_pods(true);
        subject.lane.pods.enter().expect("a namespace");
        let listener = TcpListener::bind("0.0.0.0:8080").expect("a free port");
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    for round in 0..rounds {
        for subject in &mut subjects {
            subject.lane.forget_flows();
            subject.lane.client.enter().expect("a namespace");
            let start = Instant::now();
            for n in 0..CONNECTIONS {
                let stream =
                    TcpStream::connect(subject.target((round * CONNECTIONS + n) as u32)).expect("a pod answers");
                // No port is left waiting.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("TCP");
            }
            subject.connections.push(CONNECTIONS as f64 / start.elapsed().as_secs_f64());
        }
    }
}

/// Medians, and medians of what a round adds to the same round with one dnat rule.
fn show(report: &mut Report, subjects: &[Subject], protocol: &str) {
    let base = find(subjects, Table::OneRule).expect("the one to compare with");
    report.table(&[
        protocol,
        "new flow",
        "over one rule",
        "new flows a second",
        "established packet",
        "over one rule",
        "connections a second",
    ]);
    for subject in subjects {
        let connections = match &subject.connections[..] {
            [] => "-".to_owned(),
            some => grouped(middle(some) as usize),
        };
        report.row(&[
            subject.table.name(),
            format!("{:.0} ns", middle(&subject.new)),
            format!("{:+.0} ns", added(&subject.new, &base.new)),
            grouped((1e9 / middle(&subject.new)) as usize),
            format!("{:.0} ns", middle(&subject.established)),
            format!("{:+.0} ns", added(&subject.established, &base.established)),
            connections,
        ]);
    }
}

fn added(rounds: &[f64], base: &[f64]) -> f64 {
    let differences: Vec<f64> = rounds.iter().zip(base).map(|(with, without)| with - without).collect();
    middle(&differences)
}

/// What Portway adds to a new flow beside what kube-proxy's shape adds, and as a part of it.
fn show_parts(report: &mut Report, subjects: &[Subject]) {
    let base = &find(subjects, Table::OneRule).expect("the one to compare with").new;
    let over = |table| Some(added(&find(subjects, table)?.new, base));
    report.table(&["A new flow over one rule, services x endpoints", "Portway", "kube-proxy's shape", "part"]);
    for services in [1, 1_000, 10_000] {
        let several = (Table::Portway(services), Table::Peer(services), "1.36 and 1.37", ENDPOINTS);
        let singles = Version::ALL
            .map(|version| (Table::PortwaySingle(services), Table::PeerSingle(version, services), version.name(), 1));
        for (ours, peer, versions, endpoints) in [several].into_iter().chain(singles) {
            if let (Some(ours), Some(peer)) = (over(ours), over(peer)) {
                report.row(&[
                    format!("{} x {endpoints}", grouped(services)),
                    format!("{ours:+.0} ns"),
                    format!("{peer:+.0} ns ({versions})"),
                    format!("{:.2}", ours / peer),
                ]);
            }
        }
    }
}

fn find(subjects: &[Subject], table: Table) -> Option<&Subject> {
    subjects.iter().find(|subject| subject.table == table)
}

fn draw(subjects: &[Subject]) {
    let base = &find(subjects, Table::OneRule).expect("the one to compare with").new;
    let series = |name, color, table: fn(usize) -> Table| {
        let measured = |services| Some((services as f64, added(&find(subjects, table(services))?.new, base)));
        Series { name, color, points: [1, 1_000, 10_000, 100_000].into_iter().filter_map(measured).collect() }
    };
    let chart = Chart {
        title: "What a new connection pays",
        subtitle: "First packet of a flow, over a table with one dnat rule (ns); 10 endpoints, or one",
        label: |value| format!("{value:.0}"),
        logarithmic: false,
        series: vec![
            series("kube-proxy's shape", "#c2410c", Table::Peer),
            series("1.36, one endpoint", "#f59e0b", |services| Table::PeerSingle(Version::V1_36, services)),
            series("1.37, one endpoint", "#a16207", |services| Table::PeerSingle(Version::V1_37, services)),
            series("Portway", "#1d4ed8", Table::Portway),
            series("Portway, one endpoint", "#38bdf8", Table::PortwaySingle),
        ],
    };
    chart.write("new-flow");
}
