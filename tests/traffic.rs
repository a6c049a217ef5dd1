//! Real connections through the real program: balance, changes under load, and a program that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway::nftables::NftKernel;
use support::corpus::Scenario;
use support::manifests::{ipv4_slice, service};
use support::netns::output_of;
use support::objects::Objects;
use support::program::{Launch, Program};
use support::three_pods::{NODE_IP, PODS, ThreePodNetwork};
use support::wait::eventually;

const SHOP: &str = "10.96.0.10:80";
/// The ways to the shop.
const NODE_PORT: u16 = 30_080;
/// Of the chi-square distribution with two degrees of freedom, exceeded once in 1,000 times by chance.
const CHI_SQUARE_2_0_001: f64 = 13.816;

fn scenario() -> Scenario {
    assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    Scenario::uneventful("traffic")
}

fn shop() -> SocketAddr {
    SHOP.parse().expect("valid")
}

/// The cluster with these endpoints behind the shop, and so many other Services.
fn cluster(endpoints: &[Ipv4Addr], others: usize) -> String {
    let mut text = Objects::of_cluster(&scenario()).and_then(|objects| objects.to_yaml()).expect("objects") + "---\n";
    let mut add = |name: &str, spec: &str, endpoints: &[Ipv4Addr]| {
        let endpoints: Vec<String> = endpoints.iter().map(Ipv4Addr::to_string).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        text += &service(name, spec);
        text += &ipv4_slice(name, &endpoints, Some("node-a"));
    };
    let node_port = format!("type: NodePort, clusterIP: 10.96.0.10, ports: [{{port: 80, nodePort: {NODE_PORT}}}]");
    add("shop/shop", &node_port, endpoints);
    for n in 0..others {
        add(&format!("shop/other-{n}"), &format!("clusterIP: 10.96.1.{n}, ports: [{{port: 80}}]"), &PODS);
    }
    text
}

fn counts(network: &ThreePodNetwork, to: SocketAddr, requests: usize) -> BTreeMap<Ipv4Addr, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(network.call(to).expect("an answer").pod).or_default() += 1;
    }
    counts
}

fn kernel() -> NftKernel {
    NftKernel::open_to_read().expect("a socket")
}

fn generation() -> u32 {
    kernel().generation().expect("a generation")
}

fn can_own() -> bool {
    kernel().can_own().expect("asked")
}

/// The tables without counts and owner; `nft` before 1.1 does not know all flags of a table.
fn rules() -> String {
    let listing = output_of("nft", &["-s", "list", "ruleset"]);
    let lines = listing.lines().filter(|line| !line.is_empty() && !line.starts_with("\tflags"));
    lines.map(|line| line.split(" # progname").next().unwrap_or(line).to_owned() + "\n").collect()
}

#[test]
fn a_thousand_requests_are_spread_evenly() {
    let network = ThreePodNetwork::build().expect("a network");
    let _program = Program::start(&scenario(), &cluster(&PODS, 0)).expect("a first sync");
    for to in [shop(), SocketAddr::new(NODE_IP.into(), NODE_PORT)] {
        let counts = counts(&network, to, 1000);
        let expected = 1000.0 / 3.0;
        let of = |pod: &Ipv4Addr| counts.get(pod).copied().unwrap_or(0) as f64;
        let chi_square: f64 = PODS.iter().map(|pod| (of(pod) - expected).powi(2) / expected).sum();
        println!("{to}: {counts:?}, chi-square {chi_square:.2}");
        assert!(chi_square < CHI_SQUARE_2_0_001, "{to}: {counts:?}, chi-square {chi_square:.2}");
    }
}

