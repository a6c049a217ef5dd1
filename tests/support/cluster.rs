//! Generated clusters: few names, addresses and ports, so that everything collides with everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portway::config::{DetectLocal, NodePortsOn, Options};
use portway::model::{
    Balance, Endpoint, EndpointSlice, EndpointWeights, Event, Family, Kind, LabelSelector, Node, ObjectKey, Placement,
    Protocol, Service, ServiceCidr, ServiceOptions, ServicePort, ServiceType, SlicePort,
};
use portway::plan::Sizing;
use portway::testing;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub const NODE: &str = "node-a";

pub fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

fn ip(family: Family, range: u8, n: u8) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::from([10, range, 0, n]),
        Family::Ipv6 => IpAddr::from([0xfd00, u16::from(range), 0, 0, 0, 0, 0, u16::from(n)]),
    }
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn any_port_name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just(Arc::from("web")), Just(Arc::from("dns")), Just(Arc::from(""))]
}

fn service_key() -> impl Strategy<Value = ObjectKey> {
    (0_u8..4).prop_map(|n| key("shop", &format!("svc-{n}")))
}

fn slice_key() -> impl Strategy<Value = ObjectKey> {
    (0_u8..7).prop_map(|n| key("shop", &format!("slice-{n}")))
}

fn addresses(range: u8, of: std::ops::Range<u8>) -> impl Strategy<Value = IpAddr> {
    (any_family(), of).prop_map(move |(family, n)| ip(family, range, n))
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_family(), prop_oneof![Just(0_u8), Just(8), Just(24), Just(30)], 0_u8..3).prop_map(|(family, len, range)| {
        let len = if family == Family::Ipv6 { len * 4 } else { len };
        IpNet::new(ip(family, 200 + range, 7), len).expect("valid length").trunc()
    })
}

fn any_service_port() -> impl Strategy<Value = ServicePort> {
    (any_port_name(), any_protocol(), 80_u16..83, option::of(30_000_u16..30_003))
        .prop_map(|(name, protocol, port, node_port)| ServicePort { name, protocol, port, node_port })
}

pub fn any_service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        3 => Just(ServiceType::ClusterIp),
        2 => Just(ServiceType::NodePort),
        3 => Just(ServiceType::LoadBalancer),
        1 => Just(ServiceType::ExternalName)
    ];
    let affinity = option::of(prop_oneof![Just(60_u32), Just(10_800)]);
    let policies = (any::<bool>(), any::<bool>(), affinity, option::of(any_choices()));
    let cluster_ips = (option::of(1_u8..6), option::of(1_u8..6)).prop_map(|(v4, v6)| {
        let v4 = v4.map(|n| ip(Family::Ipv4, 96, n));
        let v6 = v6.map(|n| ip(Family::Ipv6, 96, n));
        v4.into_iter().chain(v6).collect::<Vec<_>>()
    });
    let external = (vec(addresses(77, 1..4), 0..3), vec(addresses(78, 1..4), 0..3), vec(any_net(), 0..3));
    (service_key(), option::of(0_i64..3), kind, cluster_ips, external, policies, vec(any_service_port(), 1..4))
        .prop_map(|(key, created, service_type, cluster_ips, external, policies, ports)| {
            let (external_local, internal_local, affinity, choices) = policies;
            Service {
                key,
                created,
                service_type,
                cluster_ips,
                external_ips: external.0,
                load_balancer_ips: external.1,
                source_ranges: external.2,
                external_policy_local: external_local,
                internal_policy_local: internal_local,
                affinity_seconds: affinity,
                ports,
                annotated: choices.map(Box::new),
                ..testing::service("", "10.96.0.1")
            }
        })
}

fn any_balance() -> impl Strategy<Value = Balance> {
    // Each hashed frontend has 1,024 slots, so there are few of them. With affinity the port does not count.
    prop_oneof![3 => Just(Balance::Random), 1 => Just(Balance::SourceIp), 3 => Just(Balance::SourceIpPort)]
}

/// Few endpoints have another weight than others, so that most Services are as without.
fn any_weights(family: Family) -> impl Strategy<Value = Option<Box<EndpointWeights>>> {
    let weights = vec((prop_oneof![1_u8..12, Just(7)], 1_u8..4), 1..4);
    option::weighted(0.15, weights).prop_map(move |weights| {
        let of = weights?.into_iter().map(|(n, weight)| (ip(family, 1, n), weight)).collect();
        Some(EndpointWeights { of, ..EndpointWeights::default() }.into())
    })
}

/// Annotations.
fn any_choices() -> impl Strategy<Value = ServiceOptions> {
    let selector = prop_oneof![Just("role=edge"), Just("role!=edge"), Just("!role")];
    let selector = selector.prop_map(|text| LabelSelector::parse(text).expect("valid"));
    let denied = prop_oneof![2 => Just(Vec::new()), 1 => vec(any_net(), 1..3)];
    let prefers = (proptest::bool::weighted(0.3), proptest::bool::weighted(0.3));
    (any_balance(), prefers, denied, option::weighted(0.15, selector)).prop_map(
        |(balance, (external_prefer_local, internal_prefer_local), denied_sources, expose_on)| ServiceOptions {
            balance,
            external_prefer_local,
            internal_prefer_local,
            denied_sources,
            expose_on,
            ..ServiceOptions::DEFAULT
        },
    )
}

