//! A cluster of Services with one port and one slice each.

#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use portway::config::{DetectLocal, Options};
use portway::model::{
    Endpoint, EndpointSlice, Event, Family, Kind, Model, Node, ObjectKey, Placement, Protocol, Service, ServicePort,
    ServiceType, SlicePort,
};

fn key(n: usize) -> ObjectKey {
    ObjectKey::new("bench", format!("service-{n}"))
}

fn address(first: u8, n: usize) -> IpAddr {
    let n = n as u32;
    IpAddr::from([first, (n >> 16) as u8, (n >> 8) as u8, n as u8])
}

pub fn service(n: usize) -> Service {
    Service {
        key: key(n),
        created: Some(n as i64),
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec![address(10, n + 1)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        bad_source_ranges: false,
        external_policy_local: false,
        internal_policy_local: false,
        affinity_seconds: None,
        health_check_node_port: None,
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
    }
}

/// The slice of a Service; `generation` changes its first endpoint only.
pub fn slice(n: usize, endpoints: usize, generation: usize) -> EndpointSlice {
    let endpoint = |i: usize| Endpoint {
        address: if i == 0 { address(12, generation % 65_536) } else { address(11, n * endpoints + i) },
        ready: true,
        serving: true,
        terminating: false,
        placement: placement((i + 1) % 50),
    };
    EndpointSlice {
        key: ObjectKey::new("bench", format!("service-{n}-slice")),
        service: key(n),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        changed_at: None,
    }
}

/// On one of 50 nodes, shared by all who are there, as a source does it.
fn placement(node: usize) -> Arc<Placement> {
    static NODES: LazyLock<Vec<Arc<Placement>>> =
        LazyLock::new(|| (0..50).map(|n| Placement::on(format!("node-{n}"))).collect());
    NODES[node].clone()
}

pub fn options() -> Options {
    let mut options = Options::new("node-0");
    options.detect_local = DetectLocal::ClusterCidr(vec!["11.0.0.0/8".parse().expect("a range")]);
    options
}

pub fn events(services: usize, endpoints: usize) -> Vec<Event> {
    let node = Node { name: "node-0".into(), ips: vec![[192, 168, 0, 1].into()], ..Node::default() };
    let mut events = vec![Event::Node(Box::new(node))];
    events.extend((0..services).map(|n| Event::Service(Arc::new(service(n)))));
    events.extend((0..services).map(|n| Event::Slice(Arc::new(slice(n, endpoints, 0)))));
    events.extend([Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr].map(Event::ListDone));
    events
}

pub fn model(services: usize, endpoints: usize) -> (Options, Model) {
    let mut model = Model::default();
    events(services, endpoints).into_iter().for_each(|event| model.apply(event));
    (options(), model)
}

/// The same Service or slice with another protocol.
pub fn over(mut event: Event, protocol: Protocol) -> Event {
    match &mut event {
        Event::Service(service) => Arc::make_mut(service).ports.iter_mut().for_each(|port| port.protocol = protocol),
        Event::Slice(slice) => Arc::make_mut(slice).ports.iter_mut().for_each(|port| port.protocol = protocol),
        _ => {}
    }
    event
}
