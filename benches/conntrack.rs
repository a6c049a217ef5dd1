//! What cleaning costs with a million entries in the kernel's table of flows, and what syncs notice of it.
//!
//! Run as root: `cargo bench --bench conntrack`. Entries are in a network namespace of its own; the limit of entries, which
//! belongs to the whole machine, is raised meanwhile.

#![allow(missing_docs)]

mod cluster;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use portway::conntrack::{Cleaning, ConntrackObserver};
use portway::controller::Controller;
use portway::model::{Event, Protocol};
use portway::nftables::NftKernel;

const ENTRIES: u32 = 1_000_000;
/// Of those, TCP.
const TCP: u32 = 300_000;
const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;
const ROUNDS: usize = 1_000;

fn main() {
    let limit = Raised::new("/proc/sys/net/netfilter/nf_conntrack_max", u64::from(ENTRIES) * 2);
    let buckets = Raised::new("/proc/sys/net/netfilter/nf_conntrack_buckets", u64::from(ENTRIES) / 4);
    // A thread of its own: the main thread stays where limits can be restored.
    let result = std::thread::spawn(measure).join();
    drop((limit, buckets));
    if result.is_err() {
        std::process::exit(1);
    }
}

/// A setting of the machine that is put back.
struct Raised {
    path: &'static str,
    before: String,
}

impl Raised {
    fn new(path: &'static str, least: u64) -> Self {
        let before = std::fs::read_to_string(path).expect("nf_conntrack is loaded").trim().to_owned();
        if before.parse::<u64>().expect("a number") < least {
            std::fs::write(path, least.to_string()).expect("root in the first network namespace");
        }
        Self { path, before }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        std::fs::write(self.path, &self.before).expect("as before");
    }
}

fn measure() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root, for a network namespace of its own");
    let (mut controller, cleanings) = controller(true);
    next(&cleanings);
    let before = memory();
    println!("| run | entries told of | deleted | time | entries/s | memory more than before (VmHWM) |");
    println!("|---|---|---|---|---|---|");

    fill();
    let row = |what: &str, cleaning: Cleaning| {
        let seconds = cleaning.duration.as_secs_f64();
        let per_second = cleaning.scanned.max(cleaning.deleted) as f64 / seconds;
        let (scanned, deleted, more) = (cleaning.scanned, cleaning.deleted, memory().saturating_sub(before));
        println!("| {what} | {scanned} | {deleted} | {:.0?} | {per_second:.0} | {more} KiB |", cleaning.duration);
    };
    // The Service of 70,000 flows loses one of its ten endpoints.
    controller.handle([put_slice(busy(), 1)], Instant::now());
    row("one of 10 endpoints of one Service replaced", next(&cleanings));

    // A restart looks at everything.
    drop(controller);
    let (controller, cleanings) = self::controller(true);
    row("restart, all UDP Services asked for", next(&cleanings));
    drop(controller);

    let (mut controller, cleanings) = self::controller(true);
    next(&cleanings);
    fill();
    let gone = (0..SERVICES).map(|n| Event::ServiceDeleted(cluster::service(n).key));
    controller.handle(gone, Instant::now());
    row("all Services deleted", next(&cleanings));
    drop(controller);

    syncs();
}

/// Times of syncs that replace an endpoint of a UDP Service, so that each asks for cleaning.
fn syncs() {
    println!("\n| syncs of one endpoint | p50 | p99 | slowest | cleaning runs meanwhile |");
    println!("|---|---|---|---|---|");
    fill();
    for (what, observed) in [("without cleaning", false), ("with a million entries to walk", true)] {
        let (mut controller, cleanings) = controller(observed);
        if observed {
            next(&cleanings);
        }
        let mut times: Vec<Duration> = (1..=ROUNDS)
            .map(|round| {
                let event = put_slice(round % SERVICES, 1 + round);
                let start = Instant::now();
                controller.handle([event], start);
                let time = start.elapsed();
                // Time for the cleaner to be in the middle of it.
                std::thread::sleep(Duration::from_millis(5));
                time
            })
            .collect();
        times.sort_unstable();
        let runs = drain(&cleanings);
        println!(
            "| {what} | {:.0?} | {:.0?} | {:.0?} | {runs} |",
            times[ROUNDS / 2],
            times[ROUNDS * 99 / 100],
            times[ROUNDS - 1]
        );
    }
}

