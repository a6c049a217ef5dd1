//! The truth table of specification 6.6, answered by the tracer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portway::config::{DetectLocal, Options};
use portway::diff::Mirror;
use portway::model::{EndpointSlice, Event, Family, Model, Protocol, Service, ServiceCidr, ServicePort, ServiceType};
use portway::ruleset::Listing;
use portway::testing::{self, added, added_node, added_slice, all_listed, endpoint, ip, service_port};
use portway::trace::{End, Host, Packet, Request, trace};

const NODE_IP: &str = "192.168.0.1";
const VIP: &str = "198.51.100.1";
const LOCAL_POD: &str = "10.244.0.10";
const REMOTE_POD: &str = "10.244.1.10";

/// P pod here, P' pod elsewhere, H this host, N another node, X outside.
const SOURCES: [(&str, &str); 5] =
    [("P", "10.244.0.5"), ("P'", "10.244.1.5"), ("H", NODE_IP), ("N", "192.168.0.2"), ("X", "203.0.113.9")];

struct Case {
    options: Options,
    internal_local: bool,
    external_local: bool,
    /// On this node, on another node.
    endpoints: &'static [&'static str],
    source_ranges: &'static [&'static str],
}

impl Default for Case {
    fn default() -> Self {
        let mut options = Options::new("n1");
        options.detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().expect("a range")]);
        Self {
            options,
            internal_local: false,
            external_local: false,
            endpoints: &[LOCAL_POD, REMOTE_POD],
            source_ranges: &[],
        }
    }
}

impl Case {
    fn listing(&self) -> Listing {
        let service = Service {
            service_type: ServiceType::LoadBalancer,
            external_ips: vec![ip("10.77.0.1")],
            load_balancer_ips: vec![ip(VIP)],
            source_ranges: self.source_ranges.iter().map(|net| net.parse().expect("a range")).collect(),
            external_policy_local: self.external_local,
            internal_policy_local: self.internal_local,
            ports: vec![ServicePort { node_port: Some(30_080), ..service_port("", 80) }],
            ..testing::service("svc", "10.96.0.1")
        };
        let on_its_node = |address: &&str| endpoint(ip(address), if *address == LOCAL_POD { "n1" } else { "n2" });
        let slice = EndpointSlice {
            endpoints: self.endpoints.iter().map(on_its_node).collect(),
            ..testing::slice("svc", "", &[])
        };
        let cidr = ServiceCidr { name: "kubernetes".into(), cidrs: vec!["10.96.0.0/16".parse().expect("a range")] };
        let mut model = Model::default();
        let node = added_node(testing::node("n1", &[NODE_IP]));
        let events = [added(service), added_slice(slice), node, Event::ServiceCidr(cidr)];
        events.into_iter().chain(all_listed()).for_each(|event| model.apply(event));
        let (mirror, _) = Mirror::build(self.options.settings(&model), &model);
        mirror.listing(Family::Ipv4).expect("IPv4 is served")
    }

    /// What a connection meets, in the table's words: `CS m`, `LS -`, `drop`, `reject`, `untouched`; `A` and `B` stand
    /// for just the local and just the remote endpoint.
    fn answer(&self, listing: &Listing, from: &str, to: &str, port: u16, interface: Option<&str>) -> String {
        let mut addresses: BTreeSet<IpAddr> = [ip(NODE_IP), ip("192.168.9.1")].into();
        if from == VIP {
            addresses.insert(ip(VIP));
        }
        let packet = Packet {
            source: ip(from),
            destination: ip(to),
            request: Request::Connect { protocol: Protocol::Tcp, port },
            source_port: None,
            interface: interface.map(str::to_owned),
        };
        let trace = trace(listing, &Host { addresses }, &packet);
        let total: f64 = trace.ends.iter().map(|(_, share)| share).sum();
        assert!((total - 1.0).abs() < 1e-9, "{trace:?}");
        let mut targets = BTreeSet::new();
        let mut masquerades = BTreeSet::new();
        for (end, _) in &trace.ends {
            match end {
                End::Translated { target, masquerade } => {
                    assert_eq!(target.port, 8080);
                    targets.insert(target.ip.to_string());
                    masquerades.insert(*masquerade);
                }
                End::Answered => return "answered".into(),
                End::Reset => return "reset".into(),
                End::Rejected => return "reject".into(),
                End::Dropped => return "drop".into(),
                End::HandedOn { .. } => return "handed on".into(),
                End::Untouched => return "untouched".into(),
            }
        }
        let both: BTreeSet<String> = [LOCAL_POD.to_owned(), REMOTE_POD.to_owned()].into();
        let set = match (targets == both, targets.contains(LOCAL_POD)) {
            (true, _) => "CS",
            (false, true) => "A",
            (false, false) => "B",
        };
        let masquerade: Vec<&str> = masquerades.iter().map(|m| if *m { "m" } else { "-" }).collect();
        format!("{set} {}", masquerade.join("/"))
    }

    /// Checks a row: the answers to P, P', H, N, X.
    fn row(&self, destinations: &[(&str, u16)], expected: [&str; 5]) {
        let listing = self.listing();
        for (to, port) in destinations {
            for ((name, from), expected) in SOURCES.iter().zip(expected) {
                assert_eq!(self.answer(&listing, from, to, *port, None), expected, "{name} {from} to {to}:{port}");
            }
        }
    }
}

const CLUSTER_IP: &[(&str, u16)] = &[("10.96.0.1", 80)];
const EXTERNAL: &[(&str, u16)] = &[(VIP, 80), ("10.77.0.1", 80), (NODE_IP, 30_080)];

