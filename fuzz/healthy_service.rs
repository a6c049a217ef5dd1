//! A node with one healthy Service, which nothing that happens around it may harm.

use std::time::Instant;

use portway::config::{DetectLocal, NodePortsOn, Options};
use portway::controller::{Controller, Report};
use portway::fuzzing;
use portway::model::{Event, Family, Kind, ObjectKey};
use portway::ruleset::{Bytes, FakeKernel, Kernel, SetId};
use portway::source::{Converter, Origin};

const NODE: &str = "node-a";

const HEALTHY: [&str; 3] = [
    r#"{"kind": "Node", "metadata": {"name": "node-a"}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.168.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]}}"#,
    r#"{"kind": "Service", "metadata": {"namespace": "zz", "name": "healthy",
        "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"], "type": "NodePort",
        "sessionAffinity": "ClientIP", "ports": [{"name": "web", "port": 443, "nodePort": 30000}]}}"#,
    r#"{"kind": "EndpointSlice", "metadata": {"namespace": "zz", "name": "healthy-1",
        "labels": {"kubernetes.io/service-name": "healthy"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": 6443}],
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "node-a"}, {"addresses": ["10.1.1.1"]}]}"#,
];

/// What runs on the node.
pub struct HealthyService {
    controller: Controller<FakeKernel>,
    reports: Box<dyn Fn() -> Report>,
    converter: Converter,
    others: Vec<Event>,
}

impl HealthyService {
    /// With the healthy Service in force.
    pub fn new() -> Self {
        let options = Options {
            detect_local: DetectLocal::ClusterCidr(vec!["10.1.0.0/16".parse().expect("a network")]),
            node_ports: NodePortsOn::primary(),
            ..Options::new(NODE)
        };
        let (controller, reports) = Controller::new(FakeKernel::new(), options);
        let reports = Box::new(move || reports.borrow().clone());
        let converter = Converter::new(Origin::Api, NODE);
        let mut this = Self { controller, reports, converter, others: Vec::new() };
        let kinds = [Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::ServiceCidr];
        this.others.extend(kinds.map(Event::ListStarted));
        this.others.push(Event::LocalAddresses(["192.168.0.1", "fd00::1"].map(|ip| ip.parse().expect("an IP")).into()));
        let healthy =
            HEALTHY.iter().filter_map(|object| fuzzing::watched(&mut this.converter, object.as_bytes())?.event);
        this.others.extend(healthy);
        this.others.extend(kinds.map(Event::ListDone));
        this.sync();
        this.check();
        this
    }

    /// An object arrives, as a watch reads it.
    pub fn deliver(&mut self, object: &[u8]) {
        if let Some(event) = fuzzing::watched(&mut self.converter, object).and_then(|converted| converted.event)
            && !is_healthy_ones(&event)
        {
            self.others.push(event);
        }
    }

    /// What has arrived is put in force.
    pub fn sync(&mut self) {
        self.controller.handle(std::mem::take(&mut self.others), Instant::now());
    }

    /// The table is valid, and the healthy Service is served.
    pub fn check(&mut self) {
        self.sync();
        assert_eq!((self.reports)().failures, 0, "the kernel refused a transaction");
        let table = self.controller.kernel().read(Family::Ipv4).expect("readable").expect("there");
        let elements = |set| &table.sets[&set];
        let frontend = Bytes::new().ip([10, 96, 0, 1].into()).u8(6).u16(443);
        let node_port = Bytes::new().u8(6).u16(30_000);
        assert!(elements(SetId::ClusterIps).contains_key(&Bytes::new().ip([10, 96, 0, 1].into())));
        for (set, key) in [
            (SetId::Services, frontend),
            (SetId::AffinityIds, frontend),
            (SetId::Nodeports, node_port),
            (SetId::Endpoints, frontend.u32_host(0)),
            (SetId::Endpoints, frontend.u32_host(1)),
            (SetId::NodeportEndpoints, node_port.u32_host(1)),
        ] {
            let all = elements(set);
            let element = all.get(&key).unwrap_or_else(|| panic!("{set:?} has lost the healthy Service"));
            let is_its = |comment: &str| comment == "zz/healthy:web";
            assert!(element.comment.as_deref().is_none_or(is_its), "{:?} has taken {set:?}", element.comment);
        }
        for family in Family::ALL {
            let listing = self.controller.kernel().listing(family).expect("a table");
            for element in listing.sets.values().flat_map(|elements| elements.values()) {
                let comment = element.comment.as_deref().unwrap_or_default();
                assert!(
                    comment.len() < 128 && comment.bytes().all(|b| b.is_ascii_graphic() && b != b'"'),
                    "{comment:?}"
                );
            }
        }
    }
}

/// Whether an event speaks of the healthy Service, the Node, or claims to be older than everything.
fn is_healthy_ones(event: &Event) -> bool {
    let its = |key: &ObjectKey| key.namespace() == "zz";
    match event {
        Event::Service(service) => its(&service.key) || service.created.is_some_and(|created| created <= 1_577_836_800),
        Event::Slice(slice) => its(&slice.key),
        Event::ServiceDeleted(key) | Event::SliceDeleted(key) | Event::Unreadable(_, key) => its(key),
        _ => false,
    }
}
