//! One element the kernel refuses costs its Service, nobody else. The last tests need root.

use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family, Kind, Model, ObjectKey};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{
    Bytes, ChainId, EndpointMap, FakeKernel, Intercepted, Interceptor, Kernel, KernelError, Op, Pick, SetId, SetName,
    Transaction, Value, Verdict,
};
use portway::source::{Converter, Origin, api};
use serde_json::json;
use support::netns::in_netns;

const NODE: &str = "node-a";

/// Objects of a Service with one endpoint: its number is in all its addresses.
fn service(number: u8, port: u16) -> Vec<Event> {
    let name = format!("svc-{number}");
    let service = json!({
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"name": "a", "port": port}]},
    });
    let slice = json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "a", "port": 8080}],
        "endpoints": [{"addresses": [format!("10.1.0.{number}")], "nodeName": NODE}],
    });
    let mut converter = Converter::new(Origin::Manifest, NODE);
    let service: api::Service = serde_json::from_value(service).expect("a Service");
    let slice: api::EndpointSlice = serde_json::from_value(slice).expect("a slice");
    [converter.service(&service).event, converter.slice(&slice).event].into_iter().flatten().collect()
}

fn lists() -> Vec<Event> {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    let mut events: Vec<Event> = kinds.into_iter().flat_map(|k| [Event::ListStarted(k), Event::ListDone(k)]).collect();
    events.push(Event::LocalAddresses([[192, 168, 0, 1].into()].into()));
    events
}

fn options() -> Options {
    Options::new(NODE)
}

fn frontend(number: u8, port: u16) -> Bytes {
    Bytes::new().ip([10, 96, 0, number].into()).u8(6).u16(port)
}

fn in_force<K: Kernel>(controller: &mut Controller<K>) -> Vec<u8> {
    let services = controller.kernel().read_set(Family::Ipv4, SetId::Services.into()).expect("readable");
    let mut numbers: Vec<u8> = services.values().filter_map(|element| element.key.u8_at(3)).collect();
    numbers.sort_unstable();
    numbers
}

fn set_aside(model: &Model) -> Vec<ObjectKey> {
    model.all_set_aside().map(|(service, _)| service.clone()).collect()
}

#[test]
fn the_service_of_a_refused_element_is_set_aside_and_the_rest_is_applied() {
    let slot = frontend(3, 80).u32_host(0);
    let shared = Bytes::new().ip([10, 96, 0, 3].into());
    let pair = Bytes::new().ip([10, 1, 0, 3].into()).ip([10, 1, 0, 3].into());
    for refused in [
        (SetId::Services, frontend(3, 80)),
        (SetId::Endpoints, slot),
        (SetId::ClusterIps, shared),
        (SetId::Hairpin, pair),
    ] {
        for first_sync in [true, false] {
            let (mut controller, reports) = Controller::new(FakeKernel::new(), options());
            controller.kernel().refused_keys = [refused].into();
            if !first_sync {
                controller.handle(lists(), Instant::now());
            }
            let mut events = if first_sync { lists() } else { Vec::new() };
            events.extend((1..=5).flat_map(|number| service(number, 80)));
            controller.handle(events, Instant::now());
            assert_eq!(in_force(&mut controller), [1, 2, 4, 5], "{refused:?}");
            assert_eq!(set_aside(controller.model()), [ObjectKey::new("ns", "svc-3")]);
            assert_eq!(reports.borrow().failures, 0);

            // Others come and go meanwhile.
            controller.handle(service(6, 80), Instant::now());
            assert_eq!(in_force(&mut controller), [1, 2, 4, 5, 6]);
        }
    }
}

#[test]
fn it_comes_back_when_it_changes_or_at_the_next_comparison() {
    let (mut controller, _) = Controller::new(FakeKernel::new(), options());
    controller.kernel().refused_keys = [(SetId::Services, frontend(3, 80))].into();
    controller.handle(lists(), Instant::now());
    controller.handle((1..=3).flat_map(|number| service(number, 80)), Instant::now());
    assert_eq!(in_force(&mut controller), [1, 2]);
    controller.handle(service(3, 81), Instant::now());
    assert_eq!(in_force(&mut controller), [1, 2, 3]);
    controller.handle(service(3, 80), Instant::now());
    assert_eq!(in_force(&mut controller), [1, 2]);
    controller.verify();
    assert_eq!(in_force(&mut controller), [1, 2], "still refused");
    controller.kernel().refused_keys.clear();
    controller.verify();
    assert_eq!(in_force(&mut controller), [1, 2, 3]);
    assert_eq!(set_aside(controller.model()), []);
}

#[test]
fn many_refusals_are_dealt_with_in_several_syncs() {
    let (mut controller, reports) = Controller::new(FakeKernel::new(), options());
    controller.kernel().refused_keys = (1..=20).map(|number| (SetId::Services, frontend(number, 80))).collect();
    let mut events = lists();
    events.extend((1..=21).flat_map(|number| service(number, 80)));
    controller.handle(events, Instant::now());
    assert_eq!(reports.borrow().failures, 1, "this many in one go mean something else is wrong: wait");
    while reports.borrow().failures > 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        controller.handle([], Instant::now());
    }
    assert_eq!(in_force(&mut controller), [21]);
}

/// The real kernel, asked for something it must refuse wherever one frontend is added.
struct Spoiled {
    frontend: Bytes,
}

impl Interceptor<NftKernel> for Spoiled {
    fn apply(&mut self, kernel: &mut NftKernel, transaction: &Transaction) -> Result<(), KernelError> {
        let mut spoiled = transaction.clone();
        for (_, op) in &mut spoiled.ops {
            let Op::AddElements(SetName { set: SetId::Services, .. }, list) = op else { continue };
            for element in list.iter_mut().filter(|element| element.key == self.frontend) {
                let nowhere = Pick { map: EndpointMap::Address, sticky: false, count: 77 };
                element.value = Value::Verdict(Verdict::Goto(ChainId::Pick(nowhere)));
            }
        }
        kernel.apply(&spoiled)
    }
}

#[test]
fn the_kernel_names_the_element_it_refuses() {
    // Kernels before 6.0 only name the message, which has hundreds of elements.
    for modern in [true, false] {
        in_netns(|| {
            let kernel = NftKernel::open_with(nftables::KernelOptions { owned: false, modern }).expect("a socket");
            let kernel = Intercepted { kernel, interceptor: Spoiled { frontend: frontend(100, 80) } };
            let (mut controller, reports) = Controller::new(kernel, options());
            let mut events = lists();
            events.extend((1..=200).flat_map(|number| service(number, 80)));
            controller.handle(events, Instant::now());
            assert_eq!(reports.borrow().failures, 0);
            assert_eq!(in_force(&mut controller), (1..=200).filter(|number| *number != 100).collect::<Vec<_>>());
            assert_eq!(set_aside(controller.model()), [ObjectKey::new("ns", "svc-100")]);
            controller.handle(service(100, 81), Instant::now());
            assert_eq!(in_force(&mut controller), (1..=200).collect::<Vec<_>>());
        });
    }
}
