//! Generated clusters on a node that really exists, and packets worth sending there.
//!
//! Made of the strategies of [`super::cluster`], with addresses moved to where somebody lives: pods here (`10.1.0.x`),
//! pods elsewhere (`10.1.1.x`), endpoints on the host network (the node's own `10.51.0.1` and `.2`), external addresses
//! that are the node's or a ClusterIP, and a load balancer address that is configured on the node (`10.78.0.3`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use portway::config::{DetectLocal, Options};
use portway::diff::Mirror;
use portway::model::{EndpointSlice, Event, Family, Node, Protocol, Service, ServiceCidr, SlicePort};
use portway::plan::FrontendKey;
use portway::testing::all_listed;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::cluster::{NODE, any_options, any_service, any_service_cidr, any_slice, key};
use super::world::{Layout, Place, PodInterface};

/// A cluster as one node sees it, and what to try there.
#[derive(Debug)]
pub struct Scene {
    pub options: Options,
    pub events: Vec<Event>,
    pub wishes: Vec<Wish>,
}

/// What kind of packet to make; the numbers choose among what there is.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    ipv4: bool,
    from: u8,
    from_which: u8,
    to: u8,
    to_which: u16,
    protocol: Protocol,
}

/// A packet to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    pub place: Place,
    pub from: IpAddr,
    pub to: SocketAddr,
    pub protocol: Protocol,
}

/// Has `jobs` threads take the numbers of cases, each the next one, until none is left; what each made of its own.
pub fn side_by_side<T: Send>(
    jobs: usize,
    cases: u64,
    work: impl Fn(&mut (dyn Iterator<Item = u64> + Send)) -> T + Sync,
) -> Vec<T> {
    let next = AtomicU64::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|case| *case < cases);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| work(&mut std::iter::from_fn(take)))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a panic is a failure")).collect()
    })
}

/// The value a strategy gives for a seed.
pub fn sample<S: Strategy>(strategy: &S, seed: u64) -> S::Value {
    let mut bytes = [0x70; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).expect("a strategy without filters").current()
}

/// A number from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

fn ip(family: Family, range: u8, subnet: u8, n: u8) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::from([10, range, subnet, n]),
        Family::Ipv6 => IpAddr::from([0xfd00, u16::from(range), u16::from(subnet), 0, 0, 0, 0, u16::from(n)]),
    }
}

