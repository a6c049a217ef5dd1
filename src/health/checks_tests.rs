use std::time::Instant;

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{Endpoint, EndpointSlice, Event, Node, Service, ServiceType};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added, added_slice, ip, listed, service_port, slice_port};

/// (address, node, ready, terminating)
type Pod = (&'static str, &'static str, bool, bool);

fn service(name: &str, check: Option<u16>) -> Event {
    with_addresses(name, &["10.96.0.1", "fd00:96::1"], check)
}

fn with_addresses(name: &str, cluster_ips: &[&str], check: Option<u16>) -> Event {
    added(Service {
        service_type: ServiceType::LoadBalancer,
        cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
        external_policy_local: true,
        health_check_node_port: check,
        ports: vec![service_port("web", 80), service_port("tls", 443)],
        ..testing::service(name, "10.96.0.1")
    })
}

fn slice(service: &str, pods: &[Pod]) -> Event {
    let endpoint = |(address, node, ready, terminating): &Pod| Endpoint {
        ready: *ready,
        terminating: *terminating,
        ..testing::endpoint(ip(address), node)
    };
    added_slice(EndpointSlice {
        ports: vec![slice_port("web", 8080), slice_port("tls", 8443)],
        endpoints: pods.iter().map(endpoint).collect(),
        ..testing::slice(service, "", &[])
    })
}

/// Family, Service, port and count.
type Seen = (Family, String, Option<(u16, usize)>);

struct Loop {
    controller: Controller<FakeKernel>,
    changes: CheckReceiver,
}

impl Loop {
    fn start(events: Vec<Event>) -> Self {
        let (sender, changes) = check_channel();
        let (mut controller, _) = Controller::new(FakeKernel::new(), Options::new("n1"));
        controller.observe(CheckObserver::new(sender, true));
        let mut this = Self { controller, changes };
        this.sync(listed("n1").into_iter().chain(events).collect());
        this
    }

    fn sync(&mut self, events: Vec<Event>) {
        self.controller.handle(events, Instant::now());
    }

    /// Where the servers listen since the last sync.
    fn addresses(&mut self) -> Vec<(Family, Vec<String>)> {
        self.changes.woken.try_recv().expect("every sync sends");
        let addresses = self.changes.take().addresses.expect("changed");
        let text = |addresses: NodePortAddresses| match addresses {
            NodePortAddresses::AllLocal => vec!["all".to_owned()],
            NodePortAddresses::Listed(ips) => ips.iter().map(ToString::to_string).collect(),
        };
        addresses.into_iter().map(|(family, addresses)| (family, text(addresses))).collect()
    }

    /// What the last sync changed: IPv4 and IPv6.
    fn changes(&mut self) -> Vec<Seen> {
        self.changes.woken.try_recv().expect("every sync sends");
        let changes = self.changes.take();
        let flat = |((family, key), check): (CheckId, Option<CheckServer>)| {
            (family, key.name().to_owned(), check.map(|check| (check.port, check.local_endpoints)))
        };
        let mut changes: Vec<_> = changes.checks.into_iter().map(flat).collect();
        changes.sort();
        changes
    }
}

#[test]
fn distinct_ready_addresses_on_this_node_count() {
    let pods = [
        ("10.1.0.1", "n1", true, false),
        ("10.1.0.2", "n1", true, false),
        // With publishNotReadyAddresses the API says ready, also of what terminates.
        ("10.1.0.3", "n1", true, true),
        ("10.1.0.4", "n1", false, true),
        ("10.1.0.5", "n1", false, false),
        ("10.1.0.6", "n2", true, false),
    ];
    let mut it = Loop::start(vec![service("a", Some(30_001)), slice("a", &pods), service("b", None)]);
    let name = || "a".to_owned();
    assert_eq!(
        it.changes(),
        [(Family::Ipv4, name(), Some((30_001, 3))), (Family::Ipv6, name(), Some((30_001, 0)))],
        "two ports with the same pods count once, and each family for itself"
    );
}

#[test]
fn only_what_changed_is_sent() {
    let pod = |ready| [("10.1.0.1", "n1", ready, false)];
    let mut it = Loop::start(vec![service("a", Some(30_001)), service("b", Some(30_002)), slice("a", &pod(true))]);
    assert_eq!(it.changes().len(), 4);
    it.sync(vec![slice("a", &pod(false))]);
    assert_eq!(it.changes(), [(Family::Ipv4, "a".to_owned(), Some((30_001, 0)))]);
    it.sync(vec![]);
    assert_eq!(it.changes(), [], "a sync without changes is told too");
    it.sync(vec![service("b", Some(30_003))]);
    let moved = |family| (family, "b".to_owned(), Some((30_003, 0)));
    assert_eq!(it.changes(), Family::ALL.map(moved));
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "b")), service("a", None)]);
    let gone = |family, name: &str| (family, name.to_owned(), None);
    assert_eq!(
        it.changes(),
        [gone(Family::Ipv4, "a"), gone(Family::Ipv4, "b"), gone(Family::Ipv6, "a"), gone(Family::Ipv6, "b")]
    );
}

#[test]
fn what_nobody_takes_becomes_one() {
    let (sender, mut receiver) = check_channel();
    let id = (Family::Ipv4, ObjectKey::new("ns", "a"));
    for number in 0..10_000 {
        let check = (number % 2 == 1).then_some(CheckServer { port: 30_001, local_endpoints: number });
        sender.send(CheckChanges { checks: vec![(id.clone(), check)], addresses: None });
    }
    sender.send(CheckChanges { checks: Vec::new(), addresses: Some(Vec::new()) });
    receiver.woken.try_recv().expect("woken");
    let CheckChanges { checks, addresses } = receiver.take();
    assert_eq!(checks, [(id, Some(CheckServer { port: 30_001, local_endpoints: 9_999 }))]);
    assert_eq!(addresses, Some(Vec::new()));
    receiver.woken.try_recv().expect_err("once");
}

/// The end-to-end test "should only target nodes with endpoints" asks for a Service of one family on all InternalIPs.
#[test]
fn a_service_of_one_family_is_answered_for_on_addresses_of_both() {
    let pods = [("10.1.0.1", "n1", true, false), ("10.1.0.2", "n1", true, false)];
    let mut it = Loop::start(vec![with_addresses("a", &["10.96.0.1"], Some(30_001)), slice("a", &pods)]);
    let four = |family| (family, "a".to_owned(), Some((30_001, 2)));
    assert_eq!(it.changes(), Family::ALL.map(four));
    it.sync(vec![with_addresses("a", &["fd00:96::1"], Some(30_001))]);
    let six = |family| (family, "a".to_owned(), Some((30_001, 0)));
    assert_eq!(it.changes(), Family::ALL.map(six), "its endpoints of IPv4 do not count");
}

#[test]
fn servers_listen_on_all_internal_ips_of_the_node_that_are_here() {
    let mut it = Loop::start(vec![]);
    it.addresses();
    let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"].map(ip);
    let node = Node { ips: vec![ips[0], ips[3]], internal_ips: ips.into(), ..Node::default() };
    let local = ["127.0.0.1", "10.0.0.1", "10.0.0.3", "10.0.0.9", "fd00::1"].map(ip);
    it.sync(vec![Event::LocalAddresses(local.into()), Event::Node(Box::new(node))]);
    let listed = |family, ips: &[&str]| (family, ips.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(it.addresses(), [listed(Family::Ipv4, &["10.0.0.1", "10.0.0.3"]), listed(Family::Ipv6, &["fd00::1"])]);
}
