//! What a packet pays: new flows, established packets and TCP connections through tables of several sizes, against no
//! table, a table with one dnat rule, and a table of kube-proxy's shape.
//!
//! Run as root: `cargo bench --bench datapath [-- --quick]`, or `-- A.nft B.nft` to compare tables made by hand: each answers
//! at 10.0.0.1:80/TCP for pods at port 8080 in 11.0.0.0/8, which is what a listing of ours for one Service does. Everything is
//! pinned to one CPU and the variants take turns in short batches; what is told are medians over the rounds, because whatever
//! else the machine does hits all alike.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portway::config::Options;
use portway::controller::Controller;
use portway::model::{EndpointSlice, Event, Family, Protocol};
use portway::nftables::{DirectKernel, KernelOptions, NftKernel};
use portway::ruleset::{Bytes, DirectFound, DirectFrontend, DirectTable, Hop, SlotHash};

use support::lane::{Flow, Lane};
use support::peer;
use support::plot::{Chart, Series};
use support::report::{Report, is_quick};
use support::stats::{grouped, middle};

const ENDPOINTS: usize = 10;
/// Packets of a batch: about a millisecond.
const BATCH: u32 = 500;
/// Connections of a batch.
const CONNECTIONS: usize = 100;
/// Flows whose packets are sent in turn.
const FLOWS: u32 = 200;
/// Rounds in which tables made by hand are compared: medians of so many repeat within 10 ns.
const COMPARISONS: usize = 900;

/// What stands between client and pods.
#[derive(Clone, Copy, PartialEq)]
enum Table {
    /// Nothing; pods are asked directly.
    None,
    /// One `dnat` rule.
    OneRule,
    /// Ours, for so many Services.
    Portway(usize),
    /// The same, with endpoints chosen by the client's address.
    Hashing(usize),
    /// Ours, while an endpoint is gone whose connections are reset.
    Resets(usize),
    /// Ours, and direct return of another Service on the same interfaces.
    BesideDirect(usize),
    /// Packets to so many Services are handed on to another node.
    Direct(usize),
    /// Of kube-proxy's shape.
    Peer(usize),
}

impl Table {
    fn name(self) -> String {
        match self {
            Self::None => "no table, straight to the pod".to_owned(),
            Self::OneRule => "one dnat rule".to_owned(),
            Self::Portway(services) => format!("Portway, {} Services", grouped(services)),
            Self::Hashing(services) => format!("Portway, {} Services by source-ip", grouped(services)),
            Self::Resets(services) => format!("Portway, {} Services, an endpoint is gone", grouped(services)),
            Self::BesideDirect(services) => format!("Portway, {} Services, direct return of others", grouped(services)),
            Self::Direct(services) => format!("direct return, {} Services", grouped(services)),
            Self::Peer(services) => format!("kube-proxy's shape, {} Services", grouped(services)),
        }
    }
}

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
    use Table::{BesideDirect, Direct, Hashing, None as Nothing, OneRule, Peer, Portway, Resets};
    let files: Vec<String> = std::env::args().filter(|name| name.ends_with(".nft")).collect();
    if !files.is_empty() {
        return compare(files);
    }
    let (tables, rounds): (&[Table], usize) = if is_quick() {
        let ours = [Portway(1), Portway(1_000), Hashing(1_000), Resets(1_000), BesideDirect(1_000), Direct(100)];
        (&[&[Nothing, OneRule], &ours[..], &[Portway(10_000), Peer(1), Peer(1_000)]].concat(), 400)
    } else {
        let ours = [Portway(1), Portway(1_000), Hashing(1_000), Portway(10_000), Portway(100_000)];
        let more = [Resets(1_000), BesideDirect(1_000), Direct(100)];
        (&[&[Nothing, OneRule], &ours[..], &more, &[Peer(1), Peer(1_000), Peer(10_000)]].concat(), 2_000)
    };
    let mut tcp: Vec<Subject> = tables.iter().map(|table| Subject::new(*table, Protocol::Tcp)).collect();
    let small = [Nothing, OneRule, Portway(1_000), Peer(1_000)];
    let mut udp = small.map(|table| Subject::new(table, Protocol::Udp));
    let mut report = Report::new("datapath");
    settle_on_one_cpu();
    forward(&mut tcp, rounds);
    connect(&mut tcp, rounds / 10);
    show(&mut report, &tcp, "TCP");
    forward(&mut udp, rounds / 2);
    show(&mut report, &udp, "UDP");
    draw(&tcp);
}

