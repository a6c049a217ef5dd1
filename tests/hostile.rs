//! Objects no API server would let through, and some it would: they harm neither the table nor other Services. Needs root.

use std::net::IpAddr;
use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family, Kind};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{Bytes, Element, FakeKernel, Kernel, SetId};
use portway::source::{Converter, Origin};
use serde_json::{Value, json};
use support::netns::in_netns;

const NODE: &str = "node-a";
const NODE_IP: [u8; 4] = [192, 168, 0, 1];

fn event(object: &Value) -> Event {
    let mut converter = Converter::new(Origin::Api, NODE);
    let read = "an object";
    let converted = match object["kind"].as_str() {
        Some("Service") => converter.service(&serde_json::from_value(object.clone()).expect(read)),
        Some("EndpointSlice") => converter.slice(&serde_json::from_value(object.clone()).expect(read)),
        other => panic!("{other:?}"),
    };
    converted.event.expect("an event")
}

fn lists() -> Vec<Event> {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    let mut events: Vec<Event> = kinds.into_iter().flat_map(|k| [Event::ListStarted(k), Event::ListDone(k)]).collect();
    events.push(Event::LocalAddresses([NODE_IP.into()].into()));
    events
}

fn options() -> Options {
    Options { bind_address: Some(NODE_IP.into()), ..Options::new(NODE) }
}

/// A Service and a slice of two endpoints for each of its ports; `more` is merged into the spec.
fn service(name: &str, year: u32, more: Value) -> Vec<Event> {
    let mut spec = json!({"clusterIP": "10.96.0.1", "type": "NodePort", "ports": [{"name": "web", "port": 80}]});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let service = json!({
        "kind": "Service", "spec": spec,
        "metadata": {"namespace": "ns", "name": name, "creationTimestamp": format!("{year}-01-01T00:00:00Z")},
    });
    vec![event(&service), slice(name, "web", &["10.1.0.1".to_owned(), "10.1.0.2".to_owned()])]
}

fn slice(service: &str, port: &str, endpoints: &[String]) -> Event {
    let endpoints: Vec<Value> = endpoints.iter().map(|ip| json!({"addresses": [ip]})).collect();
    event(&json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": port, "port": 8080}], "endpoints": endpoints,
        "metadata": {"namespace": "ns", "name": service, "labels": {"kubernetes.io/service-name": service}},
    }))
}

fn controller(events: impl IntoIterator<Item = Event>) -> Controller<FakeKernel> {
    with_options(options(), events)
}

fn with_options(options: Options, events: impl IntoIterator<Item = Event>) -> Controller<FakeKernel> {
    let (mut controller, reports) = Controller::new(FakeKernel::new(), options);
    controller.handle(lists().into_iter().chain(events), Instant::now());
    assert_eq!(reports.borrow().failures, 0);
    controller
}

/// The comment of an address frontend: whose it is.
fn owner<K: Kernel>(controller: &mut Controller<K>, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    let table = controller.kernel().read(Family::Ipv4).expect("readable").expect("there");
    let element: Element = table.sets[&SetId::Services].get(&Bytes::new().ip(ip.into()).u8(6).u16(port))?;
    element.comment.as_deref().map(str::to_owned)
}

#[test]
fn an_external_ip_takes_neither_a_cluster_ip_nor_an_older_claim() {
    let node_port = json!({"clusterIP": "10.96.0.2", "ports": [{"name": "web", "port": 80, "nodePort": 30080}]});
    let thief = |port: u16| {
        json!({"clusterIP": "10.96.0.9", "externalIPs": ["192.168.0.1", "10.96.0.1", "1.2.3.4"],
            "ports": [{"name": "web", "port": port}]})
    };
    let victims = || {
        let external = json!({"clusterIP": "10.96.0.3", "externalIPs": ["1.2.3.4"]});
        [
            service("cluster-ip", 2024, json!({})),
            service("node-port", 2024, node_port.clone()),
            service("old", 2021, external),
        ]
    };
    for order in 0..2 {
        let stolen = [service("thief", 2022, thief(80)), service("thief-2", 2022, thief(30_080))];
        let mut all: Vec<Vec<Event>> = victims().into_iter().chain(stolen).collect();
        if order == 1 {
            all.reverse();
        }
        let mut controller = controller([]);
        for events in all {
            controller.handle(events, Instant::now());
        }
        let mut owner = |ip: [u8; 4], port| owner(&mut controller, ip, port);
        assert_eq!(owner([10, 96, 0, 1], 80).as_deref(), Some("ns/cluster-ip:web"));
        assert_eq!(owner([1, 2, 3, 4], 80).as_deref(), Some("ns/old:web"));
        // Addresses are looked up before NodePorts (specification 5), as with kube-proxy.
        assert_eq!(owner(NODE_IP, 30_080).as_deref(), Some("ns/thief-2:web"));
        assert_eq!(owner(NODE_IP, 80).as_deref(), Some("ns/thief:web"));
    }
}

