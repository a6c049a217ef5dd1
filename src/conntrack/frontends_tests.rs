use super::*;
use crate::config::{NodePortsOn, Options};
use crate::conntrack::FlowEntry;
use crate::conntrack::stage::Stage;
use crate::model::{Endpoint, EndpointSlice, Event, Placement, ServiceType, SlicePort};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added, added_node, added_slice, ip, service_port, slice_port};

/// A node 192.168.0.1 and whatever a test adds.
fn stage(events: impl IntoIterator<Item = Event>) -> Stage {
    stage_with(Options::new("here"), events)
}

fn stage_with(options: Options, events: impl IntoIterator<Item = Event>) -> Stage {
    stage_over(FakeKernel::new(), options, events)
}

fn stage_over(kernel: FakeKernel, options: Options, events: impl IntoIterator<Item = Event>) -> Stage {
    let mut frontends = UdpFrontends::default();
    let follow = move |sync: &Synced<'_>, sweep: &mut Sweep| sweep.merge(frontends.follow(sync));
    Stage::over(kernel, options, follow, [node("192.168.0.1")].into_iter().chain(events))
}

fn node(ip: &str) -> Event {
    added_node(testing::node("here", &[ip]))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

/// A Service with port 53 (UDP) on 10.96.0.`n`.
fn service(name: &str, n: u8) -> Service {
    Service {
        created: Some(n.into()),
        service_type: ServiceType::NodePort,
        ports: vec![ServicePort { protocol: Protocol::Udp, ..service_port("dns", 53) }],
        ..testing::service(name, &format!("10.96.0.{n}"))
    }
}

fn with_node_port(mut service: Service, port: u16) -> Service {
    service.ports[0].node_port = Some(port);
    service
}

fn put(service: &Service) -> Event {
    added(service.clone())
}

fn endpoint(host: u8) -> Endpoint {
    testing::endpoint([10, 1, 0, host].into(), "elsewhere")
}

fn slice_of(name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: key(name),
        ports: vec![SlicePort { protocol: Protocol::Udp, ..slice_port("dns", 53) }],
        endpoints,
        ..testing::slice(name, "", &[])
    }
}

fn slice(name: &str, endpoints: Vec<Endpoint>) -> Event {
    added_slice(slice_of(name, endpoints))
}

fn target(text: &str) -> Target {
    let address: std::net::SocketAddr = text.parse().expect("an address and a port");
    Target { ip: address.ip(), port: address.port() }
}

/// What becomes of a flow: `None` when nobody asked.
fn allows(sweep: &FamilySweep, destination: &str, answers_from: &str) -> Option<bool> {
    let (destination, answers_from) = (target(destination), target(answers_from));
    sweep.allows(&FlowEntry {
        family: Family::Ipv4,
        protocol: 17,
        source: target("10.1.0.9:4000"),
        destination,
        answers_from,
    })
}

const VIP: &str = "10.96.0.1:53";
const POD_1: &str = "10.1.0.1:53";
const POD_2: &str = "10.1.0.2:53";

fn dns() -> Stage {
    let service = with_node_port(service("dns", 1), 30053);
    stage([put(&service), slice("dns", vec![endpoint(1), endpoint(2)])])
}

#[test]
fn the_first_sync_asks_for_all_frontends() {
    let sweep = dns().sweep();
    assert_eq!(allows(&sweep, VIP, POD_1), Some(true));
    assert_eq!(allows(&sweep, VIP, VIP), Some(false));
    assert_eq!(allows(&sweep, "192.168.0.1:30053", POD_2), Some(true));
    assert_eq!(allows(&sweep, "192.168.0.1:30053", "10.1.0.3:53"), Some(false));
}

#[test]
fn a_sync_asks_for_the_services_that_changed_only() {
    let mut stage = stage([
        put(&service("dns", 1)),
        slice("dns", vec![endpoint(1)]),
        put(&service("other", 2)),
        slice("other", vec![endpoint(3)]),
    ]);
    let sweep = stage.sync([slice("dns", vec![endpoint(2)])]);
    assert_eq!(sweep.len(), 1);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, POD_2)), (Some(false), Some(true)));
    assert_eq!(allows(&sweep, "10.96.0.2:53", "10.1.0.9:53"), None);
}

#[test]
fn endpoints_keep_their_flows_as_long_as_they_serve() {
    let mut stage = dns();
    let (draining, unready) = (
        Endpoint { ready: false, terminating: true, ..endpoint(1) },
        Endpoint { ready: false, terminating: false, ..endpoint(2) },
    );
    let sweep = stage.sync([slice("dns", vec![draining.clone(), unready, endpoint(3)])]);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, POD_2)), (Some(true), Some(true)));
    let sweep = stage.sync([slice("dns", vec![Endpoint { serving: false, ..draining }, endpoint(3)])]);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, POD_2)), (Some(false), Some(false)));
}

#[test]
fn endpoints_published_unready_keep_their_flows() {
    let mut stage = dns();
    let sweep = stage.sync([slice("dns", vec![Endpoint { serving: false, ..endpoint(1) }])]);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, POD_2)), (Some(true), Some(false)));
}

