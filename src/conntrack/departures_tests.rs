use super::*;
use crate::config::Options;
use crate::conntrack::FlowEntry;
use crate::conntrack::stage::Stage;
use crate::model::{EndpointSlice, Event, ObjectKey, Protocol};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added, added_node, added_slice, service_port, slice_port};

fn stage(kernel: FakeKernel, events: impl IntoIterator<Item = Event>) -> Stage {
    let options = Options { fast_path_devices: vec!["eth0".into()], ..Options::new("here") };
    let mut departures = Departures::default();
    let follow = move |sync: &Synced<'_>, sweep: &mut Sweep| departures.follow(sync, Instant::now(), sweep);
    let node = added_node(testing::node("here", &["192.168.0.1"]));
    Stage::over(kernel, options, follow, [node, web()].into_iter().chain(events))
}

fn web() -> Event {
    added(crate::model::Service { ports: vec![service_port("", 80)], ..testing::service("web", "10.96.0.1") })
}

/// The slice of a Service with pods 10.1.0.n at port 8080.
fn pods(service: &str, hosts: &[u8]) -> Event {
    let addresses: Vec<String> = hosts.iter().map(|host| format!("10.1.0.{host}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let ports = vec![slice_port("", 8080)];
    added_slice(EndpointSlice { ports, ..testing::slice(service, "here", &addresses) })
}

/// A TCP flow to the ClusterIP that was translated to pod 10.1.0.n.
fn flow(host: u8) -> FlowEntry {
    let target = |ip: [u8; 4], port| Target { ip: ip.into(), port };
    FlowEntry {
        family: Family::Ipv4,
        protocol: Protocol::Tcp.number(),
        source: target([10, 1, 0, 9], 4000),
        destination: target([10, 96, 0, 1], 80),
        answers_from: target([10, 1, 0, host], 8080),
    }
}

#[test]
fn flows_to_endpoints_that_left_all_slices_go() {
    let mut stage = stage(FakeKernel::new(), [pods("web", &[1, 2])]);
    assert!(stage.sweep().is_empty(), "nobody has gone");
    let sweep = stage.sync([pods("web", &[2])]);
    assert!(sweep.is_stale(&flow(1)) && !sweep.is_stale(&flow(2)));
    let direct = FlowEntry { destination: flow(1).answers_from, ..flow(1) };
    assert!(!sweep.is_stale(&direct), "a connection that nobody translated");
    let udp = FlowEntry { protocol: Protocol::Udp.number(), ..flow(1) };
    assert!(!sweep.is_stale(&udp), "UDP is the frontends' business");
    assert!(stage.sync([pods("web", &[2, 3])]).is_empty(), "once is enough");
}

#[test]
fn an_endpoint_that_terminates_keeps_its_flows() {
    let mut stage = stage(FakeKernel::new(), [pods("web", &[1])]);
    let Event::Slice(slice) = pods("web", &[1]) else { panic!("a slice") };
    let mut slice = EndpointSlice::clone(&slice);
    for endpoint in &mut slice.endpoints {
        (endpoint.ready, endpoint.terminating) = (false, true);
    }
    assert!(stage.sync([added_slice(slice)]).is_empty());
}

#[test]
fn an_endpoint_of_another_slice_keeps_its_flows() {
    let other =
        added(crate::model::Service { ports: vec![service_port("", 80)], ..testing::service("other", "10.96.0.2") });
    let mut stage = stage(FakeKernel::new(), [pods("web", &[1]), other, pods("other", &[1])]);
    assert!(stage.sync([pods("web", &[])]).is_empty());
    assert!(stage.sync([pods("other", &[])]).is_stale(&flow(1)));
}

#[test]
fn one_that_is_back_is_told() {
    let mut stage = stage(FakeKernel::new(), [pods("web", &[1, 2])]);
    let gone = stage.sync([pods("web", &[2])]);
    let back = stage.sync([pods("web", &[1, 2])]);
    assert_eq!((back.is_empty(), back.is_stale(&flow(1))), (false, false));
    let mut waiting = gone.clone();
    waiting.merge(back.clone());
    assert!(!waiting.is_stale(&flow(1)), "what still waits is taken back");
    let mut failed = back;
    failed.merge_earlier(gone);
    assert!(!failed.is_stale(&flow(1)), "and what is tried again");
    assert!(stage.sync([pods("web", &[1, 2, 3])]).is_empty(), "that was all");
}

#[test]
fn after_a_restart_those_go_that_left_meanwhile() {
    let mut before = stage(FakeKernel::new(), [pods("web", &[1, 2])]);
    let stage = stage(std::mem::take(before.controller.kernel()), [pods("web", &[2, 3])]);
    let sweep = stage.sweep();
    assert!(sweep.is_stale(&flow(1)) && !sweep.is_stale(&flow(2)) && !sweep.is_stale(&flow(3)));
}

#[test]
fn a_service_that_is_deleted_leaves_its_flows_alone() {
    let mut stage = stage(FakeKernel::new(), [pods("web", &[1])]);
    let key = ObjectKey::new("ns", "web");
    assert!(stage.sync([Event::ServiceDeleted(key)]).is_empty(), "its endpoints may live");
}
