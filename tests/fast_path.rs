//! The fast path with real packets through the real program: who takes it, who leaves it, and what of a kernel without flow
//! tables, which reports that and goes on. Needs root.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use portway::nftables::{FastKernel, KernelOptions};
use support::ecmp::{Conversations, Ecmp, INGRESS, NODES, load, objects, within};
use support::fast::{CALLER, CLUSTER_IPS, Call, FastNetwork, NODE_IPS, NODE_PORT, UdpCall, cluster};
use support::netns::{ip_batch, output_of};
use support::node::Program;
use support::program::program_file;
use support::release::is_linux;
use support::wait::eventually;

const READY: &str = "ready: true";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";
const DEVICES: &str = "--fast-path-devices=uplink0,pod*";
/// A second, as the kernel has its round, and what this test and Portway take on a machine that is emulated and busy besides.
const SOON: Duration = Duration::from_secs(10);

fn start(network: &FastNetwork, objects: &str, more: &[&str]) -> Program {
    let flags = network.flags(more);
    Program::again(objects, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

fn table() -> String {
    output_of("nft", &["list", "table", "inet", "portway"])
}

fn accounting_is_on() -> bool {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_acct").is_ok_and(|text| text.trim() == "1")
}

/// Waits until new connections can take it; on a kernel without flow tables until that is said. Whether they can.
fn ready(network: &FastNetwork) -> bool {
    if network.has_flow_tables() {
        eventually("the fast path is on", || table().contains("flow add @portway") && accounting_is_on());
        return true;
    }
    eventually("it says that it is off", || network.ask(&["status"]).contains("this kernel has no flow tables"));
    false
}

/// Whether few of many packets pass the hooks.
fn passes_by(network: &FastNetwork, mut talk: impl FnMut(usize)) -> bool {
    let before = network.forwarded();
    talk(20);
    network.forwarded() - before < 10
}

/// Connections by every way there is to the Service.
fn calls(network: &FastNetwork) -> Vec<Call> {
    let mut calls = Vec::new();
    for (cluster_ip, node_ip) in CLUSTER_IPS.into_iter().zip(NODE_IPS) {
        calls.push(network.in_pod(CALLER, || Call::to("pod to ClusterIP", cluster_ip, 80)));
        calls.push(network.outside(|| Call::to("outside to ClusterIP", cluster_ip, 80)));
        calls.push(network.outside(|| Call::to("outside to NodePort", node_ip, NODE_PORT)));
    }
    calls
}

/// Pods on a bridge: their packets to each other stay on it and are translated there (br_netfilter).
#[test]
fn connections_across_a_bridge_do() {
    for devices in
        ["--fast-path-devices=uplink0,cni0", "--fast-path-devices=uplink0,cni0,pod*", "--fast-path-devices=*"]
    {
        let network = FastNetwork::bridged();
        let _program = start(&network, &cluster(&[(0, READY), (1, READY)], ""), &[devices]);
        let can = ready(&network);
        let mut calls = calls(&network);
        for call in &mut calls {
            call.talk(100);
            // What a pod sends is translated at its port already: where that does not take part, only the other direction does.
            // Before 5.13 kernels do not look through a bridge for the port behind it (dev_fill_forward_path).
            let takes = can && is_linux((5, 13)) && devices.contains('*') && call.way.starts_with("outside");
            if takes {
                eventually(&call.way.clone(), || passes_by(&network, |times| call.talk(times)));
            }
        }
        assert_eq!(network.ask(&["diff"]), "", "{devices}");
    }
}

#[test]
fn established_connections_take_it() {
    let network = FastNetwork::build();
    let _program = start(&network, &cluster(&[(0, READY), (1, READY)], ", sessionAffinity: ClientIP"), &[DEVICES]);
    let can = ready(&network);
    let mut calls = calls(&network);
    for call in &mut calls {
        // The first packets of all connections pass the hooks.
        assert!(!passes_by(&network, |_| call.talk(8)), "{}", call.way);
        assert!(can || !passes_by(&network, |times| call.talk(2 * times)), "{}", call.way);
        if can {
            eventually(&call.way.clone(), || passes_by(&network, |times| call.talk(times)));
        }
    }
    for cluster_ip in CLUSTER_IPS {
        let call = network.in_pod(CALLER, || UdpCall::to(cluster_ip, 53));
        let first = call.speak().expect("an answer");
        let talk = |times: usize| (0..times).for_each(|_| assert_eq!(call.speak(), Some(first), "the same pod"));
        talk(15);
        if can {
            eventually("UDP takes it", || passes_by(&network, talk));
        }
    }
    // Affinity, of which the first packets tell, is what it was.
    let by_family = [0, 3].map(|first| calls[first].pod);
    for (family, cluster_ip) in CLUSTER_IPS.into_iter().enumerate() {
        let again = network.in_pod(CALLER, || Call::to("again", cluster_ip, 80));
        assert_eq!(again.pod, by_family[family], "{cluster_ip}");
    }
    let (status, faults) = (network.ask(&["status"]), network.ask(&["faults"]));
    let metrics = network.ask(&["status", "-o", "json"]);
    assert!(metrics.contains("fast-path"), "{metrics}");
    if can {
        assert!(output_of("conntrack", &["-L", "-p", "tcp"]).contains("[OFFLOAD]"), "conntrack shows it");
        assert!(status.contains("on pod0, pod1, pod2, uplink0") && !faults.contains("FastPath"), "{status}{faults}");
    } else {
        assert!(status.contains("off; this kernel has no flow tables"), "{status}");
        assert!(faults.contains("FastPath") && faults.contains("CONFIG_NF_FLOW_TABLE"), "{faults}");
        assert!(table().contains("failed"), "{}", table());
    }
    assert_eq!(network.ask(&["diff"]), "");
    let check = network.ask(&["check"]);
    assert!(check.contains(if can { "has flow tables" } else { "connections take the ordinary path" }), "{check}");
}

/// Speaks until the connection ends, and says how and when.
fn until_it_ends(call: &mut Call) -> (ErrorKind, Duration) {
    let start = Instant::now();
    loop {
        match call.speak() {
            Err(kind) => return (kind, start.elapsed()),
            Ok(()) => assert!(start.elapsed() < Duration::from_secs(60), "{} goes on", call.way),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn leave(more: &[&str]) {
    let network = FastNetwork::build();
    let program = start(&network, &cluster(&[(0, READY)], ""), &[&[DEVICES], more].concat());
    let can = ready(&network);
    let mut calls = calls(&network);
    let udp = CLUSTER_IPS.map(|ip| network.in_pod(CALLER, || UdpCall::to(ip, 53)));
    for call in &mut calls {
        call.talk(30);
        if can {
            eventually(&call.way.clone(), || passes_by(&network, |times| call.talk(times)));
        }
    }
    (0..30).for_each(|_| udp.iter().for_each(|call| assert_eq!(call.speak(), Some(0))));

    program.replace(&cluster(&[(0, TERMINATING), (1, READY)], ""));
    eventually("new ones go elsewhere", || network.in_pod(CALLER, || Call::to("new", CLUSTER_IPS[0], 80)).pod == 1);
    for call in &mut calls {
        call.talk(5);
        assert!(!can || passes_by(&network, |times| call.talk(times)), "{}: still there", call.way);
    }

    program.replace(&cluster(&[(1, READY)], ""));
    if can {
        for call in &mut calls {
            let (kind, time) = until_it_ends(call);
            println!("{}: {kind} after {time:?}", call.way);
            assert_eq!(kind, ErrorKind::ConnectionReset, "{}", call.way);
            assert!(time < SOON, "{}: {time:?}", call.way);
        }
    } else if more.is_empty() {
        std::thread::sleep(Duration::from_secs(1));
        calls.iter_mut().for_each(|call| call.talk(5));
    }
    for call in &udp {
        eventually("UDP goes elsewhere", || call.speak() == Some(1));
    }

    // The last one goes: nobody is left to answer for it.
    let mut last = self::calls(&network);
    last.iter_mut().for_each(|call| call.talk(30));
    program.replace(&cluster(&[], ""));
    if can {
        for call in &mut last {
            let (kind, time) = until_it_ends(call);
            println!("{}, the last: {kind} after {time:?}", call.way);
            assert_eq!(kind, ErrorKind::ConnectionReset, "{}", call.way);
        }
    }
}

#[test]
fn flows_to_an_endpoint_that_is_gone_leave_it() {
    leave(&[]);
}

#[test]
fn they_do_beside_resets() {
    leave(&["--reset-connections-for=60s"]);
}

#[test]
fn what_a_filter_drops_does_not_take_it() {
    let network = FastNetwork::build();
    let _program = start(&network, &cluster(&[(0, READY)], ""), &[DEVICES]);
    let can = ready(&network);
    let [early, late] = [(); 2].map(|()| network.in_pod(CALLER, || UdpCall::to(CLUSTER_IPS[0], 53)));
    let talk = |call: &UdpCall, times: usize| (0..times).filter(|_| call.speak() == Some(0)).count();
    assert_eq!(talk(&early, 30), 30);
    if can {
        eventually("UDP takes it", || passes_by(&network, |times| assert_eq!(talk(&early, times), times)));
    }
    assert_eq!(talk(&late, 5), 5);
    load("table inet filters {\nchain forward {\ntype filter hook forward priority 0;\nudp dport 5353 drop\n}\n}\n");
    // Packets that are dropped are counted, but never get as far as the rule.
    assert_eq!(talk(&late, 25), 0);
    assert_eq!(talk(&late, 2), 0);
    // What was taken over before goes on: docs/fast-path.md says so, and what to do.
    assert_eq!(talk(&early, 5), if can { 5 } else { 0 });
    assert!(Command::new("conntrack").args(["-D", "-p", "udp"]).output().expect("conntrack").status.success());
    eventually("the policy holds", || early.speak().is_none());
}

/// Connections of direct return come in by whatever node, before and after they take the fast path of their endpoint's node.
#[test]
fn direct_return_goes_on_beside_it() {
    let vips = ["203.0.113.1", "2001:db8:f::1"];
    let mut ecmp = Ecmp::build();
    let flags = ["--direct-return-devices=eth0", "--fast-path-devices=eth0,pod"];
    ecmp.start(&objects(&[("direct", vips, "portway.io/balance: source-ip-port")]), &flags);
    ecmp.spread(&vips, &INGRESS);
    eventually("all nodes hand packets on", || {
        NODES.iter().all(|(node, _)| ecmp.ask(node, &["status"]).contains("4 frontends to"))
    });
    for (vip, udp) in vips.into_iter().flat_map(|vip| [(vip, false), (vip, true)]) {
        let to = SocketAddr::new(vip.parse().expect("an address"), 80);
        let open = || Conversations::open(to, udp, 30, Duration::from_millis(1), || {});
        let mut open = within(&ecmp.client, open);
        let mut ask = |when: &str| {
            for (first, now) in within(&ecmp.client, || open.ask()) {
                assert_eq!(now, Ok(first), "{vip}, UDP {udp}, {when}");
            }
        };
        // More packets than the fast path waits for.
        (0..15).for_each(|_| ask("all nodes there"));
        ecmp.kill("i1", &vips);
        (0..3).for_each(|_| ask("one node dead"));
        ecmp.revive("i1", &vips);
    }
    let can = FastKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.trial()).is_ok();
    let flows = within(ecmp.node("e1"), || output_of("conntrack", &["-L"]));
    assert_eq!(flows.contains("[OFFLOAD]"), can, "{flows}");
}

#[test]
fn interfaces_come_and_go_and_so_does_the_table() {
    let network = FastNetwork::build();
    let objects = cluster(&[(0, READY)], "");
    let program = start(&network, &objects, &[DEVICES, "--no-table-ownership"]);
    let can = ready(&network);
    if can {
        ip_batch(
            "link add pod9 type veth peer name x9\nlink set pod9 up\nlink add other9 type dummy\nlink set other9 up\n",
        )
        .expect("interfaces");
        eventually("the new one takes part", || table().contains("pod9"));
        assert!(!table().contains("other9") && !table().contains("lo,"), "{}", table());
        ip_batch("link del pod9\n").expect("deleted");
        eventually("it is gone", || !table().contains("pod9"));
        assert!(table().contains("uplink0"), "{}", table());
        assert_eq!(network.ask(&["diff"]), "");

        // What others change is shown and mended.
        let damage = ["flush chain inet portway forward; delete flowtable inet portway portway"];
        eventually("what others change is shown", || {
            // It may have been mended before it could be shown, or is being mended now.
            Command::new("nft").args(damage).status().expect("nft");
            network.ask(&["diff"]).contains("delete table inet portway\nadd table inet portway")
        });
        eventually("it is mended", || table().contains("flow add @portway"));
        load("delete table inet portway");
        eventually("it is made anew", || table().contains("flow add @portway"));
        let found = output_of("nft", &["list", "table", "inet", "portway"]);

        // The next process goes on with it.
        program.end();
        assert_eq!(table(), found, "it stays");
        let program = start(&network, &objects, &[DEVICES, "--no-table-ownership"]);
        eventually("it knows the table", || network.ask(&["status"]).contains("on pod0, pod1, pod2, uplink0"));
        assert_eq!(table(), found);
        assert!(!program.said("another program changed"));
        program.end();

        // Switched off, it goes.
        let program = start(&network, &objects, &["--no-table-ownership"]);
        eventually("the table goes", || table().contains("failed"));
        program.end();
        let program = start(&network, &objects, &[DEVICES]);
        eventually("the fast path is on", || table().contains("flow add @portway"));
        program.end();
    } else {
        program.end();
    }
    let cleanup = Command::new(program_file()).args(["cleanup"]).output().expect("it starts");
    let text = String::from_utf8_lossy(&cleanup.stdout).into_owned() + &String::from_utf8_lossy(&cleanup.stderr);
    assert_eq!(text.contains("deleted table inet portway"), can, "{text}");
    assert!(table().contains("failed"), "{}", table());
}
