//! A sticky Service on a node that really exists, and its clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use portway::config::{DetectLocal, Options};
use portway::model::{
    EndpointSlice, Event, Family, Kind, Protocol as ModelProtocol, Service, ServicePort, ServiceType, SlicePort,
};
use portway::testing::{self, added, added_node, added_slice, endpoint, ip, service_port, slice_port};

use super::attempt::{Outcome, target};
use super::cluster::{NODE, empty_lists, key};
use super::live::Live;
use super::packets::Protocol;
use super::scenes::{layout, node_addresses};
use super::world::{Layout, Place};

pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:60::10"];
pub const NODE_IPS: [&str; 2] = ["10.51.0.1", "fd00:33::1"];
pub const LOAD_BALANCERS: [&str; 2] = ["10.78.0.1", "fd00:4e::1"];
/// TCP, then UDP.
pub const PORTS: [u16; 2] = [80, 53];
pub const NODE_PORTS: [u16; 2] = [30_080, 30_053];

/// An endpoint: its address in both families.
pub type Pair = [&'static str; 2];
/// Pods on this node.
pub const LOCAL: &[Pair] = &[["10.1.0.1", "fd00:1::1"], ["10.1.0.2", "fd00:1::2"]];
/// Pods elsewhere.
pub const REMOTE: &[Pair] = &[["10.1.1.7", "fd00:1:1::7"]];
/// On this node's host network.
pub const HOST: &[Pair] = &[["10.51.0.1", "fd00:33::1"], ["10.51.0.2", "fd00:33::2"]];

/// One Service and its endpoints.
#[derive(Debug, Clone)]
pub struct Shop {
    pub endpoints: Vec<Pair>,
    /// More endpoints elsewhere, IPv4 only.
    pub more: Vec<String>,
    pub timeout: Option<u32>,
    pub external_local: bool,
    pub internal_local: bool,
    /// Whether it has its load balancer addresses.
    pub load_balancer: bool,
    pub detect_local: DetectLocal,
}

impl Default for Shop {
    fn default() -> Self {
        let pods = ["10.1.0.0/16", "fd00:1::/32"].map(|net| net.parse().expect("valid"));
        Self {
            endpoints: Vec::new(),
            more: Vec::new(),
            timeout: Some(10_800),
            external_local: false,
            internal_local: false,
            load_balancer: true,
            detect_local: DetectLocal::ClusterCidr(pods.into()),
        }
    }
}

impl Shop {
    /// A node with this Service, and the calling thread on it.
    pub fn open(&self) -> Live {
        self.open_with(Live::build)
    }

    /// The same with a sync loop that owns its tables.
    pub fn open_owned(&self) -> Live {
        self.open_with(Live::build_owned)
    }

    fn open_with(&self, build: fn(Layout, &Options) -> anyhow::Result<Live>) -> Live {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let mut options = Options::new(NODE);
        options.detect_local = self.detect_local.clone();
        let mut live = build(layout(&options), &options).expect("a world");
        live.handle(self.events()).expect("a first sync");
        live
    }

    /// Tells the sync loop what is new.
    pub fn change(&self, live: &mut Live) {
        live.handle(self.objects()).expect("a sync");
    }

    /// Everything there is, as at the start.
    pub fn events(&self) -> Vec<Event> {
        let node = testing::node(NODE, &NODE_IPS);
        let mut events = vec![Event::LocalAddresses(node_addresses().into_iter().collect()), added_node(node)];
        events.extend(self.objects());
        events.extend(
            empty_lists()
                .into_iter()
                .filter(|event| matches!(event, Event::ListDone(kind) if *kind != Kind::ServiceCidr)),
        );
        events
    }

    /// The Service and its slices.
    pub fn objects(&self) -> Vec<Event> {
        let port = |name: &str, protocol, port, node_port| ServicePort {
            protocol,
            node_port: Some(node_port),
            ..service_port(name, port)
        };
        let load_balancers: &[&str] = if self.load_balancer { &LOAD_BALANCERS } else { &[] };
        let service = Service {
            key: key("shop", "sticky"),
            service_type: ServiceType::LoadBalancer,
            cluster_ips: CLUSTER_IPS.map(ip).into(),
            load_balancer_ips: load_balancers.iter().map(|text| ip(text)).collect(),
            external_policy_local: self.external_local,
            internal_policy_local: self.internal_local,
            affinity_seconds: self.timeout,
            ports: vec![
                port("web", ModelProtocol::Tcp, PORTS[0], NODE_PORTS[0]),
                port("dns", ModelProtocol::Udp, PORTS[1], NODE_PORTS[1]),
            ],
            ..testing::service("sticky", CLUSTER_IPS[0])
        };
        let slices = Family::ALL.map(|family| added_slice(self.slice(family)));
        std::iter::once(added(service)).chain(slices).collect()
    }

    fn slice(&self, family: Family) -> EndpointSlice {
        let which = usize::from(family == Family::Ipv6);
        let node_of = |pair: &Pair| if REMOTE.contains(pair) { "node-b" } else { NODE };
        let mut endpoints: Vec<_> =
            self.endpoints.iter().map(|pair| endpoint(ip(pair[which]), node_of(pair))).collect();
        if family == Family::Ipv4 {
            endpoints.extend(self.more.iter().map(|address| endpoint(ip(address), "node-b")));
        }
        let port = |name: &str, protocol, port| SlicePort { protocol, ..slice_port(name, port) };
        EndpointSlice {
            key: key("shop", if family == Family::Ipv4 { "sticky-4" } else { "sticky-6" }),
            service: key("shop", "sticky"),
            family,
            ports: vec![port("web", ModelProtocol::Tcp, 8080), port("dns", ModelProtocol::Udp, 5353)],
            endpoints,
            ..testing::slice("sticky", NODE, &[])
        }
    }
}

/// A client who stands there.
pub fn client(place: Place, ipv4: bool, n: u16) -> IpAddr {
    let text = match (place, ipv4) {
        (Place::Node, _) => NODE_IPS[usize::from(!ipv4)].to_owned(),
        (Place::Pods, true) => format!("10.1.0.{}", 100 + n),
        (Place::Pods, false) => format!("fd00:1::64:{n:x}"),
        (Place::Uplink, true) => return outside(n),
        (Place::Uplink, false) => format!("2001:db8::64:{n:x}"),
    };
    text.parse().expect("valid")
}

/// An IPv4 client far away.
pub fn outside(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::from([172, 20, high, low])
}

/// Where a client stands.
pub fn place_of(client: IpAddr) -> Place {
    let text = client.to_string();
    if node_addresses().contains(&client) {
        Place::Node
    } else if text.starts_with("10.1.0.") || text.starts_with("fd00:1::") {
        Place::Pods
    } else {
        Place::Uplink
    }
}

/// The one endpoint at which new connections end, or all that became of them.
pub fn settled(
    live: &Live,
    protocol: Protocol,
    from: IpAddr,
    to: SocketAddr,
    times: usize,
) -> Result<SocketAddr, Vec<Outcome>> {
    let outcomes = live.connect(place_of(from), protocol, from, to, times).expect("packets");
    match target(&outcomes[0]) {
        Some(one) if outcomes.iter().all(|outcome| target(outcome) == Some(one)) => Ok(one),
        _ => Err(outcomes),
    }
}

/// Frontends of the shop: what they are called, where they are, and the port.
pub fn frontends(ipv4: bool, protocol: Protocol) -> [(&'static str, SocketAddr); 3] {
    let of = |pair: [&str; 2]| -> IpAddr { pair[usize::from(!ipv4)].parse().expect("valid") };
    let which = usize::from(protocol == Protocol::Udp);
    [
        ("ClusterIP", SocketAddr::new(of(CLUSTER_IPS), PORTS[which])),
        ("NodePort", SocketAddr::new(of(NODE_IPS), NODE_PORTS[which])),
        ("load balancer", SocketAddr::new(of(LOAD_BALANCERS), PORTS[which])),
    ]
}

/// Where clients outside are sent, with one connection each.
pub fn targets(
    live: &Live,
    protocol: Protocol,
    to: SocketAddr,
    clients: std::ops::Range<u16>,
) -> BTreeMap<IpAddr, SocketAddr> {
    let one = |n: u16| {
        let from = outside(n);
        (from, settled(live, protocol, from, to, 1).unwrap_or_else(|seen| panic!("{to} from {from}: {seen:?}")))
    };
    clients.map(one).collect()
}
