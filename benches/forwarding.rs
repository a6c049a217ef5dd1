//! What the kernel does for a packet of an established connection that it forwards, in instructions: straight to the pod, with
//! one dnat rule, with Portway, and with Portway's fast path.
//!
//! `make instructions` runs it in a guest of qemu whose clock counts instructions (`-icount shift=0`): there a nanosecond is an
//! instruction, and the counts hardly differ from run to run. Run as root elsewhere (`cargo bench --bench forwarding`) it tells
//! nanoseconds; a kernel without flow tables has no row for the fast path.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use portway::controller::Controller;
use portway::model::Protocol;
use portway::nftables::{FastKernel, KernelOptions, NftKernel};
use portway::ruleset::{FAST_AFTER_PACKETS, FastFound};
use portway::{config::Options, render};

use support::lane::{Flow, Lane, NODE_POD_MAC, POD_MAC, packets_of, send_all};
use support::netns::output_of;
use support::peer;
use support::stats::{grouped, middle};

const ENDPOINTS: usize = 10;
const SERVICES: usize = 1_000;
const FLOWS: u32 = 20;
/// Packets of a batch.
const BATCH: usize = 500;
const BATCHES: usize = 60;
const MAC_LEN: usize = 6;
/// The last byte of the address a frame is sent to; another one than the node's, and the node drops it at once.
const MAC_END: usize = MAC_LEN - 1;

/// What stands between client and pods.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The node drops frames before it looks at them: what is left is the work of sending.
    Cable,
    /// The node's own packet socket sends frames to the pods: what is left is sending, and the pods' end.
    PodsEnd,
    Straight,
    OneRule,
    Portway,
    /// With the packets of connections counted, as the fast path needs it.
    Counted,
    FastPath,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Cable => f.write_str("dropped at the node's interface: sending alone"),
            Way::PodsEnd => f.write_str("sent by the node itself: sending, and the pods' end"),
            Way::Straight => f.write_str("no table, straight to the pod"),
            Way::OneRule => f.write_str("one dnat rule"),
            Way::Portway => write!(f, "Portway, {} Services", grouped(SERVICES)),
            Way::Counted => write!(f, "the same, packets of connections counted"),
            Way::FastPath => f.write_str("the same, with the fast path"),
        }
    }
}

fn main() {
    let counts = std::env::args().any(|argument| argument == "--instructions");
    let unit = if counts { "instructions" } else { "ns" };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut ways = vec![Way::Cable, Way::PodsEnd, Way::Straight, Way::OneRule, Way::Portway, Way::Counted];
        ways.extend(has_flow_tables().then_some(Way::FastPath));
        let measured: Vec<(Way, Vec<f64>)> = ways.into_iter().map(|way| (way, measure(way, protocol))).collect();
        show(protocol, unit, &measured);
    }
}

fn has_flow_tables() -> bool {
    let trial = FastKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.trial());
    trial.map_err(|cause| println!("no flow tables: {cause}")).is_ok()
}

/// What a packet takes, of each batch.
fn measure(way: Way, protocol: Protocol) -> Vec<f64> {
    let lane = Lane::build();
    let _controller = prepare(way, protocol);
    lane.trust_checksums();
    let flows: Vec<Flow> = (0..FLOWS).map(|n| Flow::from_client(n, protocol, target(way, n))).collect();
    let mut frames = lane.establish(&flows);
    // Beyond the threshold of the fast path, and whatever else is slower at first.
    (0..2 * FAST_AFTER_PACKETS).for_each(|_| lane.send(&frames));
    let on_fast_path = output_of("conntrack", &["-L"]).matches("[OFFLOAD]").count();
    assert_eq!(on_fast_path, if way == Way::FastPath { FLOWS as usize } else { 0 }, "{way}");
    if way == Way::Cable {
        frames.iter_mut().for_each(|frame| frame[MAC_END] ^= 0x40);
    }
    if way == Way::PodsEnd {
        // As the node hands them on: to the pods, from itself.
        frames.iter_mut().for_each(|frame| frame[..2 * MAC_LEN].copy_from_slice(&[POD_MAC, NODE_POD_MAC].concat()));
    }
    let frames: Vec<Vec<u8>> = frames.into_iter().cycle().take(BATCH).collect();
    let pods_end = packets_of("far", None);
    let send = || match way {
        Way::PodsEnd => send_all(&pods_end, &frames),
        _ => lane.send(&frames),
    };
    let before = lane.arrived();
    let times = (0..BATCHES).map(|_| {
        let start = Instant::now();
        send();
        start.elapsed().as_nanos() as f64 / BATCH as f64
    });
    let times = times.collect();
    let arrived = lane.arrived() - before;
    let expected = if way == Way::Cable { 0 } else { (BATCH * BATCHES) as u64 };
    assert!((expected..expected + 50).contains(&arrived), "{way}: {arrived} of {expected} packets arrived");
    times
}

