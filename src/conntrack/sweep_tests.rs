use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn target(text: &str) -> Target {
    let address: std::net::SocketAddr = text.parse().expect("an address and a port");
    Target { ip: address.ip(), port: address.port() }
}

fn entry(destination: &str, answers_from: &str) -> FlowEntry {
    let destination = target(destination);
    let (family, source) = (Family::of(destination.ip), target("10.1.0.9:4000"));
    FlowEntry { family, protocol: 17, source, destination, answers_from: target(answers_from) }
}

fn valid(endpoints: &[&str]) -> Arc<[Target]> {
    let mut valid: Vec<Target> = endpoints.iter().map(|text| target(text)).collect();
    valid.sort_unstable();
    valid.into()
}

fn address(text: &str) -> FrontendKey {
    let Target { ip, port } = target(text);
    FrontendKey::Address { ip, protocol: Protocol::Udp, port }
}

fn node_port(port: u16) -> FrontendKey {
    FrontendKey::NodePort { protocol: Protocol::Udp, port }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// DNS at a ClusterIP and at NodePort 30053, with two endpoints; the node is 192.168.0.1.
fn dns() -> FamilySweep {
    let mut sweep = FamilySweep::default();
    let endpoints = valid(&["10.1.0.2:53", "10.1.0.1:53"]);
    sweep.ask(address("10.96.0.10:53"), endpoints.clone());
    sweep.ask(node_port(30053), endpoints);
    sweep.add_node_addresses([ip("192.168.0.1")]);
    sweep
}

#[test]
fn flows_to_an_endpoint_stay() {
    assert!(!dns().is_stale(&entry("10.96.0.10:53", "10.1.0.1:53")));
    assert!(!dns().is_stale(&entry("10.96.0.10:53", "10.1.0.2:53")));
    assert!(!dns().is_stale(&entry("192.168.0.1:30053", "10.1.0.2:53")));
}

#[test]
fn flows_to_an_endpoint_that_is_gone_go() {
    assert!(dns().is_stale(&entry("10.96.0.10:53", "10.1.0.3:53")));
    assert!(dns().is_stale(&entry("192.168.0.1:30053", "10.1.0.3:53")));
}

#[test]
fn flows_to_an_old_target_port_go() {
    assert!(dns().is_stale(&entry("10.96.0.10:53", "10.1.0.1:5353")));
}

#[test]
fn flows_that_were_never_translated_go() {
    assert!(dns().is_stale(&entry("10.96.0.10:53", "10.96.0.10:53")));
    assert!(dns().is_stale(&entry("192.168.0.1:30053", "192.168.0.1:30053")));
}

#[test]
fn flows_of_a_frontend_without_endpoints_go() {
    let mut sweep = dns();
    sweep.ask(address("10.96.0.10:53"), valid(&[]));
    assert!(sweep.is_stale(&entry("10.96.0.10:53", "10.1.0.1:53")));
    assert!(!sweep.is_stale(&entry("192.168.0.1:30053", "10.1.0.1:53")), "the other frontend is another matter");
}

#[test]
fn only_udp_is_touched() {
    for protocol in [6, 132, 1, 58, 0] {
        assert!(!dns().is_stale(&FlowEntry { protocol, ..entry("10.96.0.10:53", "10.1.0.3:53") }), "{protocol}");
    }
    let mut sweep = FamilySweep::default();
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        sweep.ask(FrontendKey::Address { ip: ip("10.96.0.10"), protocol, port: 53 }, valid(&[]));
        sweep.ask(FrontendKey::NodePort { protocol, port: 30053 }, valid(&[]));
    }
    assert!(sweep.is_empty());
}

#[test]
fn other_frontends_are_left_alone() {
    for (destination, why) in [
        ("10.96.0.10:54", "another port"),
        ("10.96.0.11:53", "another address"),
        ("192.168.0.1:53", "the service port is no NodePort"),
        ("10.96.0.10:30053", "a NodePort is not at the ClusterIP"),
        ("10.1.0.1:53", "straight to the endpoint"),
    ] {
        assert!(!dns().is_stale(&entry(destination, "10.9.9.9:9")), "{why}");
    }
}

#[test]
fn a_node_port_is_at_the_nodes_addresses_only() {
    assert!(!dns().is_stale(&entry("8.8.8.8:30053", "8.8.8.8:30053")), "a flow through the node to the same number");
    assert!(!dns().is_stale(&entry("192.168.0.2:30053", "192.168.0.2:30053")), "another node's NodePort");
}

#[test]
fn an_address_of_its_own_comes_before_a_node_port() {
    let mut sweep = dns();
    sweep.ask(address("192.168.0.1:30053"), valid(&["10.1.0.9:9"]));
    assert!(!sweep.is_stale(&entry("192.168.0.1:30053", "10.1.0.9:9")));
    assert!(sweep.is_stale(&entry("192.168.0.1:30053", "10.1.0.1:53")));
}

#[test]
fn ipv6_is_no_different() {
    let mut sweep = FamilySweep::default();
    sweep.ask(address("[fd00::a]:53"), valid(&["[fd01::1]:53"]));
    assert!(!sweep.is_stale(&entry("[fd00::a]:53", "[fd01::1]:53")));
    assert!(sweep.is_stale(&entry("[fd00::a]:53", "[fd01::2]:53")));
}

