//! Who may connect to a Service with allowed and denied ranges: real packets from many addresses, compared with what the
//! ranges say. Kernels have let clients in that were in no element of the set (docs/compatibility.md). Needs root.
//!
//! `PORTWAY_SEED` chooses other random ranges (default 1).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family, Protocol, Service, ServiceOptions, ServicePort, ServiceType};
use portway::nftables::{KernelOptions, NftKernel};
use portway::testing::{added, added_node, added_slice, all_listed, node, service, slice, slice_port};
use proptest::collection::vec;
use proptest::prelude::*;
use socket2::{Domain, Socket, Type};
use support::netns::{in_netns, ip_batch, set_sysctls};
use support::scenes::{number, sample};

const FIRST_NODE_PORT: u16 = 30_000;
const PORT: u16 = 443;

/// Emulated kernels take their time.
const MOST_TRIES: usize = 15_000;

/// Which clients may use a Service.
#[derive(Debug, Clone, Default)]
struct Ranges {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl Ranges {
    fn of(allowed: &[&str], denied: &[&str]) -> Self {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        Self { allowed: nets(allowed), denied: nets(denied) }
    }

    /// Whether a client may connect to the load balancer address, or else the NodePort. Nothing but the words of the ranges.
    fn admit(&self, client: IpAddr, balancer: bool) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&client));
        (!balancer || self.allowed.is_empty() || within(&self.allowed)) && !within(&self.denied)
    }
}

/// Hand-made shapes: each kind of edge.
fn shapes(family: Family) -> Vec<Ranges> {
    match family {
        Family::Ipv4 => vec![
            Ranges::of(&["192.0.2.0/24"], &[]),
            Ranges::of(&["192.0.3.0/24", "198.51.100.7/32"], &[]),
            Ranges::of(&["192.0.2.0/25", "192.0.2.128/25", "192.0.4.0/31"], &[]),
            Ranges::of(&["10.0.0.0/8", "11.0.0.0/8"], &["10.1.0.0/16", "10.2.3.4/32"]),
            Ranges::of(&["0.0.0.0/1"], &["0.0.0.0/2"]),
            Ranges::of(&[], &["192.0.2.0/24"]),
            Ranges::of(&[], &["192.0.2.9/32", "192.0.2.11/32"]),
            Ranges::of(&[], &["128.0.0.0/1"]),
            Ranges::of(&[], &["0.0.0.0/0"]),
        ],
        Family::Ipv6 => vec![
            Ranges::of(&["2001:db8:1::/48"], &[]),
            Ranges::of(&["2001:db8:2::/48", "2001:db8::7/128"], &[]),
            // The sixth byte alone tells these from others.
            Ranges::of(&["2001:db8:aa::/64", "2001:db8:ab::1/128"], &[]),
            Ranges::of(&["2001:db8::/33", "2001:db8:8000::/33", "2001:dba::/127"], &[]),
            Ranges::of(&["2001:db8::/32", "2001:db9::/32"], &["2001:db8:5::/48", "2001:db8:6::9/128"]),
            Ranges::of(&["::/1"], &["::/3"]),
            Ranges::of(&[], &["2001:db8::/32"]),
            Ranges::of(&[], &["2001:db8:7::/48", "2001:db8::1:0/112"]),
            Ranges::of(&[], &["2001:db8::9/128", "2001:db8::b/128"]),
            Ranges::of(&[], &["8000::/1"]),
            Ranges::of(&[], &["::/0"]),
        ],
    }
}

/// A network, often one near to others: bits of few bytes differ.
fn any_net(family: Family) -> impl Strategy<Value = IpNet> {
    let (bits, base) = match family {
        Family::Ipv4 => (32, u128::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)))),
        Family::Ipv6 => (128, u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0))),
    };
    let near = (0..bits / 8, any::<u8>()).prop_map(move |(at, byte)| base ^ u128::from(byte) << (8 * at));
    (prop_oneof![near, any::<u128>()], 1..=bits)
        .prop_map(move |(number, len)| IpNet::new(address(family, number), len as u8).expect("a length").trunc())
}

