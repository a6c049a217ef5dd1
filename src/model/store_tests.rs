use std::time::Duration;

use super::*;
use crate::model::Protocol;
use crate::model::SlicePort;

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