#[test]
fn of_merged_sweeps_the_later_one_is_right() {
    let mut sweep = dns();
    let mut later = FamilySweep::default();
    later.ask(address("10.96.0.10:53"), valid(&["10.1.0.7:53"]));
    sweep.merge(later.clone());
    assert!(!sweep.is_stale(&entry("10.96.0.10:53", "10.1.0.7:53")));
    assert!(sweep.is_stale(&entry("10.96.0.10:53", "10.1.0.1:53")));
    assert!(sweep.is_stale(&entry("192.168.0.1:30053", "10.1.0.7:53")), "what only the earlier one speaks of stays");
    let mut other = later;
    other.merge_earlier(dns());
    assert_eq!(other, sweep);
}

#[test]
fn the_kernel_is_asked_for_little() {
    let filter = |port, ip| DumpFilter { family: Family::Ipv4, protocol: Protocol::Udp, port, ip, answers: false };
    let expected = [filter(Some(53), Some(ip("10.96.0.10"))), filter(Some(30053), Some(ip("192.168.0.1")))];
    assert_eq!(dns().filters(Family::Ipv4), expected);
    let mut sweep = dns();
    sweep.ask(address("10.96.0.11:53"), valid(&[]));
    assert_eq!(sweep.filters(Family::Ipv4)[0], filter(Some(53), None), "two addresses");
    for port in 1..=3 {
        sweep.ask(address(&format!("10.96.0.11:{port}")), valid(&[]));
    }
    assert_eq!(sweep.filters(Family::Ipv4), [filter(None, None)], "many ports");
    let mut ipv6 = FamilySweep::default();
    ipv6.ask(address("[fd00::a]:53"), valid(&[]));
    assert_eq!(
        ipv6.filters(Family::Ipv6),
        [DumpFilter { family: Family::Ipv6, protocol: Protocol::Udp, port: Some(53), ip: None, answers: false }]
    );
    let mut nowhere = FamilySweep::default();
    nowhere.ask(node_port(30053), valid(&[]));
    assert_eq!(nowhere.filters(Family::Ipv4), [], "a NodePort without an address of the node");
}

fn small_target() -> impl Strategy<Value = Target> {
    (0_u8..6, 1_u16..5).prop_map(|(host, port)| Target { ip: [10, 0, 0, host].into(), port })
}

proptest! {
    /// Against the specification, read word by word.
    #[test]
    fn the_index_decides_as_a_plain_reading_would(
        frontends in prop::collection::vec((small_target(), prop::collection::vec(small_target(), 0..4)), 0..5),
        node_ports in prop::collection::btree_map(1_u16..5, prop::collection::vec(small_target(), 0..4), 0..3),
        node in prop::collection::btree_set(0_u8..6, 0..3),
        destination in small_target(),
        answers_from in small_target(),
        protocol in prop::sample::select(vec![6_u8, 17, 132]),
    ) {
        let mut sweep = FamilySweep::default();
        let sorted = |list: &[Target]| { let mut list = list.to_vec(); list.sort_unstable(); Arc::<[Target]>::from(list) };
        for (at, endpoints) in &frontends {
            sweep.ask(FrontendKey::Address { ip: at.ip, protocol: Protocol::Udp, port: at.port }, sorted(endpoints));
        }
        for (port, endpoints) in &node_ports {
            sweep.ask(node_port(*port), sorted(endpoints));
        }
        let node: Vec<IpAddr> = node.into_iter().map(|host| [10, 0, 0, host].into()).collect();
        sweep.add_node_addresses(node.clone());
        let entry = FlowEntry { family: Family::Ipv4, protocol, source: target("10.1.0.9:4000"), destination, answers_from };

        let of_address = frontends.iter().rev().find(|(at, _)| *at == destination).map(|(_, list)| list);
        let of_node_port = node_ports.get(&destination.port).filter(|_| node.contains(&destination.ip));
        let expected = protocol == 17
            && of_address.or(of_node_port).is_some_and(|endpoints| !endpoints.contains(&answers_from));
        prop_assert_eq!(sweep.is_stale(&entry), expected);

        // Whatever is stale is also told of by the kernel, exactly once.
        let told = sweep.filters(Family::Ipv4).iter().filter(|filter| {
            filter.port.is_none_or(|port| port == destination.port) && filter.ip.is_none_or(|ip| ip == destination.ip)
        }).count();
        prop_assert!(told <= 1 && (told == 1 || !expected), "told {} times", told);
    }
}

#[test]
fn the_kernel_is_asked_for_tcp_by_where_answers_come_from() {
    let mut sweep = FamilySweep::default();
    sweep.ask_endpoint(target("10.1.0.1:80"), false);
    let filter = |port, ip| DumpFilter { family: Family::Ipv4, protocol: Protocol::Tcp, port, ip, answers: true };
    assert_eq!(sweep.filters(Family::Ipv4), [filter(Some(80), Some(ip("10.1.0.1")))]);
    sweep.ask_endpoint(target("10.1.0.2:80"), false);
    sweep.ask_endpoint(target("10.1.0.3:8080"), true);
    assert_eq!(sweep.filters(Family::Ipv4), [filter(Some(80), None)], "one that is there needs no walk");
    for port in 1..=4 {
        sweep.ask_endpoint(target(&format!("10.1.0.1:{port}")), false);
    }
    assert_eq!(sweep.filters(Family::Ipv4), [DumpFilter::all(Family::Ipv4, Protocol::Tcp)], "many ports");
    let mut sweep = dns();
    sweep.ask_endpoint(target("10.1.0.1:80"), false);
    let protocols: Vec<Protocol> = sweep.filters(Family::Ipv4).iter().map(|filter| filter.protocol).collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Udp, Protocol::Tcp]);
}