#[test]
fn connections_survive_changes_and_new_ones_follow_them() {
    let network = ThreePodNetwork::build().expect("a network");
    let program = Program::start(&scenario(), &cluster(&PODS, 0)).expect("a first sync");
    let mut calls: Vec<_> = (0..24).map(|_| network.call(shop()).expect("an answer")).collect();
    let ends: BTreeSet<Ipv4Addr> = calls.iter().map(|call| call.pod).collect();
    assert_eq!(ends.len(), 3, "24 connections have chosen {ends:?}");
    let mut all_talk = |word: &str| {
        calls.iter_mut().for_each(|call| call.talk(word).unwrap_or_else(|error| panic!("{word}: {error:#}")));
    };
    all_talk("at the beginning");

    program.reload(&cluster(&PODS, 50)).expect("a sync");
    all_talk("after unrelated changes");

    program.reload(&cluster(&PODS[1..], 50)).expect("a sync");
    let reached = counts(&network, shop(), 300);
    assert_eq!(reached.keys().copied().collect::<Vec<_>>(), PODS[1..], "after the removal of {}", PODS[0]);
    all_talk("after the removal of an endpoint");

    program.reload(&cluster(&[], 0)).expect("a sync");
    all_talk("after the removal of all endpoints");
    for to in [shop(), SocketAddr::new(NODE_IP.into(), NODE_PORT)] {
        // The ICMP answer to a SYN can be back before connect() has let go of its socket: then the kernel only notes it.
        let kinds: Vec<ErrorKind> = (0..5).map(|_| network.failure(to).expect("no answer").0).collect();
        assert!(kinds.contains(&ErrorKind::ConnectionRefused), "{to}: {kinds:?}");
        assert!(
            kinds.iter().all(|k| [ErrorKind::ConnectionRefused, ErrorKind::TimedOut].contains(k)),
            "{to}: {kinds:?}"
        );
    }

    program.reload(&cluster(&PODS[..1], 0)).expect("a sync");
    assert_eq!(network.call(shop()).expect("an answer").pod, PODS[0], "endpoints are back");
}

#[test]
fn rules_stay_when_the_program_ends() {
    for owned in [false, true] {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let network = ThreePodNetwork::build().expect("a network");
            let launch = Launch { owned, ..Launch::default() };
            let objects = cluster(&PODS, 20);
            let mut program = Program::launch(launch, &scenario(), &objects).expect("a first sync");
            let mut call = network.call(shop()).expect("an answer");
            let before = (rules(), generation());
            let pid = Pid::from_raw(i32::try_from(program.pid()).expect("a process"));
            kill(pid, signal).expect("a running program");
            let status = program.wait().expect("an end");
            assert_eq!(status.success(), signal == Signal::SIGTERM, "{signal}: {status}");
            drop(program);
            assert!(before.0.contains("10.1.0.3"), "{}", before.0);
            assert_eq!(rules(), before.0, "{signal}, owned: {owned}");
            call.talk("nobody is there").expect("an echo");
            assert_eq!(counts(&network, shop(), 60).len(), 3, "{signal}, owned: {owned}");
            // The kernel itself notes the end of an owner.
            let after = generation();
            let _next = Program::launch(launch, &scenario(), &objects).expect("a first sync");
            let written = generation().wrapping_sub(after);
            let protected = owned && can_own();
            // It makes the tables its own where it can, and that is all.
            assert_eq!(written, u32::from(protected), "{signal}, owned: {owned}: what the next program has written");
            assert_eq!(rules(), before.0, "{signal}, owned: {owned}");
            call.talk("somebody is there again").expect("an echo");
            assert_eq!(output_of("nft", &["flush", "ruleset"]), "");
            if protected {
                assert_eq!(rules(), before.0, "{signal}: owned again, so that nobody else can change them");
            } else {
                eventually("repair of the flushed tables", || rules() == before.0);
            }
        }
    }
}

#[test]
fn no_process_is_ever_started() {
    let network = ThreePodNetwork::build().expect("a network");
    let folder = tempfile::tempdir().expect("a folder");
    let record = folder.path().join("calls");
    let record = record.to_str().expect("a plain name");
    let under = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve,execveat,clone,clone3,fork,vfork",
        "-e",
        "signal=none",
        "-o",
        record,
    ];
    let mut program = Program::launch(Launch { under: &under, owned: true }, &scenario(), &cluster(&PODS, 3))
        .expect("strace and a first sync");
    program.reload(&cluster(&PODS[1..], 20)).expect("a sync");
    assert_eq!(counts(&network, shop(), 60).len(), 2);
    let calls = || std::fs::read_to_string(record).expect("strace has written");
    let first = calls().split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a process number");
    kill(Pid::from_raw(first), Signal::SIGTERM).expect("a running program");
    program.wait().expect("an end");
    let calls = calls();
    let started: Vec<&str> = calls.lines().filter(|line| line.contains("execve")).collect();
    assert_eq!(started.len(), 1, "only the program itself: {started:#?}");
    let (threads, processes): (Vec<&str>, Vec<&str>) = calls
        .lines()
        .filter(|line| {
            ["clone(", "clone3(", "fork("].iter().any(|call| line.contains(call)) && !line.contains("resumed")
        })
        .partition(|line| line.contains("CLONE_THREAD"));
    assert!(!threads.is_empty(), "strace has seen no thread: {calls}");
    assert_eq!(processes, [""; 0], "child processes");
}