fn any_ranges(family: Family) -> impl Strategy<Value = Ranges> {
    (vec(any_net(family), 0..12), vec(any_net(family), 0..3)).prop_map(|(allowed, denied)| Ranges { allowed, denied })
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(number as u32).into(),
        Family::Ipv6 => Ipv6Addr::from(number).into(),
    }
}

fn value(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The first and last address of each range, their neighbours, what is like them but for one byte, and others.
fn clients(family: Family, services: &[Ranges]) -> Vec<IpAddr> {
    let bits = if family == Family::Ipv4 { 32 } else { 128 };
    let mut numbers: BTreeSet<u128> = sample(&vec(any::<u128>(), 30), number("PORTWAY_SEED", 1)).into_iter().collect();
    for net in services.iter().flat_map(|ranges| ranges.allowed.iter().chain(&ranges.denied)) {
        let (first, last) = (value(net.network()), value(net.broadcast()));
        numbers.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1), first.midpoint(last)]);
        numbers.extend((0..bits / 8).map(|at| first ^ 1 << (8 * at)));
    }
    let all: BTreeSet<IpAddr> = numbers.into_iter().map(|number| address(family, number)).collect();
    all.into_iter().filter(|ip| may_be_source(*ip)).collect()
}

/// Whether the kernel lets a socket send from it, and does not look upon it as anybody's or nobody's.
fn may_be_source(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.octets()[0] == 0 || ip.is_loopback() || ip.octets()[0] >= 224),
        IpAddr::V6(ip) => {
            let mapped = ip.octets()[..12].iter().all(|byte| *byte == 0) || ip.to_ipv4_mapped().is_some();
            !(mapped || ip.is_multicast() || ip.is_unicast_link_local())
        }
    }
}

/// Load balancer addresses that differ in one byte only.
fn balancer(family: Family, index: usize) -> IpAddr {
    let index = index as u8;
    match family {
        Family::Ipv4 => [203, 0, 113, index].into(),
        Family::Ipv6 => Ipv6Addr::from([0x20, 1, 0x0d, 0xb8, 0xff, index, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).into(),
    }
}

fn node_ip(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => [203, 0, 114, 1].into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1).into(),
    }
}

fn restricted(family: Family, index: usize, ranges: &Ranges) -> Service {
    let cluster_ip = match family {
        Family::Ipv4 => format!("10.96.0.{}", index + 1),
        Family::Ipv6 => format!("fd00:96::{:x}", index + 1),
    };
    let node_port = Some(FIRST_NODE_PORT + index as u16);
    Service {
        service_type: ServiceType::LoadBalancer,
        load_balancer_ips: vec![balancer(family, index)],
        source_ranges: ranges.allowed.clone(),
        annotated: Some(Box::new(ServiceOptions { denied_sources: ranges.denied.clone(), ..ServiceOptions::DEFAULT })),
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Udp, port: PORT, node_port }],
        ..service(&format!("service-{index}"), &cluster_ip)
    }
}

/// Services with an endpoint on this host's loopback interface.
fn events(family: Family, services: &[Ranges]) -> Vec<Event> {
    let endpoint = if family == Family::Ipv4 { "10.244.0.1" } else { "fd00:244::1" };
    let each = services.iter().enumerate().flat_map(|(index, ranges)| {
        let mut slice = slice(&format!("service-{index}"), "node", &[endpoint]);
        slice.ports = vec![portway::model::SlicePort { protocol: Protocol::Udp, ..slice_port("", 8080) }];
        [added(restricted(family, index, ranges)), added_slice(slice)]
    });
    let this = added_node(node("node", &[&node_ip(family).to_string()]));
    [this].into_iter().chain(each).chain(all_listed()).collect()
}

/// A host where all addresses that the test sends to are its own, so that each packet's fate is known when it was sent.
fn host(family: Family, services: usize) {
    set_sysctls(&[("net/ipv4/ip_nonlocal_bind", "1"), ("net/ipv6/ip_nonlocal_bind", "1")]).expect("sysctls");
    let endpoint = address_of_endpoint(family);
    let all = (0..services).map(|index| balancer(family, index)).chain([node_ip(family), endpoint]);
    let commands: String = all.map(|ip| format!("address add {ip} dev lo{}\n", nodad(ip))).collect();
    ip_batch(&commands).expect("addresses");
}

