//! What operators see of direct return, and that the tracer says what the kernel does. Needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use portway::model::{Family, Protocol};
use portway::nftables::{DirectKernel, KernelOptions, NftKernel};
use portway::ruleset::{DirectTable, Kernel as _, Listing};
use portway::trace::{End, Host, Ingress, Packet, Request, trace_at_ingress};
use support::ecmp::{
    CLIENT, Ecmp, arrivals, ask_once, more_clients, node_addresses, objects, remember_arrivals, within,
};
use support::netns::output_of;
use support::scenes::number;
use support::wait::eventually;

const BY_PORT: [&str; 2] = ["203.0.113.1", "2001:db8:f::1"];
const BY_ADDRESS: [&str; 2] = ["203.0.113.2", "2001:db8:f::2"];

/// The number of frontends that hand packets on: two addresses of two families for two protocols, each.
const FRONTENDS: &str = "8 frontends to";

fn cluster(flags: &[&str]) -> Ecmp {
    let mut ecmp = Ecmp::build();
    let services = [
        ("ports", BY_PORT, "portway.io/balance: source-ip-port"),
        ("addresses", BY_ADDRESS, "portway.io/balance: source-ip"),
    ];
    ecmp.start(&objects(&services), &[&["--direct-return-devices", "eth0"], flags].concat());
    eventually("all nodes hand packets on", || {
        support::ecmp::NODES.iter().all(|(node, _)| ecmp.ask(node, &["status"]).contains(FRONTENDS))
    });
    ecmp
}

/// What the kernel of a node holds.
struct NodeTables {
    direct: DirectTable,
    listings: [Listing; 2],
    host: Host,
}

impl NodeTables {
    fn read(ecmp: &Ecmp, node: &str, addresses: BTreeSet<IpAddr>) -> Self {
        within(ecmp.node(node), || {
            let mut direct = DirectKernel::open(KernelOptions::new(false)).expect("a socket");
            let found = direct.read().expect("readable");
            assert_eq!(found.oddities(), [] as [String; 0]);
            let mut kernel = NftKernel::open_to_read().expect("a socket");
            let listings = Family::ALL.map(|family| {
                let (listing, odd) = kernel.read(family).expect("readable").expect("there").listing(family);
                assert!(odd.is_empty(), "{odd:?}");
                listing
            });
            Self { direct: found.table, listings, host: Host { addresses } }
        })
    }

    fn end(&self, from: SocketAddr, to: SocketAddr) -> End {
        let packet = Packet {
            source: from.ip(),
            destination: to.ip(),
            request: Request::Connect { protocol: Protocol::Udp, port: to.port() },
            source_port: Some(from.port()),
            interface: Some("eth0".to_owned()),
        };
        let way_back = self.direct.devices.keys().next().copied();
        let ingress = Ingress { table: &self.direct, way_back };
        let listing = &self.listings[usize::from(from.is_ipv6())];
        let trace = trace_at_ingress(ingress, listing, &self.host, &packet);
        let [(end, _)] = trace.ends[..] else { panic!("{from} to {to}: {trace:?}") };
        end
    }
}