/// New flows only, and no result file. The tables take turns in one lane and are loaded anew each time: lanes, and places in
/// memory, differ by some 20 ns.
fn compare(files: Vec<String>) {
    let subject = Subject::new(Table::OneRule, Protocol::Tcp);
    let mut tables = vec![(Table::OneRule.name(), one_rule(Protocol::Tcp))];
    tables.extend(files.into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        (file, text)
    }));
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
        let lane = Lane::build();
        match table {
            Table::None => {}
            Table::OneRule => drop(peer::load(&one_rule(protocol))),
            Table::Portway(services) => drop(portway(services, protocol, |event| event)),
            Table::Hashing(services) => drop(portway(services, protocol, cluster::hashing)),
            Table::Resets(services) => with_one_gone(services, protocol),
            Table::BesideDirect(services) => {
                drop(portway(services, protocol, |event| event));
                hand_on([Ipv4Addr::new(203, 0, 113, 1).into()], protocol);
            }
            Table::Direct(services) => hand_on((0..services).map(|n| cluster::service(n).cluster_ips[0]), protocol),
            Table::Peer(services) => drop(peer::load(&peer::table(services, ENDPOINTS, protocol))),
        }
        lane.trust_checksums();
        Self { table, protocol, lane, new: Vec::new(), established: Vec::new(), connections: Vec::new() }
    }

    /// Flow number `n`: of a client of its own, to a Service taken at random, the same in every run.
    fn flow(&self, n: u32) -> Flow {
        Flow::from_client(n, self.protocol, self.target(n))
    }

    fn target(&self, n: u32) -> (Ipv4Addr, u16) {
        let random = n.wrapping_mul(2_654_435_761) as usize >> 8;
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("{address} is not IPv4"),
        };
        match self.table {
            // Not the first endpoint: all Services share that one.
            Table::None => (v4(cluster::slice(random % 10_000, ENDPOINTS, 0).endpoints[1].address), 8080),
            Table::OneRule => (v4(cluster::service(0).cluster_ips[0]), 80),
            Table::Portway(services)
            | Table::Hashing(services)
            | Table::Resets(services)
            | Table::BesideDirect(services)
            | Table::Direct(services)
            | Table::Peer(services) => (v4(cluster::service(random % services).cluster_ips[0]), 80),
        }
    }

    /// Nanoseconds a frame.
    fn time(&self, frames: &[Vec<u8>]) -> f64 {
        let start = Instant::now();
        self.lane.send(frames);
        start.elapsed().as_nanos() as f64 / frames.len() as f64
    }
}

fn portway(services: usize, protocol: Protocol, change: fn(Event) -> Event) -> Controller<NftKernel> {
    let kernel = NftKernel::open().expect("nf_tables");
    let options = Options { reset_for: Duration::from_secs(3600), ..cluster::options() };
    let (mut controller, reports) = Controller::new(kernel, options);
    let events = cluster::events(services, ENDPOINTS).into_iter().map(|event| change(cluster::over(event, protocol)));
    controller.handle(events, Instant::now());
    assert_eq!((reports.borrow().syncs, reports.borrow().failures), (1, 0));
    controller
}

/// An endpoint has left the first Service. Nothing that is measured goes there.
fn with_one_gone(services: usize, protocol: Protocol) {
    let mut controller = portway(services, protocol, |event| event);
    let slice = |pods: &[&str]| {
        let slice = EndpointSlice { service: cluster::service(0).key, ..portway::testing::slice("gone", "", pods) };
        EndpointSlice { ports: vec![portway::testing::slice_port("http", 8080)], ..slice }
    };
    for pods in [&["11.120.0.1"][..], &[]] {
        controller.handle([portway::testing::added_slice(slice(pods))], Instant::now());
    }
    let table = Command::new("nft").args(["list", "table", "ip", "portway"]).output().expect("nft");
    assert!(String::from_utf8_lossy(&table.stdout).contains("chain reset-arriving"), "the chains are there");
}

/// The table of direct return for these addresses, with the pods' end of the lane as the other node.
fn hand_on(addresses: impl IntoIterator<Item = IpAddr>, protocol: Protocol) {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("an interface");
    let mut table = DirectTable::default();
    table.devices.extend(["near", "far"].map(|name| (index(name), name.into())));
    let hop = Hop { device: index("far"), address: Ipv4Addr::new(11, 254, 0, 2).into() };
    let frontend = DirectFrontend {
        hash: SlotHash { modulus: 1024, ports: true },
        label: "bench/direct".into(),
        slots: vec![Some(hop); 1024].into(),
    };
    for address in addresses {
        let key = Bytes::new().ip(address).u8(protocol.number()).u16(80);
        table.frontends.insert((Family::Ipv4, key), frontend.clone());
    }
    let mut kernel = DirectKernel::open(KernelOptions::default()).expect("nf_tables");
    kernel.make(&DirectFound::default(), &table).expect("the table is made");
}

fn one_rule(protocol: Protocol) -> String {
    let (vip, pod) = (cluster::service(0).cluster_ips[0], cluster::slice(0, ENDPOINTS, 0).endpoints[1].address);
    let protocol = peer::name(protocol);
    format!(
        "add table ip one\nadd chain ip one prerouting {{ type nat hook prerouting priority -100 ; }}\n\
         add rule ip one prerouting ip daddr {vip} {protocol} dport 80 dnat to {pod}:8080\n"
    )
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
    for round in 0..rounds as u32 {
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
    for (subject, before) in subjects.iter().zip(before) {
        let (sent, arrived) = (2 * rounds as u64 * u64::from(BATCH), subject.lane.arrived() - before);
        assert!(arrived >= sent, "{}: {arrived} of {sent} packets arrived", subject.table.name());
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
    let base = subjects.iter().find(|subject| subject.table == Table::OneRule).expect("the one to compare with");
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

fn draw(subjects: &[Subject]) {
    let base = &subjects.iter().find(|subject| subject.table == Table::OneRule).expect("the one to compare with").new;
    let points = |services: fn(Table) -> Option<usize>| {
        let measured = subjects.iter().filter_map(|subject| Some((services(subject.table)?, subject)));
        measured.map(|(services, subject)| (services as f64, added(&subject.new, base))).collect()
    };
    let ours = points(|table| if let Table::Portway(services) = table { Some(services) } else { None });
    let peer = points(|table| if let Table::Peer(services) = table { Some(services) } else { None });
    let chart = Chart {
        title: "What a new connection pays",
        subtitle: "First packet of a flow, over a table with one dnat rule (ns)",
        label: |value| format!("{value:.0}"),
        logarithmic: false,
        series: vec![
            Series { name: "kube-proxy's shape", color: "#c2410c", points: peer },
            Series { name: "Portway", color: "#1d4ed8", points: ours },
        ],
    };
    chart.write("new-flow");
}