/// Makes the table; what must stay as long as it is measured.
fn prepare(way: Way, protocol: Protocol) -> Option<Controller<NftKernel>> {
    match way {
        Way::Cable | Way::PodsEnd | Way::Straight => None,
        Way::OneRule => {
            let (vip, pod) = (target(way, 0).0, cluster::slice(0, ENDPOINTS, 0).endpoints[1].address);
            peer::load(&format!(
                "add table ip one\nadd chain ip one prerouting {{ type nat hook prerouting priority -100 ; }}\n\
                 add rule ip one prerouting ip daddr {vip} {} dport 80 dnat to {pod}:8080\n",
                peer::name(protocol)
            ));
            None
        }
        Way::Portway | Way::Counted | Way::FastPath => {
            let fast_path_devices = if way == Way::FastPath { vec!["near".into(), "far".into()] } else { Vec::new() };
            let options = Options { fast_path_devices: fast_path_devices.clone(), ..cluster::options() };
            let (mut controller, reports) = Controller::new(NftKernel::open().expect("nf_tables"), options);
            let events = cluster::events(SERVICES, ENDPOINTS).into_iter().map(|event| cluster::over(event, protocol));
            controller.handle(events, Instant::now());
            assert_eq!((reports.borrow().syncs, reports.borrow().failures), (1, 0));
            let counted = if way == Way::Portway { "0" } else { "1" };
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", counted).expect("connection tracking");
            if way == Way::FastPath {
                let mut kernel = FastKernel::open(KernelOptions::new(false)).expect("nf_tables");
                let devices = fast_path_devices.into_iter().collect();
                let refused = kernel.make(&FastFound::default(), &devices).expect("the table is made");
                assert!(refused.is_empty(), "{refused:?} {}", render::fast_table(&devices));
            }
            Some(controller)
        }
    }
}

/// Where flow `n` goes.
fn target(way: Way, n: u32) -> (Ipv4Addr, u16) {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not IPv4"),
    };
    let service = n as usize * 37 % SERVICES;
    match way {
        // Not the first endpoint: all Services share that one.
        Way::Cable | Way::PodsEnd | Way::Straight => {
            (v4(cluster::slice(service, ENDPOINTS, 0).endpoints[1].address), 8080)
        }
        Way::OneRule => (v4(cluster::service(0).cluster_ips[0]), 80),
        Way::Portway | Way::Counted | Way::FastPath => (v4(cluster::service(service).cluster_ips[0]), 80),
    }
}

/// Medians, and the least and the most of the middle nine tenths of the batches. The node's own part is what is left without
/// sending and the pods' end.
fn show(protocol: Protocol, unit: &str, measured: &[(Way, Vec<f64>)]) {
    let of = |wanted: Way| measured.iter().find(|(way, _)| *way == wanted).map(|(_, times)| middle(times));
    let [cable, pods_end, without] =
        [Way::Cable, Way::PodsEnd, Way::Portway].map(|way| of(way).expect("it was measured"));
    println!("\n| {protocol}, {unit} per packet | all | without sending | without sending and the pods' end |");
    println!("|---|---|---|---|");
    for (way, times) in measured {
        let median = middle(times);
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let edge = sorted.len() / 20;
        let (least, most) = (sorted[edge] as usize, sorted[sorted.len() - 1 - edge] as usize);
        let part = |base: f64| match median - base {
            own if own > 0.0 => format!("{} ({:.2})", grouped(own as usize), own / (without - base)),
            _ => "-".to_owned(),
        };
        let all = format!("{} ({least} - {most}; {:.2})", grouped(median as usize), median / without);
        println!("| {way} | {all} | {} | {} |", part(cable), part(pods_end));
    }
    println!(
        "\nIn brackets the middle nine tenths of {BATCHES} batches, and the part of Portway without the fast path."
    );
}
