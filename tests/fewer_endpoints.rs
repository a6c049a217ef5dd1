//! Services with an endpoint or two fewer than their chains have slots, with real packets. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{EndpointSlice, Event, Family, Protocol, Service, ServicePort, SlicePort};
use portway::nftables::NftKernel;
use portway::ruleset::{ChainId, Pick, Table, Value, Verdict};
use portway::testing::{self, added, added_node, added_slice, all_listed, endpoint, service_port, slice_port};
use portway::trace::{End, Host, Packet, Request, trace};
use support::attempt::target;
use support::live::{Live, forget_clients};
use support::netns::{in_netns, ip_batch};
use support::nft::Nft;
use support::packets::Protocol::Tcp;
use support::scenes::node_addresses;
use support::sticky::{LOCAL, REMOTE, Shop, client, frontends};
use support::world::Place;

const FAMILY: Family = Family::Ipv4;
/// New connections to each frontend.
const CONNECTIONS: usize = 240;
/// Sent at once.
const BATCH: usize = 60;

/// The chains that verdicts lead to.
fn picks(table: &Table) -> BTreeSet<Pick> {
    let elements = table.sets.values().flat_map(|elements| elements.values());
    let pick = |value| match value {
        Value::Verdict(Verdict::Goto(ChainId::Pick(pick))) => Some(pick),
        _ => None,
    };
    elements.filter_map(|element| pick(element.value)).collect()
}

/// Where new connections of a client end; all do.
fn reached(live: &Live, place: Place, to: SocketAddr) -> BTreeMap<SocketAddr, usize> {
    let (from, mut counts) = (client(place, true, 1), BTreeMap::new());
    for _ in 0..CONNECTIONS / BATCH {
        let probes = (0..BATCH).map(|_| live.numbers.between(Tcp, from, to)).collect();
        for (_, outcome) in live.send(place, probes).expect("sent") {
            let end = target(&outcome).unwrap_or_else(|| panic!("{to} from {from}: {outcome:?}"));
            *counts.entry(end).or_default() += 1;
        }
    }
    counts
}

/// What the tracer says of the same connections.
fn foretold(live: &mut Live, place: Place, to: SocketAddr) -> BTreeMap<SocketAddr, f64> {
    let interface = match place {
        Place::Pods => live.layout.pod_interface.name(),
        _ => "uplink0",
    };
    let packet = Packet {
        source: client(place, true, 1),
        destination: to.ip(),
        request: Request::Connect { protocol: Protocol::Tcp, port: to.port() },
        source_port: None,
        interface: Some(interface.to_owned()),
    };
    let listing = live.controller().mirror().and_then(|mirror| mirror.listing(FAMILY)).expect("synced");
    let trace = trace(&listing, &Host { addresses: node_addresses().into_iter().collect() }, &packet);
    let end = |(end, share): &(End, f64)| match end {
        End::Translated { target, .. } => (SocketAddr::new(target.ip, target.port), *share),
        end => panic!("{end}, for {share} of all"),
    };
    trace.ends.iter().map(end).collect()
}

/// Connections to all frontends, from a pod and from outside, are spread evenly over so many endpoints.
fn assert_even(live: &mut Live, all: usize, outside: usize) {
    for (name, to) in frontends(true, Tcp) {
        for (place, endpoints) in [(Place::Pods, all), (Place::Uplink, outside)] {
            let endpoints = if name == "ClusterIP" { all } else { endpoints };
            let (counts, said) = (reached(live, place, to), foretold(live, place, to));
            assert_eq!(counts.keys().collect::<Vec<_>>(), said.keys().collect::<Vec<_>>(), "{name} from {place:?}");
            assert_eq!(said.len(), endpoints, "{name} from {place:?}");
            let share = 1.0 / endpoints as f64;
            assert!(said.values().all(|said| (said - share).abs() < 1e-9), "{said:?}");
            // Five standard deviations.
            let (mean, most) = (CONNECTIONS as f64 * share, 5.0 * (CONNECTIONS as f64 * share * (1.0 - share)).sqrt());
            let is_even = counts.values().all(|count| (*count as f64 - mean).abs() <= most);
            assert!(is_even, "{name} from {place:?}: {counts:?}");
        }
    }
}

#[test]
fn all_endpoints_are_reached_where_slots_have_none() {
    for external_local in [false, true] {
        let more = |count: u8| (0..count).map(|n| format!("10.1.1.{}", 8 + n)).collect();
        let mut shop = Shop { timeout: None, external_local, more: more(2), ..Shop::default() };
        shop.endpoints = [LOCAL, REMOTE].concat();
        let mut live = shop.open();
        let before = picks(&live.read(FAMILY).expect("a table"));
        let here = |here, all| if external_local { here } else { all };
        assert_even(&mut live, 5, here(2, 5));
        shop.more = more(1);
        shop.change(&mut live);
        assert_even(&mut live, 4, here(2, 4));
        // The second in its slots goes, and is one of this node.
        shop.endpoints.remove(1);
        shop.change(&mut live);
        assert_even(&mut live, 3, here(1, 3));
        assert_eq!(picks(&live.read(FAMILY).expect("a table")), before, "verdicts are as they were");
        // So they are after a restart, and with all endpoints again.
        let generation = live.generation().expect("a number");
        live.restart(shop.events()).expect("a restart");
        assert_eq!(live.generation().expect("a number"), generation, "nothing is written");
        shop.endpoints = [LOCAL, REMOTE].concat();
        shop.more = more(2);
        shop.change(&mut live);
        assert_even(&mut live, 5, here(2, 5));
        assert_eq!(picks(&live.read(FAMILY).expect("a table")), before);
    }
}

