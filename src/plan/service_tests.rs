//! Frontends of a Service (specification 5), and what they do.

use super::*;
use std::collections::BTreeMap;

use crate::model::{Balance, LabelSelector, ObjectKey, Protocol, ServiceOptions};
use crate::plan::{FamilySettings, NodePortAddresses, PodDetection, Sizing};
use crate::ruleset::{COMMENT_MAX, ChainId, EndpointMap, Pick, PickBy, SetId, Value, Verdict};
use crate::testing::{self, endpoint, ip, service_port, slice_port};

fn settings() -> Settings {
    let family = |ip: &str| {
        Some(FamilySettings {
            pods: PodDetection::None,
            node_ports: NodePortAddresses::AllLocal,
            node_ip: ip.parse().ok(),
            pings_to: None,
            localhost: None,
            cuts_flows: false,
        })
    };
    Settings {
        node_name: "n1".into(),
        zone: "".into(),
        node_labels: Arc::default(),
        masquerade_all: false,
        external_ips: true,
        direct_return: false,
        service_cidrs: Vec::new(),
        sizing: Sizing::default(),
        hashing: true,
        listeners: Vec::new(),
        ipv4: family("192.0.2.1"),
        ipv6: family("2001:db8::1"),
    }
}

fn service() -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")],
        external_ips: vec![ip("10.77.0.1")],
        load_balancer_ips: vec![ip("198.51.100.1")],
        ports: vec![ServicePort { node_port: Some(30_080), ..service_port("web", 80) }],
        ..testing::service("svc", "10.96.0.1")
    }
}

fn slice(nodes: &[&str]) -> Arc<EndpointSlice> {
    let endpoint = |(index, node): (usize, &&str)| endpoint([10, 1, 0, index as u8 + 1].into(), node);
    Arc::new(EndpointSlice {
        ports: vec![slice_port("web", 8080)],
        endpoints: nodes.iter().enumerate().map(endpoint).collect(),
        ..testing::slice("svc", "", &[])
    })
}

fn plan(service: &Service, nodes: &[&str]) -> ServicePlan {
    let slices = [slice(nodes)];
    compile(service, || slices.iter(), Family::Ipv4, &settings())
}

/// `class:action` of each frontend, in order.
fn actions(plan: &ServicePlan) -> Vec<String> {
    let action = |frontend: &Frontend| match &frontend.action {
        Action::Refuse => "refuse".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Balance(_, targets) => format!("{}", targets.len()),
        Action::ExternalLocal { cluster, local } => format!("{}/{}", cluster.len(), local.len()),
        Action::Relay(targets) => format!("relay {}", targets.len()),
    };
    plan.frontends.iter().map(|f| format!("{:?}:{}", f.class, action(f))).collect()
}

#[test]
fn all_kinds_of_frontend() {
    let plan = plan(&service(), &["n1", "n2"]);
    assert_eq!(actions(&plan), ["ClusterIp:2", "LoadBalancer:2", "ExternalIp:2", "NodePort:2"]);
    assert_eq!(plan.hairpins, [ip("10.1.0.1")], "only endpoints of this node");
    assert_eq!(&*plan.frontends[0].label, "ns/svc:web");
}

/// Pods' connections to all others pass postrouting untouched.
#[test]
fn endpoints_with_something_due_after_translation() {
    let due = |service: &Service| -> Vec<String> {
        plan(service, &["n1", "n2"]).after_dnat_endpoints().iter().map(IpAddr::to_string).collect()
    };
    assert_eq!(due(&service()), ["10.1.0.1", "10.1.0.2"], "external frontends masquerade");
    let internal = Service {
        service_type: ServiceType::ClusterIp,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![service_port("web", 80)],
        ..service()
    };
    assert_eq!(due(&internal), ["10.1.0.1"], "only the one on this node, which may be the client");
    let sticky = Service { affinity_seconds: Some(10), ..internal };
    assert_eq!(due(&sticky), ["10.1.0.1", "10.1.0.2"], "clients are remembered");
}

#[test]
fn no_endpoints_refuse_everywhere() {
    let refused = ["ClusterIp:refuse", "LoadBalancer:refuse", "ExternalIp:refuse", "NodePort:refuse"];
    assert_eq!(actions(&plan(&service(), &[])), refused);
    let local = Service { external_policy_local: true, internal_policy_local: true, ..service() };
    assert_eq!(actions(&plan(&local, &[])), refused);
}

