//! Objects for tests, with everything as it mostly is: `Service { ports: .., ..testing::service("a", "10.96.0.1") }`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    Endpoint, EndpointSlice, Event, Family, Kind, Node, ObjectKey, Placement, Protocol, Service, ServicePort,
    ServiceType, SlicePort,
};

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// A Service `ns/NAME` of type ClusterIP at an address, with the port 80/TCP, which has no name.
pub fn service(name: &str, cluster_ip: &str) -> Service {
    Service {
        key: ObjectKey::new("ns", name),
        created: None,
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec![ip(cluster_ip)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        bad_source_ranges: false,
        external_policy_local: false,
        internal_policy_local: false,
        affinity_seconds: None,
        health_check_node_port: None,
        ports: vec![service_port("", 80)],
        annotated: None,
    }
}

/// A port of a Service, for TCP and without a NodePort.
pub fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None }
}

/// A port of an EndpointSlice, for TCP.
pub fn slice_port(name: &str, port: u16) -> SlicePort {
    SlicePort { name: name.into(), protocol: Protocol::Tcp, port }
}

/// A ready endpoint on a node.
pub fn endpoint(address: IpAddr, node: &str) -> Endpoint {
    Endpoint { address, ready: true, serving: true, terminating: false, placement: Placement::on(node) }
}

/// The slice `ns/SERVICE-FAMILY` of a Service with ready endpoints at port 8080, all on one node; their first address says
/// of which family it is, and without any it is IPv4.
pub fn slice(service: &str, node: &str, addresses: &[&str]) -> EndpointSlice {
    let family = addresses.first().map_or(Family::Ipv4, |address| Family::of(ip(address)));
    EndpointSlice {
        key: ObjectKey::new("ns", format!("{service}-{}", family.nft())),
        service: ObjectKey::new("ns", service),
        family,
        ports: vec![slice_port("", 8080)],
        endpoints: addresses.iter().map(|address| endpoint(ip(address), node)).collect(),
        weights: None,
        changed_at: None,
    }
}

/// A Node with InternalIPs.
pub fn node(name: &str, ips: &[&str]) -> Node {
    Node { name: name.into(), ips: ips.iter().map(|text| ip(text)).collect(), ..Node::default() }
}

/// The event that a Service is there.
pub fn added(service: Service) -> Event {
    Event::Service(Arc::new(service))
}

/// The event that a slice is there.
pub fn added_slice(slice: EndpointSlice) -> Event {
    Event::Slice(Arc::new(slice))
}

/// The event that a Node is there.
pub fn added_node(node: Node) -> Event {
    Event::Node(Box::new(node))
}

/// The events of a source that has listed everything.
pub fn all_listed() -> impl Iterator<Item = Event> {
    [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr].into_iter().map(Event::ListDone)
}

/// The same, and there is a Node of this name besides.
pub fn listed(name: &str) -> Vec<Event> {
    [added_node(node(name, &[]))].into_iter().chain(all_listed()).collect()
}
