//! Direct return on networks of other shapes: strict `rp_filter`, two interfaces, bridges; and what changes while it is on. Needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use support::ecmp::{CLIENT, Conversations, Ecmp, INGRESS, NODES, ask_once, node_addresses, objects, within};
use support::netns::{ip_batch, output_of, set_sysctls};
use support::wait::eventually;

const DIRECT: [&str; 2] = ["203.0.113.1", "2001:db8:f::1"];
const BY_PORT: &str = "portway.io/balance: source-ip-port";

fn direct() -> String {
    objects(&[("direct", DIRECT, BY_PORT)])
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 80)
}

fn start(ecmp: &mut Ecmp, devices: &str) {
    ecmp.start(&direct(), &["--direct-return-devices", devices]);
    eventually("all nodes hand packets on", || {
        NODES.iter().all(|(node, _)| ecmp.ask(node, &["status"]).contains("4 frontends to"))
    });
}

/// What pods see of the client that asks from these ports; nothing where no answer comes.
fn seen(ecmp: &Ecmp, which: usize, ports: std::ops::Range<u16>) -> Vec<Option<String>> {
    let client: IpAddr = CLIENT[which].parse().expect("an address");
    ports.map(|port| ask_once(ecmp, SocketAddr::new(client, port), at(DIRECT[which]))).collect()
}

fn opened(ecmp: &Ecmp, which: usize, udp: bool) -> BTreeSet<String> {
    let open = || Conversations::open(at(DIRECT[which]), udp, 40, Duration::from_millis(1), || {});
    within(&ecmp.client, open).seen()
}

/// Clients come in on one interface, and nodes reach each other over another.
#[test]
fn a_strict_rp_filter_sends_clients_of_other_interfaces_the_ordinary_way() {
    let mut ecmp = Ecmp::build();
    ["i1", "e1", "e2"].iter().for_each(|node| ecmp.add_side(node));
    start(&mut ecmp, "eth0,side0");
    ecmp.send_by_side(&DIRECT, "i1");
    eventually("i1 has both", || ecmp.ask("i1", &["status"]).contains("on eth0, side0"));
    let client = |which: usize| Some(CLIENT[which].to_owned());
    for (which, own) in CLIENT.into_iter().enumerate() {
        assert_eq!(opened(&ecmp, which, false), [own.to_owned()].into(), "in on one, out on the other");
        assert!(seen(&ecmp, which, 30_000..30_010).iter().all(|saw| *saw == client(which)));
    }
    // Where it is strict at the endpoint's node alone, packets are dropped there, and only that node can know.
    let strict = |node: &str, value: &str| {
        within(ecmp.node(node), || set_sysctls(&[("net/ipv4/conf/eth0/rp_filter", value)]).expect("set"));
    };
    strict("e1", "1");
    let said = "rp_filter of eth0 is strict";
    eventually("e1 says so", || ecmp.ask("e1", &["status"]).contains(said));
    assert!(!ecmp.ask("i1", &["status"]).contains(said));
    let checked = ecmp.ask("e1", &["check", "-o", "json"]);
    assert!(checked.contains("dropped here when another node hands them on"), "{checked}");
    let answers = seen(&ecmp, 0, 30_100..30_106);
    assert!(answers.contains(&None), "packets to e1 are lost: {answers:?}");
    // Nodes that are alike: the ingress node has the same, and does not hand such clients on.
    strict("i1", "1");
    eventually("i1 says so", || ecmp.ask("i1", &["status"]).contains(said));
    let i1 = node_addresses(11)[0].clone();
    assert!(seen(&ecmp, 0, 30_200..30_220).iter().all(|saw| *saw == Some(i1.clone())), "masqueraded, and answered");
    assert_eq!(opened(&ecmp, 1, false), [CLIENT[1].to_owned()].into(), "IPv6 has no rp_filter");
    let explain = ["explain", "--from", CLIENT[0], "--from-port", "4711", "--interface", "side0", "203.0.113.1:80"];
    assert!(ecmp.ask("i1", &explain).contains("masqueraded"), "{}", ecmp.ask("i1", &explain));
    assert_eq!(ecmp.ask("i1", &["diff"]), "");
    // Clients whose way back leaves by the strict interface are handed on.
    let direct_way = "route del 198.51.100.0/24 via 10.9";
    for (node, number) in [("i1", 11), ("e1", 14), ("e2", 15)] {
        within(ecmp.node(node), || ip_batch(&format!("{direct_way}.{number}.1")).expect("no route"));
    }
    ecmp.spread(&DIRECT[..1], &["i1"]);
    let answers = seen(&ecmp, 0, 30_300..30_320);
    assert!(answers.iter().all(|saw| *saw == client(0)), "{answers:?}");
    assert!(ecmp.ask("i1", &explain).contains("handed on to node"));
    strict("i1", "0");
    eventually("i1 says so no more", || !ecmp.ask("i1", &["status"]).contains(said));
}

#[test]
fn nodes_whose_interface_is_a_bridge() {
    let mut ecmp = Ecmp::build();
    ecmp.bridge_nodes();
    start(&mut ecmp, "br0");
    ecmp.spread(&DIRECT, &INGRESS);
    for (which, udp) in [(0, false), (1, false), (0, true), (1, true)] {
        assert_eq!(opened(&ecmp, which, udp), [CLIENT[which].to_owned()].into());
    }
}