#[test]
fn policies_and_hints_cut_no_flow() {
    let mut stage = dns();
    let mut local = with_node_port(service("dns", 1), 30053);
    (local.internal_policy_local, local.external_policy_local) = (true, true);
    assert!(stage.sync([put(&local)]).is_empty());
    let far = Arc::new(Placement { zone_hints: vec!["far".into()], ..Placement::default() });
    let hinted = |host| Endpoint { placement: far.clone(), ..endpoint(host) };
    let sweep = stage.sync([slice("dns", vec![hinted(1), endpoint(3)])]);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, POD_2)), (Some(true), Some(false)));
}

#[test]
fn a_changed_target_port_is_another_endpoint() {
    let mut stage = dns();
    let mut moved = slice_of("dns", vec![endpoint(1)]);
    moved.ports[0].port = 5353;
    let sweep = stage.sync([added_slice(moved)]);
    assert_eq!((allows(&sweep, VIP, POD_1), allows(&sweep, VIP, "10.1.0.1:5353")), (Some(false), Some(true)));
}

#[test]
fn the_loss_of_the_last_endpoint_clears_the_frontends() {
    for event in [slice("dns", Vec::new()), Event::SliceDeleted(key("dns"))] {
        let sweep = dns().sync([event]);
        assert_eq!(allows(&sweep, VIP, POD_1), Some(false));
        assert_eq!(allows(&sweep, "192.168.0.1:30053", POD_1), Some(false));
    }
}

#[test]
fn a_deleted_service_is_cleared() {
    let mut stage = dns();
    let sweep = stage.sync([Event::ServiceDeleted(key("dns"))]);
    assert_eq!(allows(&sweep, VIP, POD_1), Some(false));
    assert_eq!(allows(&sweep, "192.168.0.1:30053", POD_1), Some(false));
    assert!(stage.sync([Event::SliceDeleted(key("dns"))]).is_empty(), "once is enough");
}

#[test]
fn new_and_lost_frontends_are_cleaned_although_endpoints_stay() {
    let mut stage = dns();
    let mut changed = with_node_port(service("dns", 1), 30054);
    changed.external_ips = vec![[1, 2, 3, 4].into()];
    changed.load_balancer_ips = vec![[1, 2, 3, 5].into()];
    let sweep = stage.sync([put(&changed)]);
    for frontend in ["1.2.3.4:53", "1.2.3.5:53", "192.168.0.1:30054"] {
        assert_eq!(allows(&sweep, frontend, frontend), Some(false), "{frontend}");
        assert_eq!(allows(&sweep, frontend, POD_1), Some(true), "{frontend}");
    }
    assert_eq!(allows(&sweep, "192.168.0.1:30053", POD_1), Some(false), "the old NodePort");
    assert_eq!(allows(&sweep, VIP, POD_1), None, "nothing happened to it");
    let sweep = stage.sync([put(&with_node_port(service("dns", 1), 30054))]);
    assert_eq!(allows(&sweep, "1.2.3.4:53", POD_1), Some(false));
}

#[test]
fn other_protocols_are_no_matter() {
    let mut tcp = service("web", 1);
    tcp.ports[0].protocol = Protocol::Tcp;
    let mut endpoints = slice_of("web", vec![endpoint(1)]);
    endpoints.ports[0].protocol = Protocol::Tcp;
    let mut stage = stage([put(&tcp), added_slice(endpoints.clone())]);
    assert!(stage.sweep().is_empty());
    endpoints.endpoints.clear();
    assert!(stage.sync([added_slice(endpoints)]).is_empty());
}

#[test]
fn a_sync_that_leaves_flows_where_they_are_asks_for_nothing() {
    let mut stage = dns();
    let mut relabelled = with_node_port(service("dns", 1), 30053);
    relabelled.affinity_seconds = Some(60);
    assert!(stage.sync([put(&relabelled)]).is_empty());
    assert!(stage.sync([node("192.168.0.1")]).is_empty());
}

#[test]
fn a_contested_frontend_belongs_to_its_winner() {
    let with_vip = |name, n| Service { external_ips: vec![[1, 2, 3, 4].into()], ..service(name, n) };
    let mut stage = stage([
        put(&with_vip("old", 1)),
        slice("old", vec![endpoint(1)]),
        put(&with_vip("young", 2)),
        slice("young", vec![endpoint(2)]),
    ]);
    let sweep = stage.sync([slice("young", vec![endpoint(3)])]);
    assert_eq!(allows(&sweep, "1.2.3.4:53", POD_1), None, "it is not the loser's");
    let sweep = stage.sync([Event::ServiceDeleted(key("old"))]);
    assert_eq!(allows(&sweep, "1.2.3.4:53", POD_1), Some(false));
    assert_eq!(allows(&sweep, "1.2.3.4:53", "10.1.0.3:53"), Some(true), "the heir's endpoint");
    let sweep = stage.sync([slice("young", vec![endpoint(4)])]);
    assert_eq!(allows(&sweep, "1.2.3.4:53", "10.1.0.3:53"), Some(false), "the heir's changes count");
    let sweep = stage.sync([Event::ServiceDeleted(key("young"))]);
    assert_eq!(allows(&sweep, "1.2.3.4:53", "10.1.0.4:53"), Some(false));
}