#[test]
fn policies_local() {
    let local = Service { external_policy_local: true, internal_policy_local: true, ..service() };
    assert_eq!(
        actions(&plan(&local, &["n1", "n2"])),
        ["ClusterIp:1", "LoadBalancer:2/1", "ExternalIp:2/1", "NodePort:2/1"]
    );
    assert_eq!(
        actions(&plan(&local, &["n2"])),
        ["ClusterIp:drop", "LoadBalancer:1/0", "ExternalIp:1/0", "NodePort:1/0"]
    );
}

/// Where nodePortAddresses names localhost: one element more for each NodePort, and no rule.
#[test]
fn node_ports_on_localhost_are_left_to_the_relay() {
    let mut settings = settings();
    let ip = ip("127.0.0.1");
    settings.ipv4.as_mut().expect("served").localhost = Some(ip);
    let relayed = |service: &Service, nodes: &[&str]| {
        let slices = [slice(nodes)];
        let plan = compile(service, || slices.iter(), Family::Ipv4, &settings);
        let frontend = plan.frontends.last().expect("frontends").clone();
        let protocol = service.ports[0].protocol;
        assert_eq!(frontend.key, FrontendKey::Address { ip, protocol, port: 30_080 });
        let members = frontend.members();
        assert!(matches!(&members[..], [member] if member.element.value == Value::Verdict(Verdict::Return)));
        assert_eq!((members[0].set, frontend.after_dnat()), (SetId::Services, None));
        actions(&plan).pop().expect("frontends")
    };
    assert_eq!(relayed(&service(), &["n1", "n2"]), "NodePort:relay 2");
    assert_eq!(relayed(&service(), &[]), "NodePort:relay 0");
    let local = Service { external_policy_local: true, affinity_seconds: Some(60), ..service() };
    assert_eq!(relayed(&local, &["n1", "n2"]), "NodePort:relay 1");
    assert_eq!(relayed(&local, &["n2"]), "NodePort:relay 0");
    let port = ServicePort { protocol: Protocol::Sctp, ..service().ports[0].clone() };
    assert_eq!(relayed(&Service { ports: vec![port], ..service() }, &["n1"]), "NodePort:relay 0");
}

#[test]
fn external_policy_means_nothing_for_a_plain_cluster_ip() {
    let mut plain = Service { external_policy_local: true, service_type: ServiceType::ClusterIp, ..service() };
    (plain.external_ips, plain.load_balancer_ips, plain.ports[0].node_port) = (Vec::new(), Vec::new(), None);
    assert_eq!(actions(&plan(&plain, &["n2"])), ["ClusterIp:1"]);
}

#[test]
fn ignored_services() {
    assert!(plan(&Service { service_type: ServiceType::ExternalName, ..service() }, &["n1"]).is_empty());
    assert!(plan(&Service { cluster_ips: vec![ip("fd00::1")], ..service() }, &["n1"]).is_empty());
}