/// Connections come in by the nodes that have the endpoints: those to the own one stay, the others are handed on.
#[test]
fn nodes_with_endpoints_take_connections_too() {
    let mut ecmp = Ecmp::build();
    start(&mut ecmp, "eth0");
    ecmp.spread(&DIRECT, &["e1", "e2"]);
    for (which, udp) in [(0, false), (1, false), (0, true), (1, true)] {
        assert_eq!(opened(&ecmp, which, udp), [CLIENT[which].to_owned()].into());
    }
}

/// What happens while it is on: restarts, Services that are replaced, nodes that get another address, neighbours that are gone.
#[test]
fn connections_stay_while_things_change() {
    let mut ecmp = Ecmp::build();
    start(&mut ecmp, "eth0");
    ecmp.spread(&DIRECT, &INGRESS);
    let mut open: Vec<_> = [(0, false), (1, false)]
        .into_iter()
        .map(|(which, udp)| {
            within(&ecmp.client, || Conversations::open(at(DIRECT[which]), udp, 60, Duration::from_millis(1), || {}))
        })
        .collect();
    let mut all_answer = |ecmp: &Ecmp, what: &str| {
        for conversations in &mut open {
            for (first, now) in within(&ecmp.client, || conversations.ask()) {
                assert_eq!(now, Ok(first), "{what}");
            }
        }
    };
    all_answer(&ecmp, "nothing has happened");
    let handle = |ecmp: &Ecmp| {
        let listed = within(ecmp.node("i1"), || output_of("nft", &["-a", "list", "table", "netdev", "portway"]));
        listed.lines().next().unwrap_or_default().split("handle").nth(1).unwrap_or_default().to_owned()
    };
    let before = handle(&ecmp);
    ecmp.stop();
    all_answer(&ecmp, "the program has ended");
    start(&mut ecmp, "eth0");
    all_answer(&ecmp, "the program has begun anew");
    assert_eq!(handle(&ecmp), before, "it goes on with the table it has found");
    // Another Service more, which needs another chain.
    let by_address = ("more", ["203.0.113.9", "2001:db8:f::9"], "portway.io/balance: source-ip");
    ecmp.replace(&objects(&[("direct", DIRECT, BY_PORT), by_address]));
    eventually("the table has it", || ecmp.ask("i1", &["status"]).contains("8 frontends to"));
    all_answer(&ecmp, "there is another chain");
    ecmp.replace(&direct());
    eventually("the table has it no more", || ecmp.ask("i1", &["status"]).contains("4 frontends to"));
    all_answer(&ecmp, "the chain is gone");
    // The same address for a Service of another name.
    ecmp.replace(&objects(&[("other", DIRECT, BY_PORT)]));
    eventually("it is of another name", || {
        within(ecmp.node("i1"), || output_of("nft", &["list", "table", "netdev", "portway"])).contains("default/other")
    });
    all_answer(&ecmp, "the Service was replaced by another one with the same endpoints");
    // e1 moves to another address.
    let [v4, v6] = ["10.0.0.44", "fd00::44"];
    within(ecmp.node("e1"), || {
        ip_batch(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad")).expect("addresses");
    });
    let moved = objects(&[("other", DIRECT, BY_PORT)])
        .replace("address: 10.0.0.14", &format!("address: {v4}"))
        .replace("address: \"fd00::14\"", &format!("address: \"{v6}\""));
    ecmp.replace(&moved);
    eventually("the table has the new address", || {
        let listed = within(ecmp.node("i1"), || output_of("nft", &["list", "table", "netdev", "portway"]));
        listed.contains(v4) && listed.contains(v6) && !listed.contains("10.0.0.14")
    });
    all_answer(&ecmp, "a node has another address");
    // Its entry in the table of neighbours is lost.
    for (node, _) in &ecmp.nodes {
        within(ecmp.node(node), || output_of("ip", &["neigh", "flush", "all"]));
        within(ecmp.node(node), || output_of("ip", &["-6", "neigh", "flush", "all"]));
    }
    all_answer(&ecmp, "neighbours are found again");
    // A node of which one family is not known any more.
    let lacking = moved.replace(&format!(", {{type: InternalIP, address: \"{v6}\"}}"), "");
    assert_ne!(lacking, moved);
    ecmp.replace(&lacking);
    eventually("i1 says so", || {
        ecmp.ask("i1", &["status"])
            .contains("IPv6 connections to endpoints on e1 take the ordinary path: the Node is not known, or has no")
    });
    let seen = opened(&ecmp, 1, false);
    assert!(seen.contains(CLIENT[1]) && seen.len() > 1, "some masqueraded, all answered: {seen:?}");
    assert_eq!(opened(&ecmp, 0, false), [CLIENT[0].to_owned()].into());
    // The annotation is taken away while connections are open: new ones go the ordinary way.
    ecmp.replace(&objects(&[("other", DIRECT, "")]));
    eventually("nothing is handed on", || {
        within(ecmp.node("i1"), || output_of("nft", &["list", "table", "netdev", "portway"])).contains("failed")
    });
    let seen = opened(&ecmp, 0, false);
    assert!(!seen.contains(CLIENT[0]), "{seen:?}");
    // Cleaning up takes the table along.
    ecmp.replace(&direct());
    eventually("it is there again", || ecmp.ask("i1", &["status"]).contains("4 frontends to"));
    ecmp.stop();
    let said =
        within(ecmp.node("i1"), || output_of(&support::program::program_file().display().to_string(), &["cleanup"]));
    let left = within(ecmp.node("i1"), || output_of("nft", &["list", "tables"]));
    assert!(!left.contains("portway"), "{said}{left}");
}