#[test]
fn another_services_address_with_the_number_of_a_node_port_is_spared() {
    let mut vip = service("vip", 2);
    vip.load_balancer_ips = vec![[192, 168, 0, 1].into()];
    vip.ports[0].port = 30053;
    let mut stage = stage([
        put(&with_node_port(service("dns", 1), 30053)),
        slice("dns", vec![endpoint(1)]),
        put(&vip),
        slice("vip", vec![endpoint(2)]),
    ]);
    let sweep = stage.sync([slice("dns", vec![endpoint(3)])]);
    assert_eq!(allows(&sweep, "192.168.0.1:30053", POD_2), Some(true));
}

#[test]
fn addresses_that_come_to_the_node_are_frontends_of_its_node_ports() {
    let mut stage = dns();
    let sweep = stage.sync([node("192.168.0.7")]);
    assert_eq!(allows(&sweep, "192.168.0.7:30053", "192.168.0.7:30053"), Some(false));
    assert_eq!(allows(&sweep, "192.168.0.7:30053", POD_1), Some(true));
    assert_eq!(allows(&sweep, VIP, VIP), None);
}

#[test]
fn a_pods_link_local_address_is_no_reason_to_clean() {
    let addresses = |ips: &[&str]| Event::LocalAddresses(ips.iter().map(|text| ip(text)).collect());
    let mut v6 = with_node_port(service("six", 1), 30053);
    v6.cluster_ips = vec![ip("fd00::1")];
    let options = Options { node_ports: NodePortsOn::ranges(Vec::new()), ..Options::new("here") };
    let mut stage = stage_with(options, [node("0.0.0.0"), put(&v6), addresses(&["fd01::1"])]);
    let mut asked = |ips: &[&str]| {
        stage.sync([addresses(ips)]);
        let sweep = stage.last.lock().expect("no panic");
        sweep.family(Family::Ipv6).len()
    };
    assert_eq!(asked(&["fd01::1", "fe80::1"]), 0);
    assert_eq!(asked(&["fd01::1", "fe80::1", "fd01::2"]), 1);
}

#[test]
fn a_sync_after_a_failure_asks_for_everything_that_happened_meanwhile() {
    let mut stage = dns();
    // Somebody empties a map, so the kernel refuses to delete from it.
    stage.controller.kernel().listing_mut(Family::Ipv4).expect("a table").sets.clear();
    let events = [Event::ServiceDeleted(key("dns")), put(&service("new", 9)), slice("new", vec![endpoint(9)])];
    assert!(stage.sync(events).is_empty(), "the sync failed");
    std::thread::sleep(std::time::Duration::from_millis(150));
    let sweep = stage.sync([]);
    assert_eq!(allows(&sweep, VIP, POD_1), Some(false));
    assert_eq!(allows(&sweep, "10.96.0.9:53", "10.96.0.9:53"), Some(false));
}

#[test]
fn frontends_that_went_while_nobody_ran_are_cleared_at_the_next_start() {
    let mut with_all = with_node_port(service("dns", 1), 30053);
    with_all.external_ips = vec![[1, 2, 3, 4].into()];
    let kept = [put(&service("kept", 7)), slice("kept", vec![endpoint(7)])];
    let all = [(VIP, true), ("192.168.0.1:30053", true), ("1.2.3.4:53", true)];
    let without_port = Service { ports: vec![], ..service("dns", 1) };
    // What went, what is there at the next start, and whether flows to each frontend are cut.
    type Case<'a> = (&'a str, Vec<Event>, &'a [(&'a str, bool)]);
    let cases: [Case<'_>; 4] = [
        ("the Service", vec![], &all),
        ("its port", vec![put(&without_port), slice("dns", vec![endpoint(1)])], &all),
        (
            "nodePort and external IP",
            vec![put(&service("dns", 1)), slice("dns", vec![endpoint(1)])],
            &[(VIP, false), ("192.168.0.1:30053", true), ("1.2.3.4:53", true)],
        ),
        (
            "nothing",
            vec![put(&with_all), slice("dns", vec![endpoint(1)])],
            &[(VIP, false), ("192.168.0.1:30053", false), ("1.2.3.4:53", false)],
        ),
    ];
    for (gone, events, cut) in cases {
        let mut before = stage([kept.to_vec(), vec![put(&with_all), slice("dns", vec![endpoint(1)])]].concat());
        let kernel = std::mem::take(before.controller.kernel());
        let sweep = stage_over(kernel, Options::new("here"), [kept.to_vec(), events].concat()).sweep();
        for (frontend, is_cut) in cut {
            assert_eq!(allows(&sweep, frontend, POD_1), Some(!is_cut), "{frontend} without {gone}");
        }
        assert_eq!(allows(&sweep, "10.96.0.7:53", "10.1.0.7:53"), Some(true), "without {gone}");
    }
}
