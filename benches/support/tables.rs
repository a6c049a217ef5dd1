//! The tables whose packets are timed (`datapath.rs`), each loaded into the network namespace of the caller.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{EndpointSlice, Event, Family, Protocol};
use portway::nftables::{DirectKernel, KernelOptions, NftKernel};
use portway::ruleset::{Bytes, DirectFound, DirectFrontend, DirectTable, Hop, SlotHash};

use super::peer::{self, Version};
use super::stats::grouped;
use crate::cluster;

/// Endpoints of a Service that has several.
pub const ENDPOINTS: usize = 10;

/// What stands between client and pods.
#[derive(Clone, Copy, PartialEq)]
pub enum Table {
    /// Nothing; pods are asked directly.
    None,
    /// One `dnat` rule.
    OneRule,
    /// Ours, for so many Services.
    Portway(usize),
    /// Ours, for so many Services with one endpoint each.
    PortwaySingle(usize),
    /// The same, with endpoints chosen by the client's address.
    Hashing(usize),
    /// Ours, while an endpoint is gone whose connections are reset.
    Resets(usize),
    /// Ours, and direct return of another Service on the same interfaces.
    BesideDirect(usize),
    /// Packets to so many Services are handed on to another node.
    Direct(usize),
    /// Of kube-proxy's shape, which is the same in all versions.
    Peer(usize),
    /// Of a version's shape, for so many Services with one endpoint each.
    PeerSingle(Version, usize),
}

impl Table {
    /// As results have it.
    pub fn name(self) -> String {
        match self {
            Self::None => "no table, straight to the pod".to_owned(),
            Self::OneRule => "one dnat rule".to_owned(),
            Self::Portway(services) => format!("Portway, {} Services", grouped(services)),
            Self::PortwaySingle(services) => format!("Portway, {} Services of one endpoint", grouped(services)),
            Self::Hashing(services) => format!("Portway, {} Services by source-ip", grouped(services)),
            Self::Resets(services) => format!("Portway, {} Services, an endpoint is gone", grouped(services)),
            Self::BesideDirect(services) => format!("Portway, {} Services, direct return of others", grouped(services)),
            Self::Direct(services) => format!("direct return, {} Services", grouped(services)),
            Self::Peer(services) => format!("kube-proxy's shape, {} Services", grouped(services)),
            Self::PeerSingle(version, services) => {
                format!("kube-proxy {}'s shape, {} Services of one endpoint", version.name(), grouped(services))
            }
        }
    }

    /// Loads it.
    pub fn load(self, protocol: Protocol) {
        let ours = |services, change: fn(Event) -> Event| drop(portway(services, ENDPOINTS, protocol, change));
        match self {
            Self::None => {}
            Self::OneRule => drop(peer::load(&one_rule(protocol))),
            Self::Portway(services) => ours(services, |event| event),
            Self::PortwaySingle(services) => drop(portway(services, 1, protocol, |event| event)),
            Self::Hashing(services) => ours(services, cluster::hashing),
            Self::Resets(services) => with_one_gone(services, protocol),
            Self::BesideDirect(services) => {
                ours(services, |event| event);
                hand_on([Ipv4Addr::new(203, 0, 113, 1).into()], protocol);
            }
            Self::Direct(services) => hand_on((0..services).map(|n| cluster::service(n).cluster_ips[0]), protocol),
            Self::Peer(services) => drop(peer::load(&peer::table(Version::V1_36, services, ENDPOINTS, protocol))),
            Self::PeerSingle(version, services) => drop(peer::load(&peer::table(version, services, 1, protocol))),
        }
    }

    /// Where a flow with this random number goes.
    pub fn target(self, random: usize) -> (Ipv4Addr, u16) {
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("{address} is not IPv4"),
        };
        match self {
            // Not the first endpoint: all Services share that one.
            Self::None => (v4(cluster::slice(random % 10_000, ENDPOINTS, 0).endpoints[1].address), 8080),
            Self::OneRule => (v4(cluster::service(0).cluster_ips[0]), 80),
            Self::Portway(services)
            | Self::PortwaySingle(services)
            | Self::Hashing(services)
            | Self::Resets(services)
            | Self::BesideDirect(services)
            | Self::Direct(services)
            | Self::Peer(services)
            | Self::PeerSingle(_, services) => (v4(cluster::service(random % services).cluster_ips[0]), 80),
        }
    }
}

fn portway(services: usize, endpoints: usize, protocol: Protocol, change: fn(Event) -> Event) -> Controller<NftKernel> {
    let kernel = NftKernel::open().expect("nf_tables");
    let options = Options { reset_for: Duration::from_secs(3600), ..cluster::options() };
    let (mut controller, reports) = Controller::new(kernel, options);
    let events = cluster::events(services, endpoints).into_iter().map(|event| change(cluster::over(event, protocol)));
    controller.handle(events, Instant::now());
    assert_eq!((reports.borrow().syncs, reports.borrow().failures), (1, 0));
    controller
}

/// An endpoint has left the first Service. Nothing that is measured goes there.
fn with_one_gone(services: usize, protocol: Protocol) {
    let mut controller = portway(services, ENDPOINTS, protocol, |event| event);
    let slice = |pods: &[&str]| {
        let slice = EndpointSlice { service: cluster::service(0).key, ..portway::testing::slice("gone", "", pods) };
        EndpointSlice { ports: vec![portway::testing::slice_port("http", 8080)], ..slice }
    };
    for pods in [&["11.120.0.1"][..], &[]] {
        controller.handle([portway::testing::added_slice(slice(pods))], Instant::now());
    }
    assert!(listing().contains("chain reset-arriving"), "the chains are there");
}

/// Our table as `nft` lists it.
pub fn listing() -> String {
    let table = Command::new("nft").args(["list", "table", "ip", "portway"]).output().expect("nft");
    String::from_utf8(table.stdout).expect("text")
}

/// The table of direct return for these addresses, with the pods' end of the lane as the other node.
fn hand_on(addresses: impl IntoIterator<Item = IpAddr>, protocol: Protocol) {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("an interface");
    let mut table = DirectTable::default();
    table.devices.extend(["near", "far"].map(|name| (index(name), name.into())));
    let hop = Hop { device: index("far"), address: Ipv4Addr::new(11, 254, 0, 2).into() };
    let frontend = DirectFrontend {
        hash: SlotHash { modulus: 1024, ports: true },
        label: "bench/direct".into(),
        slots: vec![Some(hop); 1024].into(),
    };
    for address in addresses {
        let key = Bytes::new().ip(address).u8(protocol.number()).u16(80);
        table.frontends.insert((Family::Ipv4, key), frontend.clone());
    }
    let mut kernel = DirectKernel::open(KernelOptions::default()).expect("nf_tables");
    kernel.make(&DirectFound::default(), &table).expect("the table is made");
}

/// A table with one rule, for the first Service.
pub fn one_rule(protocol: Protocol) -> String {
    let (vip, pod) = (cluster::service(0).cluster_ips[0], cluster::slice(0, ENDPOINTS, 0).endpoints[1].address);
    let protocol = peer::name(protocol);
    format!(
        "add table ip one\nadd chain ip one prerouting {{ type nat hook prerouting priority -100 ; }}\n\
         add rule ip one prerouting ip daddr {vip} {protocol} dport 80 dnat to {pod}:8080\n"
    )
}