/// A controller in this thread's namespace, with all Services of the cluster made UDP.
fn controller(observed: bool) -> (Controller<NftKernel>, Receiver<Cleaning>) {
    let mut kernel = NftKernel::open().expect("nf_tables");
    kernel.cleanup().expect("a clean start");
    let (mut controller, _) = Controller::new(kernel, cluster::options());
    let (sender, cleanings) = channel();
    if observed {
        let report = move |cleaning: &Cleaning| {
            sender.send(cleaning.clone()).ok();
        };
        controller.observe(ConntrackObserver::start(report).expect("ctnetlink"));
    }
    let events = cluster::events(SERVICES, ENDPOINTS).into_iter().map(|event| cluster::over(event, Protocol::Udp));
    controller.handle(events, Instant::now());
    (controller, cleanings)
}

fn put_slice(n: usize, generation: usize) -> Event {
    cluster::over(Event::Slice(cluster::slice(n, ENDPOINTS, generation).into()), Protocol::Udp)
}

/// The Service every tenth UDP flow goes to.
fn busy() -> usize {
    SERVICES / 2
}

fn next(cleanings: &Receiver<Cleaning>) -> Cleaning {
    let cleaning = cleanings.recv_timeout(Duration::from_secs(120)).expect("a cleaning run");
    assert_eq!(cleaning.error, None);
    cleaning
}

/// Waits until nothing is cleaned any more; how many runs there were.
fn drain(cleanings: &Receiver<Cleaning>) -> usize {
    std::iter::from_fn(|| cleanings.recv_timeout(Duration::from_secs(10)).ok()).count()
}

/// The most memory this process has had, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Makes entries of flows to the cluster's endpoints, as many as the table lacks.
fn fill() {
    let start = Instant::now();
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .expect("a netlink socket");
    let mut requests = Vec::new();
    for n in 0..ENTRIES {
        put_entry(&mut requests, n);
        if requests.len() > 60_000 {
            send(&fd, &requests);
            requests.clear();
        }
    }
    send(&fd, &requests);
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").expect("a count");
    eprintln!("{} entries after {:.1?}", count.trim(), start.elapsed());
    assert!(count.trim().parse::<u32>().expect("a number") >= ENTRIES / 100 * 99);
}

fn send(fd: &OwnedFd, requests: &[u8]) {
    sendto(fd.as_raw_fd(), requests, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("sent");
    // Refusals (the entry is there already) are of no interest.
    let mut buffer = [0; 65_536];
    while !matches!(recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT), Err(nix::errno::Errno::EAGAIN)) {}
}

/// Flow number `n`: from a client of its own to one of the Services, answered by one of its endpoints.
fn put_entry(buf: &mut Vec<u8>, n: u32) {
    let service = if n.is_multiple_of(10) { busy() } else { n as usize % SERVICES };
    let vip = cluster::service(service).cluster_ips[0];
    let index = (n / 10) as usize % ENDPOINTS;
    let number = (service * ENDPOINTS + index) as u32;
    let endpoint: IpAddr = if index == 0 { [12, 0, 0, 0].into() } else { Ipv4Addr::from(0x0b00_0000 | number).into() };
    let client: IpAddr = Ipv4Addr::from(0x6440_0000 | (n >> 4)).into();
    let port = 10_000 + (n & 15) as u16;
    let protocol = if n < TCP { 6 } else { 17 };

    let start = buf.len();
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&(1_u16 << 8).to_ne_bytes()); // ctnetlink, new
    buf.extend_from_slice(&0x601_u16.to_ne_bytes()); // request, create, exclusively
    buf.extend_from_slice(&[0; 8]);
    buf.extend_from_slice(&[2, 0, 0, 0]); // AF_INET
    tuple(buf, 1, protocol, (client, port), (vip, 80));
    tuple(buf, 2, protocol, (endpoint, 8080), (client, port));
    attr(buf, 7, &3_600_u32.to_be_bytes()); // timeout
    if protocol == 6 {
        nest(buf, 4, |buf| nest(buf, 1, |buf| attr(buf, 1, &[3]))); // established
    }
    let len = (buf.len() - start) as u32;
    buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

fn tuple(buf: &mut Vec<u8>, kind: u16, protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) {
    nest(buf, kind, |buf| {
        nest(buf, 1, |buf| {
            for (kind, ip) in [(1, source.0), (2, destination.0)] {
                if let IpAddr::V4(ip) = ip {
                    attr(buf, kind, &ip.octets());
                }
            }
        });
        nest(buf, 2, |buf| {
            attr(buf, 1, &[protocol]);
            attr(buf, 2, &source.1.to_be_bytes());
            attr(buf, 3, &destination.1.to_be_bytes());
        });
    });
}

fn nest(buf: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    inside(&mut value);
    attr(buf, kind | 1 << 15, &value);
}

fn attr(buf: &mut Vec<u8>, kind: u16, value: &[u8]) {
    buf.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(value);
    buf.resize(buf.len().next_multiple_of(4), 0);
}