/// The last number of an address.
fn last(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

/// Every address of the node but loopback.
pub fn node_addresses() -> Vec<IpAddr> {
    let of = |family| [ip(family, 51, 0, 1), ip(family, 51, 0, 2), ip(family, 78, 0, 3)];
    Family::ALL.into_iter().flat_map(of).collect()
}

fn pod_ranges() -> Vec<IpNet> {
    ["10.1.0.0/24", "fd00:1::/64"].map(|net| net.parse().expect("valid")).into()
}

/// The world that a configuration needs.
pub fn layout(options: &Options) -> Layout {
    let pod_interface = match &options.detect_local {
        DetectLocal::BridgeInterface(name) => PodInterface::Bridge(name.clone()),
        DetectLocal::InterfaceNamePrefix(prefix) => PodInterface::Plain(format!("{prefix}0")),
        DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr => PodInterface::Plain("pods0".to_owned()),
    };
    Layout { addresses: node_addresses(), pod_ranges: pod_ranges(), pod_interface }
}

/// Scenes with so many packets.
pub fn any_scene(packets: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Scene> {
    let node_cidr = any::<u8>();
    let objects = (vec(any_service(), 4..8), vec(any_slice(), 10..20), vec(any_service_cidr(), 0..3));
    let node = (vec((any::<bool>(), 1_u8..3), 1..3), prop_oneof![Just("zone-a"), Just("zone-b"), Just("")]);
    (any_options(), node_cidr, objects, node, vec(any_wish(), packets)).prop_map(
        |(mut options, node_cidr, (services, slices, cidrs), (ips, zone), wishes)| {
            if node_cidr < 50 {
                options.detect_local = DetectLocal::NodeCidr;
            }
            let mut node_ips: Vec<IpAddr> = Vec::new();
            for (ipv4, n) in ips {
                let ip = ip(if ipv4 { Family::Ipv4 } else { Family::Ipv6 }, 51, 0, n);
                if !node_ips.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
                    node_ips.push(ip);
                }
            }
            let node = Node {
                name: NODE.into(),
                ips: node_ips,
                zone: zone.into(),
                pod_cidrs: pod_ranges(),
                ..Node::default()
            };
            let services: Vec<Service> = services.into_iter().enumerate().map(settle_service).collect();
            let slices = slices.into_iter().enumerate();
            let slices = slices.map(|(n, slice)| settle_slice(n, slice, &services[n % services.len()])).collect();
            Scene { options, events: events(node, &services, slices, cidrs), wishes }
        },
    )
}

fn events(node: Node, services: &[Service], slices: Vec<EndpointSlice>, cidrs: Vec<ServiceCidr>) -> Vec<Event> {
    let mut addresses: BTreeSet<IpAddr> = node_addresses().into_iter().collect();
    addresses.extend(["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().expect("valid")));
    let mut events = vec![Event::LocalAddresses(addresses), Event::Node(Box::new(node))];
    events.extend(cidrs.into_iter().map(Event::ServiceCidr));
    events.extend(services.iter().map(|service| Event::Service(service.clone().into())));
    events.extend(slices.into_iter().map(|slice| Event::Slice(slice.into())));
    events.extend(all_listed());
    events
}

/// Moves some external addresses to where they are awkward.
fn settle_service((index, mut service): (usize, Service)) -> Service {
    // Few Services may be headless: nothing can be asked of them.
    if service.cluster_ips.is_empty() && index > 0 {
        service.cluster_ips = Family::ALL.map(|family| ip(family, 96, 0, 10 + index as u8)).into();
    }
    // All keep their object: the strategy has only four names.
    service.key = key("shop", &format!("svc-{index}"));
    for address in &mut service.external_ips {
        let family = Family::of(*address);
        match (last(*address), service.created) {
            (3, _) => *address = ip(family, 51, 0, 1),
            (2, Some(1)) => *address = ip(family, 96, 0, 1),
            _ => {}
        }
    }
    if service.created == Some(2) {
        // A port on addresses that is also a NodePort.
        service.ports[0].port = 30_000;
    }
    service
}

/// Gives a slice to a Service, with the Service's ports and addresses where somebody lives.
fn settle_slice(index: usize, mut slice: EndpointSlice, service: &Service) -> EndpointSlice {
    slice.key = key("shop", &format!("slice-{index}"));
    slice.service = service.key.clone();
    for (port, number) in service.ports.iter().zip([8080, 8081].into_iter().cycle()) {
        let (name, protocol) = (port.name.clone(), port.protocol);
        if !slice.ports.iter().any(|known| known.name == name && known.protocol == protocol) {
            slice.ports.push(SlicePort { name, protocol, port: number });
        }
    }
    for endpoint in &mut slice.endpoints {
        endpoint.address = match last(endpoint.address) {
            n @ 7..=9 => ip(slice.family, 1, 1, n),
            n @ 10.. => ip(slice.family, 51, 0, n - 9),
            n => ip(slice.family, 1, 0, n),
        };
    }
    slice
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let protocol = prop_oneof![4 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)];
    (any::<bool>(), any::<u8>(), any::<u8>(), any::<u8>(), any::<u16>(), protocol).prop_map(
        |(ipv4, from, from_which, to, to_which, protocol)| Wish { ipv4, from, from_which, to, to_which, protocol },
    )
}

impl Wish {
    /// The packet that comes of the wish under this table.
    pub fn errand(self, mirror: &Mirror) -> Errand {
        let family = if self.ipv4 { Family::Ipv4 } else { Family::Ipv6 };
        let (to, protocol) = self.destination(mirror, family);
        let (place, from) = if to.ip().is_loopback() { (Place::Node, to.ip()) } else { self.source(family) };
        Errand { place, from, to, protocol }
    }

    fn source(self, family: Family) -> (Place, IpAddr) {
        let n = self.from_which;
        let outside = match family {
            Family::Ipv4 => IpAddr::from([203, 0, 113, 9]),
            Family::Ipv6 => "2001:db8::9".parse().expect("valid"),
        };
        match self.from % 10 {
            0..=2 => (Place::Pods, ip(family, 1, 0, 1 + n % 8)),
            3 => (Place::Uplink, ip(family, 1, 1, 7 + n % 4)),
            4 | 5 => {
                (Place::Node, [ip(family, 51, 0, 1), ip(family, 51, 0, 2), ip(family, 78, 0, 3)][usize::from(n % 3)])
            }
            6 => (Place::Uplink, ip(family, 51, 0, 9)),
            7 | 8 => (Place::Uplink, ip(family, 200 + n % 3, 0, 4 + n % 8)),
            _ => (Place::Uplink, outside),
        }
    }

    fn destination(self, mirror: &Mirror, family: Family) -> (SocketAddr, Protocol) {
        let which = usize::from(self.to_which);
        let mut frontends: Vec<FrontendKey> =
            mirror.frontends().filter(|(f, ..)| *f == family).map(|(_, _, frontend)| frontend.key).collect();
        frontends.sort_unstable();
        let node = [ip(family, 51, 0, 1), ip(family, 51, 0, 2), ip(family, 78, 0, 3)][which % 3];
        let loopback =
            if family == Family::Ipv4 { IpAddr::from([127, 0, 0, 1]) } else { "::1".parse().expect("valid") };
        let port = 80 + self.to_which % 3;
        let odd = match self.to {
            // Addresses that nobody or somebody else has.
            0..=15 => Some(SocketAddr::new(ip(family, 96, 0, 9), port)),
            16..=25 => Some(SocketAddr::new(ip(family, 51, 0, 9), 30_000 + self.to_which % 3)),
            26..=35 => Some(SocketAddr::new(loopback, 30_000 + self.to_which % 3)),
            36..=45 => Some(SocketAddr::new(node, 30_000 + self.to_which % 4)),
            46..=50 => Some(SocketAddr::new(ip(family, 1, 0, 200), 8080)),
            _ => None,
        };
        match (odd, frontends.get(which % frontends.len().max(1))) {
            (Some(address), _) => (address, self.protocol),
            (None, None) => (SocketAddr::new(ip(family, 96, 0, 1), port), self.protocol),
            (None, Some(key)) => {
                let (address, protocol) = match *key {
                    FrontendKey::Address { ip, protocol, port } => (SocketAddr::new(ip, port), protocol),
                    FrontendKey::NodePort { protocol, port } => (SocketAddr::new(node, port), protocol),
                };
                // Some ask the right address for the wrong thing.
                match self.to {
                    51..=75 => (SocketAddr::new(address.ip(), 4444), protocol),
                    76..=85 => (address, self.protocol),
                    _ => (address, protocol),
                }
            }
        }
    }
}