fn address_of_endpoint(family: Family) -> IpAddr {
    if family == Family::Ipv4 { [10, 244, 0, 1].into() } else { "fd00:244::1".parse().expect("an address") }
}

fn nodad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}

/// Whether a packet from an address leaves this host's output hook: of what is dropped there the sender is told.
fn is_let_in(client: SocketAddr, to: SocketAddr) -> bool {
    let domain = if client.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, None).expect("a socket");
    // A child of another test may hold a copy of an earlier one for a moment.
    socket.set_reuse_address(true).expect("an option");
    if client.is_ipv4() {
        // For IPv6 the sysctl is enough.
        socket.set_ip_transparent_v4(true).expect("root may");
    }
    socket.bind(&client.into()).unwrap_or_else(|error| panic!("from {client}: {error}"));
    match socket.send_to(b"?", &to.into()) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{client} to {to}: {error}"),
    }
}

/// Every client tries every Service, in an order that mixes load balancer addresses and NodePorts: what a lookup leaves behind
/// must not count for the next. Connections that were let in continue: each round needs another port.
fn try_all(family: Family, services: &[Ranges], from_port: u16) -> (usize, Vec<String>) {
    let clients = clients(family, services);
    let mut tries: Vec<(IpAddr, usize, bool)> = clients
        .iter()
        .flat_map(|client| (0..services.len()).flat_map(|index| [true, false].map(|to| (*client, index, to))))
        .collect();
    let order = sample(&vec(any::<u64>(), tries.len()), number("PORTWAY_SEED", 1));
    let mut order = order.into_iter();
    tries.sort_by_cached_key(|_| order.next());
    tries.truncate(MOST_TRIES);
    let mut wrong = Vec::new();
    for (client, index, balanced) in &tries {
        let to = if *balanced {
            SocketAddr::new(balancer(family, *index), PORT)
        } else {
            SocketAddr::new(node_ip(family), FIRST_NODE_PORT + *index as u16)
        };
        let (wanted, found) =
            (services[*index].admit(*client, *balanced), is_let_in(SocketAddr::new(*client, from_port), to));
        if wanted != found {
            let what = if found { "let in" } else { "not let in" };
            wrong.push(format!("{client} was {what} at {to}, with {:?}", services[*index]));
        }
    }
    (tries.len(), wrong)
}

fn each_client_is_judged_by_the_ranges(family: Family, services: &[Ranges]) {
    in_netns(|| {
        host(family, services.len());
        let kernel = NftKernel::open_with(KernelOptions { owned: false, modern: true }).expect("nf_tables");
        let options = Options { families: vec![family], ..Options::new("node") };
        let (mut controller, reports) = Controller::new(kernel, options);
        controller.handle(events(family, services), Instant::now());
        assert_eq!(reports.borrow().failures, 0, "the kernel took all elements");
        let (tries, wrong) = try_all(family, services, 20_000);
        assert!(wrong.is_empty(), "{} of {tries} tries:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));

        // Others are in force, and then none: nothing of the old ones counts.
        let others: Vec<Ranges> = services.iter().skip(1).chain(services.first()).cloned().collect();
        controller.handle(events(family, &others), Instant::now());
        assert_eq!(reports.borrow().failures, 0, "the kernel took all elements");
        let (tries, wrong) = try_all(family, &others, 20_001);
        assert!(wrong.is_empty(), "{} of {tries} tries:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    });
}

#[test]
fn hand_made_ranges_ipv4() {
    each_client_is_judged_by_the_ranges(Family::Ipv4, &shapes(Family::Ipv4));
}

#[test]
fn hand_made_ranges_ipv6() {
    each_client_is_judged_by_the_ranges(Family::Ipv6, &shapes(Family::Ipv6));
}

/// So many that the source's field has more than 256 rules in the kernel's tables, in both sets and families.
fn random(family: Family) {
    let services = sample(&vec(any_ranges(family), 24), number("PORTWAY_SEED", 1));
    each_client_is_judged_by_the_ranges(family, &services);
}

#[test]
fn random_ranges_ipv4() {
    random(Family::Ipv4);
}

#[test]
fn random_ranges_ipv6() {
    random(Family::Ipv6);
}
