//! Direct return: five nodes, a client behind a router that spreads over three of them, endpoints on the two others. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use support::ecmp::{CLIENT, Conversations, Ecmp, INGRESS, node_addresses, objects, within};
use support::netns::{ip_batch, output_of};
use support::wait::eventually;

/// A Service with direct return, and one as kube-proxy would serve it.
const DIRECT: [&str; 2] = ["203.0.113.1", "2001:db8:f::1"];
const PLAIN: [&str; 2] = ["203.0.113.2", "2001:db8:f::2"];
const BY_PORT: &str = "portway.io/balance: source-ip-port";
const DEVICES: [&str; 2] = ["--direct-return-devices", "eth0"];

fn cluster() -> Ecmp {
    let mut ecmp = Ecmp::build();
    ecmp.start(&objects(&[("direct", DIRECT, BY_PORT), ("plain", PLAIN, "")]), &DEVICES);
    let all = [DIRECT, PLAIN].concat();
    ecmp.spread(&all, &INGRESS);
    eventually("all nodes hand packets on", || {
        support::ecmp::NODES.iter().all(|(node, _)| ecmp.ask(node, &["status"]).contains("4 frontends to"))
    });
    ecmp
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 80)
}

/// Both families, TCP and UDP: which of the addresses, over which protocol, and how many connections.
const KINDS: [(usize, bool, usize); 4] = [(0, false, 1000), (1, false, 1000), (0, true, 200), (1, true, 200)];

#[test]
fn connections_survive_the_death_of_the_node_they_came_in_by() {
    let ecmp = cluster();
    let all = [DIRECT, PLAIN].concat();
    for (which, udp, number) in KINDS {
        let before: Vec<_> = INGRESS.iter().map(|node| ecmp.counted(node)).collect();
        let (vip, client) = (DIRECT[which], CLIENT[which]);
        // 1,000 a second. The node dies when half of them are open.
        let open = || {
            Conversations::open(at(vip), udp, number, Duration::from_millis(1), || {
                for (node, before) in INGRESS.iter().zip(&before) {
                    assert!(ecmp.counted(node).0 > before.0, "no connection came in by {node}");
                }
                ecmp.kill("i1", &all);
            })
        };
        let mut open = within(&ecmp.client, open);
        assert_eq!(open.seen(), [client.to_owned()].into(), "pods see the client's address");
        for (first, now) in within(&ecmp.client, || open.ask()) {
            assert_eq!(now, Ok(first), "{vip}, UDP {udp}: a connection broke");
        }
        for (node, before) in INGRESS.iter().zip(&before) {
            assert_eq!(ecmp.counted(node).1, before.1, "answers passed {node}");
        }
        ecmp.revive("i1", &all);
    }
}

/// The same with kube-proxy's way: connections of the node that dies break.
#[test]
fn without_direct_return_they_break() {
    let ecmp = cluster();
    let all = [DIRECT, PLAIN].concat();
    for (which, udp, _) in KINDS {
        let answers = ecmp.counted("i1").1;
        let mut open =
            within(&ecmp.client, || Conversations::open(at(PLAIN[which]), udp, 100, Duration::from_millis(1), || {}));
        assert_eq!(open.seen_as(CLIENT[which]), 0, "masqueraded");
        assert!(ecmp.counted("i1").1 > answers, "answers pass the ingress node");
        ecmp.kill("i1", &all);
        let i1 = &node_addresses(11)[which];
        let asked = within(&ecmp.client, || open.ask());
        let of_i1: Vec<_> = asked.iter().filter(|(first, _)| first == i1).collect();
        assert!(!of_i1.is_empty(), "none came in by i1");
        for (first, now) in of_i1 {
            assert_ne!(now.as_ref(), Ok(first), "{}, UDP {udp}", PLAIN[which]);
        }
        ecmp.revive("i1", &all);
    }
}