#[test]
fn external_ips_can_be_switched_off() {
    let external = || service("web", 2024, json!({"externalIPs": ["1.2.3.4"]}));
    assert!(owner(&mut controller(external()), [1, 2, 3, 4], 80).is_some());
    let off = Options { external_ips: false, ..options() };
    assert!(owner(&mut with_options(off, external()), [1, 2, 3, 4], 80).is_none());
}

/// Ports, endpoints and source ranges by the thousand, in the real kernel beside a healthy Service.
#[test]
fn absurd_sizes_work_or_are_refused() {
    let ports: Vec<Value> = (1..=65_535).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let ports_and_more = json!({"clusterIP": "10.96.0.2", "ports": ports, "sessionAffinity": "ClientIP"});
    let ranges: Vec<String> = (0..5000_u32).map(|n| format!("10.{}.{}.0/{}", n / 250, n % 250, 23 + n % 3)).collect();
    let balancer = |count: usize| {
        let ingress: Vec<Value> = (0..count).map(|n| json!({"ip": format!("1.{}.{}.1", n / 250, n % 250)})).collect();
        event(&json!({
            "kind": "Service", "status": {"loadBalancer": {"ingress": ingress}},
            "metadata": {"namespace": "ns", "name": format!("balancer-{count}")},
            "spec": {"clusterIP": "10.96.0.3", "type": "LoadBalancer", "loadBalancerSourceRanges": ranges,
                "ports": [{"name": "web", "port": 80}]},
        }))
    };
    let endpoints: Vec<String> = (0..10_000).map(|n| format!("10.2.{}.{}", n / 250, n % 250)).collect();
    let wide = json!({"clusterIP": "10.96.0.4"});
    let external: Vec<String> = (0..1000).map(|n| format!("2.0.{}.{}", n / 250, n % 250)).collect();
    let oversized = json!({"clusterIP": "10.96.0.5", "externalIPs": external});
    in_netns(|| {
        let kernel = NftKernel::open_with(nftables::KernelOptions { owned: false, modern: true }).expect("a socket");
        let (mut controller, reports) = Controller::new(kernel, options());
        controller.handle(lists(), Instant::now());
        controller.handle(service("healthy", 2020, json!({})), Instant::now());
        let all = [
            service("ports", 2024, ports_and_more),
            service("wide", 2024, wide).into_iter().take(1).collect(),
            vec![slice("wide", "web", &endpoints)],
            vec![balancer(2)],
            vec![balancer(1000), slice("balancer-1000", "web", &endpoints)],
            service("oversized", 2024, oversized).into_iter().take(1).collect(),
            vec![slice("oversized", "web", &endpoints)],
        ];
        for events in all {
            controller.handle(events, Instant::now());
            assert_eq!(reports.borrow().failures, 0);
            assert!(controller.model().all_set_aside().len() == 0);
        }
        let mut owner = |ip: [u8; 4], port| owner(&mut controller, ip, port);
        assert_eq!(owner([10, 96, 0, 1], 80).as_deref(), Some("ns/healthy:web"));
        assert_eq!(owner([10, 96, 0, 2], 65_535).as_deref(), Some("ns/ports:p65535"));
        assert_eq!(owner([10, 96, 0, 4], 80).as_deref(), Some("ns/wide:web"));
        assert_eq!(owner([1, 0, 1, 1], 80).as_deref(), Some("ns/balancer-2:web"));
        assert_eq!(owner([10, 96, 0, 5], 80), None, "ten million elements");
        assert_eq!(owner([1, 1, 1, 1], 80), None, "five million elements");
    });
}