/// What the selectors of Services ask for.
pub fn any_labels() -> impl Strategy<Value = Arc<BTreeMap<Arc<str>, Arc<str>>>> {
    option::of(prop_oneof![Just("edge"), Just("core")])
        .prop_map(|role| role.into_iter().map(|role| ("role".into(), role.into())).collect::<BTreeMap<_, _>>().into())
}

fn hints() -> impl Strategy<Value = Vec<Arc<str>>> {
    prop_oneof![
        3 => Just(Vec::<Arc<str>>::new()),
        1 => Just(vec![Arc::from(NODE), Arc::from("zone-a")]),
        1 => Just(vec![Arc::from("elsewhere")])
    ]
}

fn any_endpoint(family: Family) -> impl Strategy<Value = Endpoint> {
    let node = option::of(prop_oneof![Just(Arc::from(NODE)), Just(Arc::from("node-b"))]);
    (1_u8..12, node, prop::bool::weighted(0.7), prop::bool::weighted(0.8), prop::bool::weighted(0.2), hints(), hints())
        .prop_map(move |(n, node, ready, serving, terminating, zone_hints, node_hints)| Endpoint {
            address: ip(family, 1, n),
            ready,
            serving,
            terminating,
            placement: Arc::new(Placement { node, zone_hints, node_hints }),
        })
}

pub fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (any_port_name(), any_protocol(), prop_oneof![Just(8080_u16), Just(8081)])
        .prop_map(|(name, protocol, port)| SlicePort { name, protocol, port })
        .boxed();
    (slice_key(), service_key(), any_family()).prop_flat_map(move |(key, service, family)| {
        let parts = (vec(port.clone(), 1..4), vec(any_endpoint(family), 0..8), any_weights(family));
        parts.prop_map(move |(ports, endpoints, weights)| EndpointSlice {
            key: key.clone(),
            service: service.clone(),
            family,
            ports,
            endpoints,
            weights,
            changed_at: None,
        })
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let zone = prop_oneof![Just("zone-a"), Just("zone-b"), Just("")];
    (vec(addresses(51, 1..3), 1..3), zone, any_labels()).prop_map(|(ips, zone, labels)| Node {
        name: NODE.into(),
        ips,
        zone: zone.into(),
        labels,
        ..Node::default()
    })
}

pub fn any_service_cidr() -> impl Strategy<Value = ServiceCidr> {
    let range = prop_oneof![Just("10.96.0.0/16"), Just("10.96.0.0/24"), Just("fd00:60::/112"), Just("10.0.0.0/9")];
    ((0_u8..2), vec(range, 1..3)).prop_map(|(n, cidrs)| ServiceCidr {
        name: format!("cidr-{n}").into(),
        cidrs: cidrs.into_iter().map(|net| net.parse().expect("valid")).collect(),
    })
}

/// A change of one object.
pub fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any_service().prop_map(|service| Event::Service(Arc::new(service))),
        2 => service_key().prop_map(Event::ServiceDeleted),
        8 => any_slice().prop_map(|slice| Event::Slice(Arc::new(slice))),
        3 => slice_key().prop_map(Event::SliceDeleted),
        1 => any_node().prop_map(|node| Event::Node(Box::new(node))),
        1 => any_service_cidr().prop_map(Event::ServiceCidr),
        1 => (0_u8..2).prop_map(|n| Event::ServiceCidrDeleted(format!("cidr-{n}").into())),
        1 => proptest::collection::btree_set(addresses(51, 1..5), 0..4)
            .prop_map(|set: BTreeSet<IpAddr>| Event::LocalAddresses(set)),
    ]
}

/// Batches of changes, one sync each.
pub fn any_history() -> impl Strategy<Value = Vec<Vec<Event>>> {
    vec(vec(any_event(), 1..5), 1..12)
}

pub fn any_options() -> impl Strategy<Value = Options> {
    let detect = prop_oneof![
        Just(DetectLocal::ClusterCidr(Vec::new())),
        Just(DetectLocal::ClusterCidr(vec![
            "10.1.0.0/16".parse().expect("valid"),
            "fd00:1::/64".parse().expect("valid")
        ])),
        Just(DetectLocal::BridgeInterface("cbr0".into())),
        Just(DetectLocal::InterfaceNamePrefix("cali".into())),
    ];
    let node_ports = prop_oneof![
        Just(NodePortsOn::primary()),
        Just(NodePortsOn::ranges(vec!["10.51.0.0/16".parse().expect("valid")])),
        Just(NodePortsOn::ranges(vec!["0.0.0.0/0".parse().expect("valid")])),
    ];
    // Small enough that maps get a size, and grow.
    let sizing = (1_u32..8).prop_map(|floor| Sizing { floor, ..Sizing::default() });
    let direct = prop_oneof![Just(Vec::new()), Just(vec!["eth0".into()])];
    (detect, node_ports, any::<bool>(), any::<bool>(), sizing, direct).prop_map(
        |(detect_local, node_ports, masquerade_all, answer_pings, sizing, direct_return_devices)| Options {
            detect_local,
            node_ports,
            masquerade_all,
            answer_pings,
            sizing,
            direct_return_devices,
            ..Options::new(NODE)
        },
    )
}

/// Everything listed, nothing there.
pub fn empty_lists() -> Vec<Event> {
    [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr]
        .into_iter()
        .flat_map(|kind| [Event::ListStarted(kind), Event::ListDone(kind)])
        .collect()
}
