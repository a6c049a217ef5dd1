//! Objects for tests, with everything as it mostly is: `Service { ports: .., ..testing::service("a", "10.96.0.1") }`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    Endpoint, EndpointSlice, Event, Family, Kind, Node, ObjectKey, Placement, Protocol, Service, ServicePort,
    ServiceType, SlicePort,
};

/// An address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// A Service `ns/NAME` of type ClusterIP at an address, with the port 80/TCP, which has no name.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Service {
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
    }
}

/// A port of a Service, for TCP and without a NodePort.
pub(crate) fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None }
}

/// A port of an EndpointSlice, for TCP.
pub(crate) fn slice_port(name: &str, port: u16) -> SlicePort {
    SlicePort { name: name.into(), protocol: Protocol::Tcp, port }
}

/// A ready endpoint on a node.
pub(crate) fn endpoint(address: IpAddr, node: &str) -> Endpoint {
    Endpoint { address, ready: true, serving: true, terminating: false, placement: Placement::on(node) }
}

/// The slice `ns/SERVICE-FAMILY` of a Service with ready endpoints at port 8080, all on one node; their first address says
/// of which family it is, and without any it is IPv4.
pub(crate) fn slice(service: &str, node: &str, addresses: &[&str]) -> EndpointSlice {
    let family = addresses.first().map_or(Family::Ipv4, |address| Family::of(ip(address)));
    EndpointSlice {
        key: ObjectKey::new("ns", format!("{service}-{}", family.nft())),
        service: ObjectKey::new("ns", service),
        family,
        ports: vec![slice_port("", 8080)],
        endpoints: addresses.iter().map(|address| endpoint(ip(address), node)).collect(),
        changed_at: None,
    }
}

/// The event that an object is there.
pub(crate) fn added(service: Service) -> Event {
    Event::Service(Arc::new(service))
}

/// The event that a slice is there.
pub(crate) fn added_slice(slice: EndpointSlice) -> Event {
    Event::Slice(Arc::new(slice))
}

/// A source has listed everything, and there is a Node of this name besides.
pub(crate) fn listed(node: &str) -> Vec<Event> {
    let node = Node { name: node.into(), ..Node::default() };
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    [Event::Node(Box::new(node))].into_iter().chain(kinds.map(Event::ListDone)).collect()
}
