use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{NodePortsOn, Options};
use crate::controller::Controller;
use crate::model::{Endpoint, EndpointSlice, Event, Node, Placement, Service, ServicePort, ServiceType, SlicePort};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added, added_slice, endpoint, ip, listed, service_port, slice_port};

const NODE_PORT: u16 = 30_080;
const PORTS: [(&str, Protocol); 3] = [("web", Protocol::Tcp), ("dns", Protocol::Udp), ("sig", Protocol::Sctp)];

fn service(name: &str, local: bool, affinity: Option<u32>) -> Service {
    let port = |(name, protocol)| ServicePort { protocol, node_port: Some(NODE_PORT), ..service_port(name, 80) };
    Service {
        service_type: ServiceType::NodePort,
        external_policy_local: local,
        affinity_seconds: affinity,
        ports: PORTS.map(port).into(),
        ..testing::service(name, "10.96.0.1")
    }
}

/// (address, node)
fn slice(service: &str, pods: &[(&str, &str)]) -> Event {
    let port = |(name, protocol)| SlicePort { protocol, ..slice_port(name, 8080) };
    added_slice(EndpointSlice {
        ports: PORTS.map(port).into(),
        endpoints: pods.iter().map(|(address, node)| endpoint(ip(address), node)).collect(),
        ..testing::slice(service, "", &[])
    })
}

struct Loop {
    controller: Controller<FakeKernel>,
    changes: UnboundedReceiver<PortChanges>,
}

impl Loop {
    fn start(events: Vec<Event>) -> Self {
        let (sender, changes) = unbounded_channel();
        let ranges = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network"));
        let options = Options { node_ports: NodePortsOn::ranges(ranges.into()), ..Options::new("n1") };
        let (mut controller, _) = Controller::new(FakeKernel::new(), options);
        controller.observe(LocalhostObserver::new(Arc::new(Stats::new(&Family::ALL)), sender, None));
        let mut this = Self { controller, changes };
        this.sync(listed("n1").into_iter().chain(events).collect());
        this
    }

    fn sync(&mut self, events: Vec<Event>) {
        self.controller.handle(events, Instant::now());
    }

    /// What the last sync changed of TCP: Service, targets, affinity. UDP has the same.
    fn change(&mut self) -> Option<(String, Vec<String>, Option<u64>)> {
        let mut changes = self.changes.try_recv().expect("a change");
        assert!(self.changes.try_recv().is_err(), "one message");
        changes.sort_by_key(|(key, _)| *key);
        let [(tcp, one), (udp, other)] = &changes[..] else { panic!("TCP and UDP, not {changes:?}") };
        assert_eq!((one, tcp.to_string().as_str()), (other, "127.0.0.1:30080/TCP"));
        assert_eq!(udp.to_string(), "127.0.0.1:30080/UDP");
        let flat = |wanted: &LocalTarget| {
            let targets = wanted.targets.iter().map(ToString::to_string).collect();
            (wanted.service.name().to_owned(), targets, wanted.affinity.map(|affinity| affinity.as_secs()))
        };
        one.as_ref().map(flat)
    }

    fn assert_nothing(&mut self) {
        assert_eq!(self.changes.try_recv().ok(), None);
    }
}

fn leads(service: &str, targets: &[&str], affinity: Option<u64>) -> Option<(String, Vec<String>, Option<u64>)> {
    let targets = targets.iter().map(|target| format!("{target}:8080")).collect();
    Some((service.to_owned(), targets, affinity))
}

const NEAR: (&str, &str) = ("10.1.0.1", "n1");
const FAR: (&str, &str) = ("10.1.1.1", "n2");

#[test]
fn ports_follow_services_and_endpoints() {
    let mut it = Loop::start(vec![added(service("a", false, Some(60))), slice("a", &[NEAR, FAR])]);
    assert_eq!(it.change(), leads("a", &[NEAR.0, FAR.0], Some(60)));
    it.sync(vec![]);
    it.assert_nothing();
    it.sync(vec![slice("a", &[FAR])]);
    assert_eq!(it.change(), leads("a", &[FAR.0], Some(60)));
    it.sync(vec![slice("a", &[])]);
    assert_eq!(it.change(), None, "without endpoints the kernel refuses");
    it.sync(vec![slice("a", &[NEAR]), added(service("a", false, None))]);
    assert_eq!(it.change(), leads("a", &[NEAR.0], None));
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "a"))]);
    assert_eq!(it.change(), None);
}

/// In the rules the node's own connections reach all endpoints, also with policy Local; KEP-6032 says otherwise.
#[test]
fn with_policy_local_only_endpoints_on_this_node_count() {
    let mut it = Loop::start(vec![added(service("a", true, None)), slice("a", &[NEAR, FAR])]);
    assert_eq!(it.change(), leads("a", &[NEAR.0], None));
    it.sync(vec![slice("a", &[FAR])]);
    assert_eq!(it.change(), None);
}

#[test]
fn a_contested_port_goes_to_the_service_that_has_it_in_the_rules() {
    let mut other = service("b", false, None);
    other.cluster_ips = vec![ip("10.96.0.2")];
    let mut it =
        Loop::start(vec![added(service("a", false, None)), slice("a", &[NEAR]), added(other), slice("b", &[FAR])]);
    assert_eq!(it.change(), leads("a", &[NEAR.0], None));
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "a"))]);
    assert_eq!(it.change(), leads("b", &[FAR.0], None), "b did not change");
}

#[test]
fn what_is_near_changes_with_the_nodes_zone() {
    let zoned = |(address, node): (&str, &str), zone: &str| Endpoint {
        placement: Arc::new(Placement { zone_hints: [Arc::from(zone)].into(), ..(*Placement::on(node)).clone() }),
        ..endpoint(ip(address), node)
    };
    let Event::Slice(slice) = slice("a", &[]) else { unreachable!("made so") };
    let slice = EndpointSlice { endpoints: [zoned(NEAR, "z1"), zoned(FAR, "z2")].into(), ..(*slice).clone() };
    let mut it = Loop::start(vec![added(service("a", false, None)), added_slice(slice)]);
    assert_eq!(it.change(), leads("a", &[NEAR.0, FAR.0], None));
    it.sync(vec![Event::Node(Box::new(Node { name: "n1".into(), zone: "z2".into(), ..Node::default() }))]);
    assert_eq!(it.change(), leads("a", &[FAR.0], None));
}