fn without_detection() -> Options {
    Options::new("n1")
}

#[test]
fn internal_policy_cluster() {
    Case::default().row(CLUSTER_IP, ["CS -", "CS -", "CS m", "CS m", "CS m"]);
    let mut all = Case::default();
    all.options.masquerade_all = true;
    all.row(CLUSTER_IP, ["CS m"; 5]);
    Case { options: without_detection(), ..Case::default() }.row(CLUSTER_IP, ["CS -"; 5]);
}

#[test]
fn internal_policy_local() {
    let local = Case { internal_local: true, ..Case::default() };
    local.row(CLUSTER_IP, ["A -", "A -", "A m", "A m", "A m"]);
    local.row(EXTERNAL, ["CS m"; 5]);
    Case { internal_local: true, endpoints: &[REMOTE_POD], ..Case::default() }.row(CLUSTER_IP, ["drop"; 5]);
}

#[test]
fn external_policy_cluster() {
    Case::default().row(EXTERNAL, ["CS m"; 5]);
    Case { options: without_detection(), ..Case::default() }.row(EXTERNAL, ["CS m"; 5]);
}

#[test]
fn external_policy_local() {
    let local = Case { external_local: true, ..Case::default() };
    local.row(EXTERNAL, ["CS -", "CS -", "CS m", "A -", "A -"]);
    local.row(CLUSTER_IP, ["CS -", "CS -", "CS m", "CS m", "CS m"]);
    let empty = Case { external_local: true, endpoints: &[REMOTE_POD], ..Case::default() };
    empty.row(EXTERNAL, ["B -", "B -", "B m", "drop", "drop"]);
}

#[test]
fn external_policy_local_without_detection() {
    let options = without_detection();
    let local = Case { external_local: true, options: options.clone(), ..Case::default() };
    local.row(EXTERNAL, ["A -", "A -", "CS m", "A -", "A -"]);
    let empty = Case { external_local: true, endpoints: &[REMOTE_POD], options, ..Case::default() };
    empty.row(EXTERNAL, ["drop", "drop", "B m", "drop", "drop"]);
}

#[test]
fn no_endpoints() {
    for (internal_local, external_local) in [(false, false), (true, false), (false, true), (true, true)] {
        let none = Case { endpoints: &[], internal_local, external_local, ..Case::default() };
        none.row(CLUSTER_IP, ["reject"; 5]);
        none.row(EXTERNAL, ["reject"; 5]);
    }
}

#[test]
fn source_ranges() {
    let vip: &[(&str, u16)] = &[(VIP, 80)];
    let closed = Case { source_ranges: &["172.16.0.0/12"], ..Case::default() };
    closed.row(vip, ["drop"; 5]);
    closed.row(&[("10.77.0.1", 80), (NODE_IP, 30_080)], ["CS m"; 5]);
    let empty = Case { source_ranges: &["172.16.0.0/12"], endpoints: &[], ..Case::default() };
    empty.row(vip, ["drop"; 5]);
    let node = Case { source_ranges: &["192.168.0.0/24"], external_local: true, ..Case::default() };
    let listing = node.listing();
    assert_eq!(node.answer(&listing, VIP, VIP, 80, None), "CS m", "the node is allowed, so is its own VIP as source");
    assert_eq!(node.answer(&listing, "192.168.0.2", VIP, 80, None), "A -");
    assert_eq!(node.answer(&listing, "192.168.1.2", VIP, 80, None), "drop");
}

#[test]
fn addresses_nobody_serves() {
    let any = Case::default();
    any.row(&[("10.96.0.1", 81)], ["reject"; 5]);
    any.row(&[("10.96.0.77", 80)], ["drop"; 5]);
    let others = [(VIP, 81), ("10.77.0.1", 30_080), (NODE_IP, 30_081), ("192.168.9.1", 30_080), ("127.0.0.1", 30_080)];
    any.row(&others, ["untouched"; 5]);
}

#[test]
fn a_pod_that_is_sent_to_itself_is_masqueraded() {
    let case = Case { endpoints: &[LOCAL_POD], ..Case::default() };
    let listing = case.listing();
    assert_eq!(case.answer(&listing, LOCAL_POD, "10.96.0.1", 80, None), "A m");
    let local = Case { endpoints: &[LOCAL_POD], external_local: true, ..Case::default() };
    assert_eq!(local.answer(&local.listing(), LOCAL_POD, VIP, 80, None), "A m");
}

#[test]
fn detection_by_interface() {
    for detect_local in [DetectLocal::BridgeInterface("cali0".into()), DetectLocal::InterfaceNamePrefix("cali".into())]
    {
        let mut case = Case { external_local: true, ..Case::default() };
        case.options.detect_local = detect_local;
        let listing = case.listing();
        let ask = |from, to, port, interface| case.answer(&listing, from, to, port, interface);
        assert_eq!(ask("10.244.0.5", "10.96.0.1", 80, Some("cali0")), "CS -");
        assert_eq!(ask("10.244.1.5", "10.96.0.1", 80, Some("eth0")), "CS m", "P' behaves like X");
        assert_eq!(ask(NODE_IP, "10.96.0.1", 80, None), "CS m", "the host has no input interface");
        assert_eq!(ask("10.244.0.5", VIP, 80, Some("cali0")), "CS -");
        assert_eq!(ask("10.244.1.5", VIP, 80, Some("eth0")), "A -");
        assert_eq!(ask(NODE_IP, VIP, 80, None), "CS m");
    }
}
