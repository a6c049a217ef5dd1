//! A cluster of Services with one port and one slice each.

#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use portway::config::{DetectLocal, Options};
use portway::model::{
    Balance, Endpoint, EndpointSlice, Event, Model, ObjectKey, Placement, Protocol, Service, ServiceOptions,
};
use portway::testing::{self, added, added_node, added_slice, all_listed, service_port, slice_port};

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
        cluster_ips: vec![address(10, n + 1)],
        ports: vec![service_port("http", 80)],
        ..testing::service("", "10.0.0.1")
    }
}

/// The slice of a Service; `generation` changes its first endpoint only.
pub fn slice(n: usize, endpoints: usize, generation: usize) -> EndpointSlice {
    resized(n, endpoints, endpoints, generation)
}

/// The same when the Service has another number of endpoints than at first: all others are as they were.
pub fn resized(n: usize, at_first: usize, endpoints: usize, generation: usize) -> EndpointSlice {
    let address_of = |i: usize| match i {
        0 => address(12, generation % 65_536),
        i if i < at_first => address(11, n * at_first + i),
        i => address(13, n * 16 + i - at_first),
    };
    let endpoint = |i: usize| Endpoint {
        address: address_of(i),
        placement: placement((i + 1) % 50),
        ready: true,
        serving: true,
        terminating: false,
    };
    EndpointSlice {
        key: ObjectKey::new("bench", format!("service-{n}-slice")),
        service: key(n),
        ports: vec![slice_port("http", 8080)],
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..testing::slice("", "", &[])
    }
}

/// The slice as it is at first. A single endpoint is its Service's own: those that change are shared by all.
pub fn first_slice(n: usize, endpoints: usize) -> EndpointSlice {
    if endpoints > 1 {
        return slice(n, endpoints, 0);
    }
    let mut slice = slice(n, 2, 0);
    slice.endpoints.remove(0);
    slice
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
    let mut events = vec![added_node(testing::node("node-0", &["192.168.0.1"]))];
    events.extend((0..services).map(|n| added(service(n))));
    events.extend((0..services).map(|n| added_slice(first_slice(n, endpoints))));
    events.extend(all_listed());
    events
}

pub fn model(services: usize, endpoints: usize) -> (Options, Model) {
    let mut model = Model::default();
    events(services, endpoints).into_iter().for_each(|event| model.apply(event));
    (options(), model)
}

/// The same Service with endpoints chosen by the client's address.
pub fn hashing(mut event: Event) -> Event {
    if let Event::Service(service) = &mut event {
        let options = ServiceOptions { balance: Balance::SourceIp, ..ServiceOptions::DEFAULT };
        Arc::make_mut(service).annotated = Some(options.into());
    }
    event
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