#[test]
fn clients_that_are_remembered_nowhere_reach_all_of_them_too() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE].concat(), ..Shop::default() };
    let mut live = shop.open();
    shop.endpoints.remove(0);
    shop.change(&mut live);
    let (_, to) = frontends(true, Tcp)[0];
    let mut ends = BTreeSet::new();
    for _ in 0..40 {
        forget_clients().expect("deleted");
        let outcomes = live.connect(Place::Pods, Tcp, client(Place::Pods, true, 1), to, 2).expect("packets");
        let both: Vec<_> = outcomes.iter().map(|outcome| target(outcome).expect("it arrives")).collect();
        assert_eq!(both[0], both[1], "the client is remembered");
        ends.insert(both[0]);
    }
    assert_eq!(ends.len(), 2);
}

/// Where all endpoints are.
fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1 + n)
}

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const ENDPOINTS: u8 = 4;
const SENDERS: usize = 3;
const FLAPPING: Duration = Duration::from_secs(4);

/// Counts packets to endpoints and drops them. So none makes a connection, and the next one is looked up again.
const COUNT: &str = "table ip count {
    counter found {}
    chain output {
        type filter hook output priority 0
        ip daddr 10.0.0.0/24 udp dport 5353 counter name found drop
    }
}";

fn found() -> u64 {
    let text = Nft::all()[0].run(&["list", "counter", "ip", "count", "found"], "").expect("listable");
    let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.and_then(|number| number.parse().ok()).expect("a number")
}

/// The Service's slice with its first endpoints.
fn slice(endpoints: u8) -> Event {
    added_slice(EndpointSlice {
        ports: vec![SlicePort { protocol: Protocol::Udp, ..slice_port("dns", 5353) }],
        endpoints: (0..endpoints).map(|n| endpoint(IpAddr::from(host(n)), "elsewhere")).collect(),
        ..testing::slice("dns", "", &["10.0.0.1"])
    })
}

#[test]
fn no_packet_is_lost_while_endpoints_come_and_go() {
    let (sent, found) = flap(&[ENDPOINTS - 2, ENDPOINTS, ENDPOINTS - 1, ENDPOINTS]);
    assert_eq!(found, sent);
}

/// A packet that is on its way while a transaction takes effect has the rules from before and the elements from behind it.
#[test]
fn no_packet_leaves_untranslated_while_chains_come_and_go() {
    let (sent, found) = flap(&[1, ENDPOINTS]);
    // One that was to go to an endpoint which goes in that moment is dropped.
    assert!(found <= sent && sent - found < sent / 1_000, "{found} of {sent}");
}

/// Packets that were sent to a Service with these numbers of endpoints in turn, and how many got to one. None leaves
/// untranslated.
fn flap(numbers: &[u8]) -> (u64, u64) {
    let (sent, found, changes) = in_netns(|| {
        let addresses: String = (0..ENDPOINTS).map(|n| format!("addr add {}/32 dev lo\n", host(n))).collect();
        ip_batch(&format!("{addresses}route add 10.96.0.0/12 dev lo src {}", host(0))).expect("addresses");
        let options = Options { families: vec![FAMILY], ..Options::new("node") };
        let (mut controller, reports) = Controller::new(NftKernel::open().expect("nf_tables"), options);
        let service = Service {
            ports: vec![ServicePort { protocol: Protocol::Udp, ..service_port("dns", 53) }],
            ..testing::service("dns", &CLUSTER_IP.to_string())
        };
        let node = added_node(testing::node("node", &["10.0.0.1"]));
        let events = [node, added(service), slice(ENDPOINTS)];
        controller.handle(events.into_iter().chain(all_listed()), Instant::now());
        Nft::all()[0].run(&["-f", "-"], COUNT).expect("loads");
        let (done, sent, mut changes) = (AtomicBool::new(false), AtomicU64::new(0), 0);
        std::thread::scope(|scope| {
            let send = || {
                let socket = UdpSocket::bind((host(0), 0)).expect("bound");
                while !done.load(Ordering::Relaxed) {
                    // An error: it is counted and dropped, or dropped because it has no endpoint. Others leave.
                    socket.send_to(b"ping", (CLUSTER_IP, 53)).expect_err("dropped");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            };
            (0..SENDERS).for_each(|_| drop(scope.spawn(send)));
            let start = Instant::now();
            while start.elapsed() < FLAPPING {
                for endpoints in numbers {
                    controller.handle([slice(*endpoints)], Instant::now());
                    changes += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(reports.borrow().failures, 0);
        (sent.into_inner(), self::found(), changes)
    });
    println!("{found} of {sent} packets arrived while the number of endpoints changed {changes} times");
    assert!(changes > 10 && sent > 1_000);
    (sent, found)
}