#[test]
fn each_packet_may_come_in_by_another_node() {
    let ecmp = cluster();
    ecmp.spread_each_packet(&DIRECT);
    for (which, udp, _) in KINDS {
        let mut open =
            within(&ecmp.client, || Conversations::open(at(DIRECT[which]), udp, 50, Duration::from_millis(1), || {}));
        for (first, now) in within(&ecmp.client, || [open.ask(), open.ask()].concat()) {
            assert_eq!((first.as_str(), now.as_deref()), (CLIENT[which], Ok(CLIENT[which])), "UDP {udp}");
        }
    }
}

/// Where the way to a node has a gateway its endpoints are served as ever, and the node says so.
#[test]
fn what_cannot_be_handed_on_goes_the_ordinary_way() {
    let ecmp = cluster();
    ecmp.spread(&DIRECT, &["i1"]);
    let [e1_v4, e1_v6] = node_addresses(14);
    within(ecmp.node("i1"), || {
        ip_batch(&format!("route add {e1_v4} via 10.0.0.1\nroute add {e1_v6} via fd00::1")).expect("routes");
    });
    let said = "connections to endpoints on e1 take the ordinary path";
    eventually("i1 says so", || ecmp.ask("i1", &["status"]).matches(said).count() == 2);
    let checked = ecmp.ask("i1", &["check", "-o", "json"]);
    assert!(checked.contains("direct return, eth0") && checked.contains("can hand packets on"), "{checked}");
    assert!(checked.contains("route to the node's InternalIP has a gateway"), "{checked}");
    for (which, udp, _) in KINDS {
        let open =
            within(&ecmp.client, || Conversations::open(at(DIRECT[which]), udp, 60, Duration::from_millis(1), || {}));
        let i1 = node_addresses(11)[which].clone();
        assert_eq!(open.seen(), [i1, CLIENT[which].to_owned()].into(), "some through i1, some directly");
    }
    // And back.
    within(ecmp.node("i1"), || {
        ip_batch(&format!("route del {e1_v4} via 10.0.0.1\nroute del {e1_v6} via fd00::1")).expect("routes");
    });
    eventually("nothing goes the ordinary way", || !ecmp.ask("i1", &["status"]).contains(said));
}

/// An interface that comes later, and one that goes; a table that is left over.
#[test]
fn interfaces_come_and_go_and_nothing_is_left_behind() {
    let mut ecmp = Ecmp::build();
    let direct = objects(&[("direct", DIRECT, BY_PORT)]);
    ecmp.start(&direct, &["--direct-return-devices", "eth0,later0"]);
    let listing = |ecmp: &Ecmp| within(ecmp.node("i1"), || output_of("nft", &["list", "table", "netdev", "portway"]));
    eventually("it says what is missing", || ecmp.ask("i1", &["status"]).contains("the interface later0 is not there"));
    eventually("eth0 is served", || listing(&ecmp).contains("chain ingress-eth0"));
    within(ecmp.node("i1"), || ip_batch("link add later0 type veth peer name x\nlink set later0 up").expect("a link"));
    eventually("later0 is served", || listing(&ecmp).contains("chain ingress-later0"));
    assert!(!ecmp.ask("i1", &["status"]).contains("later0 is not there"));
    within(ecmp.node("i1"), || ip_batch("link del later0").expect("no link"));
    eventually("it is gone", || !listing(&ecmp).contains("later0"));
    assert!(listing(&ecmp).contains("chain ingress-eth0"));
    // A Service without the annotation needs no table.
    ecmp.replace(&objects(&[("direct", DIRECT, "")]));
    eventually("the table is gone", || listing(&ecmp).contains("failed"));
    ecmp.replace(&direct);
    eventually("it is there again", || listing(&ecmp).contains("chain ingress-eth0"));
    // The option is taken away.
    ecmp.stop();
    assert!(listing(&ecmp).contains("chain ingress-eth0"), "rules stay in force without the program");
    ecmp.start(&direct, &[]);
    eventually("the table is deleted", || listing(&ecmp).contains("failed"));
    assert!(!ecmp.ask("i1", &["status"]).contains("direct-return"));
}