#[test]
fn source_ranges_concern_load_balancer_addresses_only() {
    let ranges = |texts: &[&str]| {
        let source_ranges = texts.iter().map(|t| t.parse().expect("a range")).collect();
        let plan = plan(&Service { source_ranges, ..service() }, &["n1"]);
        let restricted: Vec<_> = plan.frontends.iter().filter(|f| f.sources.is_some()).map(|f| f.class).collect();
        assert!(restricted.iter().all(|class| *class == Class::LoadBalancer));
        let sources = plan.frontends.into_iter().find_map(|f| f.sources);
        sources.map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(ranges(&[]), None);
    assert_eq!(ranges(&["fd00::/8"]), None, "other family only");
    assert_eq!(ranges(&["10.0.0.0/8", "0.0.0.0/0"]), None, "everybody");
    assert_eq!(ranges(&["10.0.0.0/8", "10.1.0.0/16"]), Some(vec!["10.0.0.0/8".into()]), "overlaps are merged");
    let with_vip = Some(vec!["192.0.2.0/24".to_owned(), "198.51.100.1/32".into()]);
    assert_eq!(ranges(&["192.0.2.0/24"]), with_vip, "the node may: its load balancer address may too");
}

#[test]
fn labels_are_safe_in_a_listing() {
    let mut odd = service();
    odd.key = ObjectKey::new("n\"s", "a\n\u{e9}".to_owned() + &"x".repeat(200));
    let label = plan(&odd, &[]).frontends[0].label.clone();
    assert!(label.starts_with("n?s/a??xxx") && label.len() == COMMENT_MAX, "{label}");
    let long = Service { key: ObjectKey::new("n".repeat(63), "s".repeat(63)), ..service() };
    let port = |name: &str| ServicePort { name: name.into(), ..service().ports[0].clone() };
    let [http, https] = ["http", "https"].map(|name| super::label(&long, &port(name)));
    assert!(http.len() == COMMENT_MAX && http != https, "{http} {https}");
}

/// The value of each element in the maps of affinity IDs, by map, for a Service whose ports are numbered 5.
fn affinity_ids(service: &Service, nodes: &[&str]) -> Vec<(SetId, u32)> {
    let mut plan = plan(service, nodes);
    plan.frontends.iter_mut().filter_map(|f| f.affinity.as_mut()).for_each(|affinity| affinity.number = 5);
    let members = plan.frontends.iter().flat_map(Frontend::members);
    let mut ids: Vec<_> = members
        .filter_map(|member| match member.element.value {
            Value::Data(id) => Some((member.set, id.u32_host_at(0)? - 0x1_0000)),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn the_policy_decides_whose_records_count() {
    use SetId::{AffinityIds, LocalAffinityIds, LocalNodeportAffinityIds, NodeportAffinityIds};
    let (all, local) = (10, 11);
    let mut sticky = Service { affinity_seconds: Some(60), ..service() };
    let everywhere = [(AffinityIds, all), (AffinityIds, all), (AffinityIds, all), (NodeportAffinityIds, all)];
    assert_eq!(affinity_ids(&sticky, &["n1"]), everywhere, "although all endpoints are local");
    sticky.internal_policy_local = true;
    let inside = [(AffinityIds, all), (AffinityIds, all), (AffinityIds, local), (NodeportAffinityIds, all)];
    assert_eq!(affinity_ids(&sticky, &["n1"]), inside);
    assert_eq!(
        affinity_ids(&sticky, &["n2"]),
        [inside[0], inside[1], inside[3]],
        "nothing to remember where all is dropped"
    );
    (sticky.internal_policy_local, sticky.external_policy_local) = (false, true);
    let outside = [(LocalAffinityIds, local), (LocalAffinityIds, local)];
    let short_circuit = [&everywhere[..3], &outside[..], &everywhere[3..]].concat();
    assert_eq!(affinity_ids(&sticky, &["n2"]), everywhere);
    assert_eq!(
        affinity_ids(&sticky, &["n1", "n2"]),
        [&short_circuit[..], &[(LocalNodeportAffinityIds, local)]].concat()
    );
    assert_eq!(affinity_ids(&Service { affinity_seconds: None, ..sticky }, &["n1", "n2"]), []);
}

#[test]
fn a_source_range_that_cannot_be_read_never_opens() {
    let net = |text: &str| -> ipnet::IpNet { text.parse().expect("a range") };
    let sources = |ranges: &[&str], bad| {
        let source_ranges = ranges.iter().map(|text| net(text)).collect();
        let service = Service { source_ranges, bad_source_ranges: bad, ..service() };
        let plan = plan(&service, &["n1"]);
        plan.frontends.iter().find(|f| f.class == Class::LoadBalancer).expect("a load balancer").sources.clone()
    };
    assert_eq!(sources(&[], false), None);
    assert_eq!(sources(&[], true), Some(vec![]), "nobody");
    assert_eq!(sources(&["2001:db8::/32"], false), None, "as kube-proxy");
    assert_eq!(sources(&["2001:db8::/32"], true), Some(vec![]), "it may have been of this family");
    assert_eq!(sources(&["198.51.100.0/24"], true), Some(vec![net("198.51.100.0/24").into()]));
    assert_eq!(sources(&["0.0.0.0/0"], true), None, "everybody is asked for");
}

/// Only where all nodes choose the same endpoint, and that node answers at the address.
#[test]
fn direct_return_where_all_nodes_choose_alike() {
    let hashed = |options: ServiceOptions| Service { annotated: Some(Box::new(options)), ..service() };
    let by = |balance| hashed(ServiceOptions { balance, ..ServiceOptions::DEFAULT });
    let direct = |service: &Service, slices: &[Arc<EndpointSlice>], direct_return| -> Vec<Class> {
        let settings = Settings { direct_return, ..settings() };
        let plan = compile(service, || slices.iter(), Family::Ipv4, &settings);
        plan.frontends.iter().filter(|frontend| frontend.direct).map(|frontend| frontend.class).collect()
    };
    let slices = [slice(&["n1", "n2"])];
    let external = [Class::LoadBalancer, Class::ExternalIp];
    for balance in [Balance::SourceIp, Balance::SourceIpPort] {
        assert_eq!(direct(&by(balance), &slices, true), external, "not at ClusterIPs and NodePorts");
        assert_eq!(direct(&by(balance), &slices, false), [], "off");
    }
    assert_eq!(direct(&by(Balance::Random), &slices, true), []);
    assert_eq!(direct(&service(), &slices, true), []);
    let sticky = Service { affinity_seconds: Some(60), ..by(Balance::SourceIpPort) };
    assert_eq!(direct(&sticky, &slices, true), external, "a hash needs no records");
    let local = Service { external_policy_local: true, ..by(Balance::SourceIp) };
    assert_eq!(direct(&local, &slices, true), [], "each node its own endpoints");
    let options = ServiceOptions { balance: Balance::SourceIp, ..ServiceOptions::DEFAULT };
    let near = ServiceOptions { external_prefer_local: true, ..options.clone() };
    assert_eq!(direct(&hashed(near.clone()), &slices, true), []);
    assert_eq!(direct(&hashed(near), &[slice(&["n2", "n3"])], true), [], "other nodes take their own");
    let somewhere = ServiceOptions { expose_on: LabelSelector::parse("edge=yes").ok(), ..options };
    assert_eq!(direct(&hashed(somewhere), &slices, true), [], "the endpoint's node may not answer there");
    assert_eq!(direct(&by(Balance::SourceIp), &[slice(&["n2"])], true), external, "one is all there is to choose");
    assert_eq!(direct(&by(Balance::SourceIp), &[], true), [], "nothing to hand on");
    let mut hinted = EndpointSlice::clone(&slices[0]);
    for endpoint in &mut hinted.endpoints {
        Arc::make_mut(&mut endpoint.placement).node_hints = vec!["n1".into()];
    }
    assert_eq!(direct(&by(Balance::SourceIp), &[hinted.into()], true), [], "other nodes have other endpoints");
}

#[test]
fn connections_that_may_be_handed_on_are_masqueraded_only_to_other_nodes() {
    let options = ServiceOptions { balance: Balance::SourceIp, ..ServiceOptions::DEFAULT };
    let service = Service { annotated: Some(Box::new(options)), ..service() };
    let slices = [slice(&["n1", "n2"])];
    let settings = Settings { direct_return: true, ..settings() };
    let plan = compile(&service, || slices.iter(), Family::Ipv4, &settings);
    let due = |class| plan.frontends.iter().find(|frontend| frontend.class == class).and_then(Frontend::after_dnat);
    assert_eq!(due(Class::LoadBalancer), Some(Verdict::Goto(ChainId::MasqueradeRemote)));
    assert_eq!(due(Class::NodePort), Some(Verdict::Goto(ChainId::MasqueradeIt)));
}

#[test]
fn a_hash_of_the_address_needs_no_memory() {
    let hashing = |balance, seconds, hashing| {
        let options = ServiceOptions { balance, ..ServiceOptions::DEFAULT };
        let service = Service { annotated: Some(options.into()), affinity_seconds: seconds, ..service() };
        let slices = [slice(&["n1", "n2"])];
        let plan = compile(&service, || slices.iter(), Family::Ipv4, &Settings { hashing, ..settings() });
        let frontend = plan.frontends.first().expect("a ClusterIP").clone();
        let verdict = frontend.members().remove(0).element.value;
        (verdict, frontend.affinity.is_some())
    };
    let pick = |by, count| Value::Verdict(Verdict::Goto(ChainId::Pick(Pick { map: EndpointMap::Address, by, count })));
    assert_eq!(hashing(Balance::SourceIp, None, true), (pick(PickBy::SourceIp, 1024), false));
    assert_eq!(hashing(Balance::SourceIp, Some(60), true), (pick(PickBy::SourceIp, 1024), false));
    assert_eq!(hashing(Balance::SourceIpPort, None, true), (pick(PickBy::SourceIpPort, 1024), false));
    assert_eq!(hashing(Balance::SourceIpPort, Some(60), true), (pick(PickBy::SourceIp, 1024), false), "affinity wins");
    assert_eq!(hashing(Balance::Random, Some(60), true), (pick(PickBy::Sticky, 2), true));
    // In a kernel that cannot, affinity is as without the annotation.
    assert_eq!(hashing(Balance::SourceIp, Some(60), false), (pick(PickBy::Sticky, 2), true));
    assert_eq!(hashing(Balance::SourceIpPort, None, false), (pick(PickBy::Random, 2), false));
}

#[test]
fn the_relay_hashes_its_one_client_too() {
    let mut settings = settings();
    let client = ip("127.0.0.1");
    settings.ipv4.as_mut().expect("served").localhost = Some(client);
    let relayed = |balance| {
        let options = ServiceOptions { balance, ..ServiceOptions::DEFAULT };
        let service = Service { annotated: Some(options.into()), ..service() };
        let slices = [slice(&["n1", "n2"])];
        let plan = compile(&service, || slices.iter(), Family::Ipv4, &settings);
        let frontend = plan.frontends.last().expect("frontends").clone();
        let Action::Relay(targets) = &frontend.action else { panic!("{frontend:?}") };
        let mut slots = frontend.slots_for(client, targets);
        slots.sort_unstable();
        slots.dedup();
        slots.len()
    };
    assert_eq!([Balance::Random, Balance::SourceIp, Balance::SourceIpPort].map(relayed), [2, 1, 2]);
}

#[test]
fn who_prefers_this_node_falls_back_to_the_cluster() {
    let options = ServiceOptions { external_prefer_local: true, ..ServiceOptions::DEFAULT };
    let near = Service { annotated: Some(options.into()), ..service() };
    let targets = |plan: &ServicePlan| {
        let external = plan.frontends.iter().filter(|frontend| frontend.class != Class::ClusterIp);
        let lists: BTreeSet<_> = external.map(|frontend| format!("{:?}", frontend.action)).collect();
        lists.into_iter().collect::<Vec<_>>()
    };
    let ip = |n: u8| Target { ip: [10, 1, 0, n].into(), port: 8080 };
    let action = |set, targets| format!("{:?}", Action::Balance(set, targets));
    assert_eq!(targets(&plan(&near, &["n1", "n2"])), [action(EndpointSet::Local, vec![ip(1)])]);
    assert_eq!(targets(&plan(&near, &["n2", "n3"])), [action(EndpointSet::Cluster, vec![ip(1), ip(2)])]);
    let internal = |service: &Service, nodes: &[&str]| match &plan(service, nodes).frontends[0].action {
        Action::Balance(_, targets) => targets.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(internal(&near, &["n1", "n2"]), 2, "internal traffic was not asked for");
    let options = ServiceOptions { internal_prefer_local: true, ..ServiceOptions::DEFAULT };
    let inside = Service { annotated: Some(options.into()), ..service() };
    assert_eq!([internal(&inside, &["n1", "n2"]), internal(&inside, &["n2", "n3"])], [1, 2]);
}

#[test]
fn where_it_is_not_exposed_a_service_has_its_cluster_ip_alone() {
    let selector = LabelSelector::parse("role=edge").expect("valid");
    let options = ServiceOptions { expose_on: Some(selector), ..ServiceOptions::DEFAULT };
    let here = Service { annotated: Some(options.into()), health_check_node_port: Some(30_100), ..service() };
    let with = |labels: &[(&str, &str)]| {
        let labels: BTreeMap<Arc<str>, Arc<str>> =
            labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let (settings, slices) = (Settings { node_labels: labels.into(), ..settings() }, [slice(&["n1"])]);
        let plan = compile(&here, || slices.iter(), Family::Ipv4, &settings);
        (plan.frontends.iter().map(|frontend| frontend.class).collect::<Vec<_>>(), plan.checks.len())
    };
    let all = vec![Class::ClusterIp, Class::LoadBalancer, Class::ExternalIp, Class::NodePort];
    assert_eq!(with(&[("role", "edge")]), (all, 2));
    assert_eq!(with(&[("role", "core")]), (vec![Class::ClusterIp], 0));
    assert_eq!(with(&[]), (vec![Class::ClusterIp], 0));
}
