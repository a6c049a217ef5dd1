use std::time::Duration;

use super::*;
use crate::model::{LabelSelector, Protocol, ServiceOptions, SlicePort};
use crate::testing;

fn slice(name: &str, port: u16, changed: Option<u64>) -> Event {
    Event::Slice(Arc::new(EndpointSlice {
        key: ObjectKey::new("ns", name),
        service: ObjectKey::new("ns", "svc"),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port }],
        endpoints: Vec::new(),
        weights: None,
        changed_at: changed.map(at),
    }))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn triggers(changes: &Changes) -> Vec<SystemTime> {
    changes.triggers.get(&(ObjectKey::new("ns", "svc"), Family::Ipv4)).cloned().unwrap_or_default()
}

#[test]
fn times_are_kept_for_changed_slices_only() {
    let mut model = Model::default();
    model.apply(slice("a", 80, Some(1)));
    model.apply(slice("b", 80, None));
    model.apply(slice("a", 81, Some(2)));
    assert_eq!(triggers(&model.take_changes()), [at(1), at(2)]);

    model.apply(slice("a", 81, Some(3)));
    assert!(model.pending().is_empty(), "a new time alone changes no rule");
    assert!(model.take_changes().triggers.is_empty(), "and is not the time of a change");
}

#[test]
fn a_deleted_slice_takes_the_times_of_its_service_along() {
    let mut model = Model::default();
    model.apply(slice("a", 80, Some(1)));
    model.apply(slice("b", 80, Some(2)));
    model.apply(Event::SliceDeleted(ObjectKey::new("ns", "a")));
    assert!(triggers(model.pending()).is_empty());
    model.apply(slice("b", 82, Some(3)));
    assert_eq!(triggers(model.pending()), [at(3)]);
}

#[test]
fn a_node_that_is_gone_stays_in_use_and_is_known_to_be_gone() {
    let mut model = Model::default();
    let node = || Event::Node(Box::default());
    let steps: [(&[Event], bool); 6] = [
        (&[Event::ListStarted(Kind::Node), Event::ListDone(Kind::Node)], false),
        (&[node()], false),
        (&[Event::NodeDeleted], true),
        (&[Event::ListStarted(Kind::Node), node(), Event::ListDone(Kind::Node)], false),
        (&[Event::ListStarted(Kind::Node), Event::ListDone(Kind::Node)], true),
        (&[node()], false),
    ];
    for (step, (events, gone)) in steps.into_iter().enumerate() {
        events.iter().cloned().for_each(|event| model.apply(event));
        assert_eq!((model.is_node_gone(), model.node().is_some()), (gone, step > 0), "step {step}");
    }
}

#[test]
fn addresses_of_nodes_are_as_listed() {
    let mut model = Model::default();
    let node = |name: &str, ip: [u8; 4]| Event::NodeAddresses(name.into(), vec![ip.into()]);
    let list = |events: &[Event]| {
        let ends = [Event::ListStarted(Kind::NodeAddresses), Event::ListDone(Kind::NodeAddresses)];
        [&ends[..1], events, &ends[1..]].concat()
    };
    let mut changed = |events: Vec<Event>| {
        events.into_iter().for_each(|event| model.apply(event));
        let changes = model.take_changes();
        assert_eq!(changes.is_empty(), !changes.node_addresses);
        (changes.node_addresses, ["a", "b"].map(|name| model.addresses_of(name).len()))
    };
    assert_eq!(changed(list(&[node("a", [10, 0, 0, 1]), node("b", [10, 0, 0, 2])])), (true, [1, 1]));
    assert_eq!(changed(vec![node("a", [10, 0, 0, 1])]), (false, [1, 1]));
    assert_eq!(changed(vec![node("a", [10, 0, 0, 3])]), (true, [1, 1]));
    assert_eq!(changed(list(&[node("b", [10, 0, 0, 2])])), (true, [0, 1]), "gone from the list");
    let unreadable = Event::Unreadable(Kind::NodeAddresses, ObjectKey::new("", "b"));
    assert_eq!(changed(list(&[unreadable])), (false, [0, 1]), "what was known stays");
    assert_eq!(changed(vec![Event::NodeAddressesDeleted("b".into())]), (true, [0, 0]));
}