/// For generated packets: from many clients, to each kind of Service, by a node without endpoints and by one that has one.
#[test]
fn tracer_and_kernel_agree() {
    let ecmp = cluster(&[]);
    let clients = more_clients(&ecmp, 12);
    let nodes = [("i1", 11), ("e1", 14), ("e2", 15)];
    // As in other tests PORTWAY_SEED chooses other packets.
    let mut random = number("PORTWAY_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut seen = [0; 3];
    for (by, last) in [("i1", 11), ("e1", 14)] {
        ecmp.spread(&[BY_PORT, BY_ADDRESS].concat(), &[by]);
        nodes.iter().for_each(|(node, _)| remember_arrivals(&ecmp, node));
        let own = node_addresses(last).map(|text| text.parse().expect("an address"));
        let tables = NodeTables::read(&ecmp, by, own.into_iter().collect());
        let mut asked = BTreeSet::new();
        let mut said = Vec::new();
        while said.len() < 160 {
            let which = next(2) as usize;
            let vip = [BY_PORT, BY_ADDRESS][next(2) as usize][which];
            let client = clients[which][next(clients[which].len() as u64) as usize];
            let from = SocketAddr::new(client, 20_000 + next(20_000) as u16);
            if !asked.insert(from) {
                continue;
            }
            let to = SocketAddr::new(vip.parse().expect("an address"), 80);
            let pod_saw = ask_once(&ecmp, from, to).unwrap_or_else(|| panic!("no answer to {from} from {to}"));
            said.push((from, to, tables.end(from, to), pod_saw));
        }
        let arrived: Vec<_> = nodes.iter().map(|(node, last)| (*last, arrivals(&ecmp, node))).collect();
        for (from, to, end, pod_saw) in said {
            let text = format!("{} . {}", from.ip(), from.port());
            let others: Vec<String> = arrived
                .iter()
                .filter(|(other, listing)| {
                    *other != last && listing.contains(&format!("{text},")) | listing.contains(&format!("{text} "))
                })
                .map(|(other, _)| node_addresses(*other)[usize::from(from.is_ipv6())].clone())
                .collect();
            let client = from.ip().to_string();
            match end {
                End::HandedOn { node } => {
                    assert_eq!((others, pod_saw), (vec![node.to_string()], client), "{from} to {to} by {by}");
                    seen[0] += 1;
                }
                End::Translated { masquerade, .. } => {
                    assert_eq!(others, [] as [String; 0], "{from} to {to} by {by}");
                    assert_eq!(pod_saw == client, !masquerade, "{from} to {to} by {by}: the pod saw {pod_saw}");
                    seen[1 + usize::from(masquerade)] += 1;
                }
                other => panic!("{from} to {to} by {by}: {other:?}"),
            }
        }
    }
    assert!(seen[0] > 100 && seen[1] > 20, "handed on, kept and masqueraded: {seen:?}");
    assert_eq!(seen[2], 0, "nothing goes the ordinary way");
}

#[test]
fn commands_show_it() {
    let ecmp = cluster(&[]);
    let json = |node: &str, args: &[&str]| -> serde_json::Value {
        let text = ecmp.ask(node, args);
        serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{args:?}: {cause}: {text}"))
    };
    // Where the port is not known there are shares, and all of them are handed on; where it is there is one node.
    let explained = json("i1", &["explain", "--from", CLIENT[0], "203.0.113.1:80", "-o", "json"]);
    let outcomes = explained["outcomes"].as_array().expect("a list");
    let nodes: BTreeSet<&str> = outcomes.iter().filter_map(|outcome| outcome["node"].as_str()).collect();
    assert_eq!(nodes, ["10.0.0.14", "10.0.0.15"].into(), "{explained:#}");
    assert!(outcomes.iter().all(|outcome| outcome["verdict"] == "FORWARD"), "{explained:#}");
    let taken = "taken to come in on eth0";
    assert!(explained["notes"].to_string().contains(taken), "{explained:#}");
    let explained =
        json("e1", &["explain", "--from", CLIENT[1], "[2001:db8:f::1]:80", "-o", "json", "--interface", "eth0"]);
    let verdicts: BTreeSet<&str> =
        explained["outcomes"].as_array().into_iter().flatten().filter_map(|one| one["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["DNAT", "FORWARD"].into(), "one of the endpoints is here: {explained:#}");
    let share: f64 =
        explained["outcomes"].as_array().into_iter().flatten().filter_map(|one| one["probability"].as_f64()).sum();
    assert!((share - 1.0).abs() < 1e-9, "{explained:#}");
    let text = ecmp.ask("i1", &["explain", "--from", CLIENT[0], "--from-port", "4711", "203.0.113.1:80"]);
    assert!(
        text.contains("100.0 %  handed on to node 10.0.0.1") && text.contains("netdev forward-1024-ports: fwd ip to"),
        "{text}"
    );
    let inside = ecmp.ask("i1", &["explain", "--from", CLIENT[0], "--interface", "pod0", "203.0.113.1:80"]);
    assert!(inside.contains("masqueraded") && !inside.contains("handed on to node 10"), "{inside}");

    let endpoints = ecmp.ask("i1", &["endpoints", "-A", "-o", "json"]);
    assert!(endpoints.contains("direct return: connections are handed on to node e2"), "{endpoints}");
    assert!(ecmp.ask("e1", &["endpoints", "-A", "-o", "json"]).contains("other nodes hand connections on to this one"));
    let services = ecmp.ask("i1", &["services", "-A", "-o", "wide"]);
    assert!(services.contains("direct-return"), "{services}");
    assert_eq!(ecmp.ask("i1", &["diff"]), "");

    let file = tempfile::tempdir().expect("a folder").path().join("bundle.tar.gz");
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    ecmp.ask("i1", &["bundle", file.to_str().expect("text")]);
    let listed = output_of("tar", &["-xzOf", file.to_str().expect("text"), "portway-bundle/table-netdev.nft"]);
    assert!(listed.starts_with("table netdev portway {") && listed.contains("chain ingress-eth0"), "{listed}");
    std::fs::remove_dir_all(file.parent().expect("a folder")).expect("removed");
}

/// Where tables cannot be owned others can change this one. It is shown, and made what it was.
#[test]
fn what_others_change_is_shown_and_mended() {
    let ecmp = cluster(&["--no-table-ownership"]);
    assert_eq!(ecmp.ask("i1", &["diff"]), "");
    within(ecmp.node("i1"), || {
        support::ecmp::load(
            "delete element netdev portway frontends { 203.0.113.1 . udp . 80 }\nflush chain netdev portway forward-1024\n",
        );
    });
    let commands = ecmp.ask("i1", &["diff"]);
    assert!(commands.contains("add element netdev portway frontends { 203.0.113.1 . udp . 80 comment \"default/ports:u\" : goto forward-1024-ports }"), "{commands}");
    assert!(commands.contains("add rule netdev portway forward-1024 fwd ip to"), "{commands}");
    // They are what nft understands, and make it what it was.
    within(ecmp.node("i1"), || support::ecmp::load(&commands));
    assert_eq!(ecmp.ask("i1", &["diff"]), "");
    within(ecmp.node("i1"), || support::ecmp::load("delete table netdev portway"));
    // But for rules with a hash of IPv6: there nft gives up.
    let (not_ours, commands): (Vec<String>, Vec<String>) =
        ecmp.ask("i1", &["diff"]).lines().map(|line| format!("{line}\n")).partition(|line| line.contains("fwd ip6 to"));
    assert_eq!(not_ours.len(), 2, "{not_ours:?}");
    within(ecmp.node("i1"), || support::ecmp::load(&commands.concat()));
    let left = ecmp.ask("i1", &["diff"]);
    assert!(!left.is_empty() && left.lines().all(|line| line.contains("forward6-")), "{left}");
}
