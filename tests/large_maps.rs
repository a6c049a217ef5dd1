//! Maps so large that they are read by key, in a real kernel. Needs root.

use std::net::IpAddr;
use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{EndpointSlice, Event, Family};
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Bytes, Element, Kernel as _, Op, SetId, Transaction, Value};
use portway::testing::{self, added, added_node, added_slice, all_listed, endpoint, service};

use support::netns::in_netns;

const FAMILY: Family = Family::Ipv4;
/// So many that the map of endpoints is read by key.
const SERVICES: u32 = 15_500;
const ENDPOINTS: u32 = 10;

fn cluster_ip(n: u32) -> IpAddr {
    (0x0a60_000a + n).to_be_bytes().into()
}

/// A Service's slice with so many endpoints.
fn slice(n: u32, endpoints: u32) -> EndpointSlice {
    let address = |i: u32| IpAddr::from((0x0b00_0000 + n * 16 + i).to_be_bytes());
    EndpointSlice {
        endpoints: (0..endpoints).map(|i| endpoint(address(i), "elsewhere")).collect(),
        ..testing::slice(&format!("service-{n}"), "", &[])
    }
}

fn events() -> Vec<Event> {
    let services = (0..SERVICES).flat_map(|n| {
        [added(service(&format!("service-{n}"), &cluster_ip(n).to_string())), added_slice(slice(n, ENDPOINTS))]
    });
    [added_node(testing::node("node", &["10.0.0.1"]))].into_iter().chain(services).chain(all_listed()).collect()
}

/// Tables without an owner, so that others can change them. `counted`: the kernel says how many elements a map has.
fn kernel(counted: bool) -> NftKernel {
    NftKernel::open_with(KernelOptions { owned: false, modern: counted }).expect("nf_tables")
}

fn options() -> Options {
    Options { families: vec![FAMILY], ..Options::new("node") }
}

fn endpoint_key(n: u32, slot: u32) -> Bytes {
    Bytes::new().ip(cluster_ip(n)).u8(6).u16(80).u32_host(slot)
}

fn change(op: Op) -> Transaction {
    Transaction { ops: vec![(FAMILY, op)] }
}

#[test]
fn large_maps_are_read_by_key_whether_or_not_the_kernel_counts() {
    in_netns(|| {
        let (mut first, reports) = Controller::new(kernel(true), options());
        first.handle(events(), Instant::now());
        assert_eq!(reports.borrow().failures, 0);
        let map = first.mirror().and_then(|mirror| mirror.listing(FAMILY)).expect("synced");
        let map = map.sets.keys().copied().find(|name| name.set == SetId::Endpoints).expect("there");
        drop(first);
        let [counted, uncounted] =
            [true, false].map(|counted| kernel(counted).read(FAMILY).expect("read").expect("there"));
        assert_eq!(counted.sets[&SetId::Endpoints].len(), (SERVICES * ENDPOINTS) as usize);
        assert!(counted.sets == uncounted.sets && counted.foreign.is_empty() && uncounted.foreign.is_empty());

        // Somebody deletes an endpoint, and puts one where no verdict leads yet.
        let element = |n, slot, value| Element { key: endpoint_key(n, slot), end: None, value, comment: None };
        let strange = Value::Data(Bytes::new().ip(IpAddr::from([192, 0, 2, 1])).u16(1));
        let mut stranger = kernel(true);
        stranger.apply(&change(Op::DeleteElements(map, vec![element(7, 3, Value::None)]))).expect("nobody owns it");
        stranger.apply(&change(Op::AddElements(map, vec![element(9, ENDPOINTS, strange)]))).expect("nobody owns it");
        let (mut next, reports) = Controller::new(kernel(false), options());
        next.handle(events(), Instant::now());
        let report = reports.borrow().clone();
        assert_eq!((report.added, report.deleted, report.failures), (1, 0, 0), "the endpoint is there again");

        // The other one is in the way of one of ours: it goes, and no Service has to pay for it.
        next.handle([added_slice(slice(9, ENDPOINTS + 1))], Instant::now());
        assert_eq!(reports.borrow().failures, 0);
        assert!(next.model().all_set_aside().next().is_none(), "it is no fault of the Service");
        let table = stranger.read(FAMILY).expect("read");
        let steps = next.mirror().expect("synced").rebase(FAMILY, table.as_ref());
        assert!(steps.is_empty(), "what the kernel holds is right");

        // Services that have lost some endpoints lead to slots without one.
        next.handle((0..SERVICES).map(|n| added_slice(slice(n, ENDPOINTS - n % 3))), Instant::now());
        assert_eq!(reports.borrow().failures, 0);
        let left: u32 = (0..SERVICES).map(|n| ENDPOINTS - n % 3).sum();
        for counted in [true, false] {
            let table = kernel(counted).read(FAMILY).expect("read").expect("there");
            assert_eq!(table.sets[&SetId::Endpoints].len(), left as usize);
            assert!(next.mirror().expect("synced").rebase(FAMILY, Some(&table)).is_empty());
        }
    });
}