#[test]
fn only_services_that_choose_nodes_follow_the_labels_of_the_node() {
    let expose_on = Some(LabelSelector::parse("role=edge").expect("valid"));
    let options = ServiceOptions { expose_on, ..ServiceOptions::DEFAULT };
    let chooses = Service { annotated: Some(options.into()), ..testing::service("a", "10.96.0.1") };
    let mut model = Model::default();
    [testing::added(chooses), testing::added(testing::service("b", "10.96.0.2"))]
        .into_iter()
        .for_each(|event| model.apply(event));
    let mut changed = |role: Option<&str>, zone: &str| {
        model.take_changes();
        let labels = role.map(|role| ("role".into(), role.into())).into_iter().collect::<BTreeMap<_, _>>().into();
        let node = Node { name: "n".into(), zone: zone.into(), labels, ..Node::default() };
        model.apply(Event::Node(Box::new(node)));
        model.take_changes().services.iter().map(|key| key.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(changed(Some("edge"), ""), ["a"], "the first Node");
    assert_eq!(changed(Some("edge"), ""), [""; 0], "a heartbeat");
    assert_eq!(changed(Some("edge"), "z"), [""; 0], "something else");
    assert_eq!(changed(Some("core"), "z"), ["a"]);
    assert_eq!(changed(None, "z"), ["a"]);
}

/// Endpoints come, move between slices and Services, and go, in any order.
#[test]
fn an_endpoint_has_departed_when_no_slice_has_it() {
    let slice = |name: u64, service: u64, addresses: &[u8], ports: &[u16]| EndpointSlice {
        key: ObjectKey::new("ns", format!("slice-{name}")),
        service: ObjectKey::new("ns", format!("svc-{service}")),
        ports: ports.iter().map(|port| SlicePort { name: "".into(), protocol: Protocol::Tcp, port: *port }).collect(),
        endpoints: addresses.iter().map(|last| testing::endpoint([10, 1, 0, *last].into(), "n")).collect(),
        ..testing::slice("", "", &[])
    };
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut model = Model::default();
    for service in 0..2 {
        model.apply(testing::added(Service {
            key: ObjectKey::new("ns", format!("svc-{service}")),
            ..testing::service("", "10.96.0.1")
        }));
    }
    // Some slices are there before anybody wants to know.
    model.apply(Event::Slice(Arc::new(slice(0, 0, &[1, 2], &[80]))));
    model.watch_departures();
    model.take_changes();
    let targets = |model: &Model| -> BTreeSet<(IpAddr, u16)> {
        model.all_slices().flat_map(|slice| slice.tcp_targets().collect::<Vec<_>>()).collect()
    };
    let mut departures = 0;
    for step in 0..600 {
        let before = targets(&model);
        for _ in 0..=next(3) {
            let name = next(4);
            match next(4) {
                0 => model.apply(Event::SliceDeleted(ObjectKey::new("ns", format!("slice-{name}")))),
                _ => {
                    let addresses: Vec<u8> = (0..next(4)).map(|_| 1 + next(3) as u8).collect();
                    let ports: &[u16] = if next(2) == 0 { &[80] } else { &[80, 81] };
                    model.apply(Event::Slice(Arc::new(slice(name, next(2), &addresses, ports))));
                }
            }
        }
        let snapshot = model.clone();
        let changes = model.take_changes();
        let departed = model.departed(&changes);
        let after = targets(&model);
        // One that came and went between two looks may be named, one that is there never.
        assert!(departed.is_disjoint(&after), "step {step}: {departed:?}");
        let gone: BTreeSet<_> = before.difference(&after).copied().collect();
        assert!(departed.is_superset(&gone), "step {step}: {gone:?}, not {departed:?}");
        assert_eq!(snapshot.departed(&changes), departed, "a snapshot knows the same");
        departures += gone.len();
    }
    assert!(departures > 50, "{departures}");
}
