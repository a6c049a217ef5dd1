//! One record for all frontends of a Service port: real packets, each test with a node of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use portway::config::DetectLocal;
use portway::model::{Family, Protocol as ModelProtocol};
use portway::plan::Target;
use portway::trace::{End, Host, Packet, trace};
use support::live::Live;
use support::netns::output_of;
use support::packets::Protocol::{self, Tcp, Udp};
use support::scenes::node_addresses;
use support::sticky::{HOST, LOCAL, Pair, REMOTE, Shop, client, frontends, outside, settled, targets};
use support::world::Place;

/// Connections through each frontend.
const TIMES: usize = 2;

/// Where a client is sent through ClusterIP, NodePort and load balancer address: always the same for each of them.
/// `first` is the frontend it uses first.
fn through_all(live: &Live, protocol: Protocol, from: IpAddr, first: usize) -> [SocketAddr; 3] {
    let all = frontends(from.is_ipv4(), protocol);
    let mut found = [None; 3];
    for at in (0..3).map(|n| (first + n) % 3) {
        let (name, to) = all[at];
        let target = settled(live, protocol, from, to, TIMES);
        found[at] = Some(target.unwrap_or_else(|seen| panic!("{name} {to} {protocol} from {from}: {seen:?}")));
    }
    let [(_, cluster_ip), ..] = all;
    assert_eq!(settled(live, protocol, from, cluster_ip, 1).ok(), found[0], "{from}: the others have moved it");
    found.map(|target| target.expect("visited"))
}

/// Clients of a family at a place.
fn clients(place: Place, ipv4: bool, count: u16) -> impl Iterator<Item = (usize, IpAddr)> {
    let count = if place == Place::Node { 1 } else { count };
    (0..count).map(move |n| (usize::from(n), client(place, ipv4, n)))
}

fn addresses(endpoints: &[&[Pair]]) -> BTreeSet<IpAddr> {
    endpoints.concat().iter().flatten().map(|address| address.parse().expect("valid")).collect()
}

/// Counts packets of translated connections that carry a priority: between the hooks, and at the end of their way.
fn watch_priorities() {
    let rules = "table inet look {
        chain between { type filter hook prerouting priority 0; ct status dnat meta priority != none counter; }
        chain delivered { type filter hook input priority 300; ct status dnat meta priority != none counter; }
        chain sent { type filter hook postrouting priority 300; ct status dnat meta priority != none counter; }
    }";
    load(rules);
}

fn load(rules: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.nft");
    std::fs::write(&file, rules).expect("writable");
    let status = Command::new("nft").arg("-f").arg(&file).status().expect("nft");
    assert!(status.success(), "nft -f");
}

fn assert_priorities_are_gone() {
    let packets = |chain| -> u64 {
        let text = output_of("nft", &["list", "chain", "inet", "look", chain]);
        let (_, count) = text.split_once("packets ").expect("a counter");
        count.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
    };
    assert_ne!(packets("between"), 0, "this test cannot see priorities");
    assert_eq!((packets("delivered"), packets("sent")), (0, 0), "packets keep the ID as their priority");
}

#[test]
fn a_client_meets_one_endpoint_through_every_frontend() {
    let mut shop = Shop::default();
    let mut live = shop.open();
    watch_priorities();
    for endpoints in [[LOCAL, REMOTE].concat(), HOST.to_vec()] {
        shop.endpoints = endpoints;
        shop.change(&mut live);
        for (ipv4, protocol) in [(true, Tcp), (true, Udp), (false, Tcp), (false, Udp)] {
            let mut reached = BTreeSet::new();
            for place in [Place::Pods, Place::Uplink, Place::Node] {
                for (n, from) in clients(place, ipv4, 8) {
                    let [one, two, three] = through_all(&live, protocol, from, n);
                    assert_eq!([two, three], [one, one], "{from} {protocol}");
                    reached.insert(one);
                }
            }
            // Seventeen clients on one of two endpoints.
            assert!(reached.len() > 1, "everybody is sent to {reached:?}");
        }
    }
    assert_priorities_are_gone();
}

#[test]
fn ports_of_a_service_have_records_of_their_own() {
    let shop = Shop { endpoints: [LOCAL, REMOTE].concat(), ..Shop::default() };
    let mut live = shop.open();
    let to = |protocol| frontends(true, protocol)[1].1;
    let pods = |protocol| -> BTreeMap<IpAddr, IpAddr> {
        let reached = targets(&live, protocol, to(protocol), 0..24);
        reached.into_iter().map(|(client, target)| (client, target.ip())).collect()
    };
    assert_ne!(pods(Tcp), pods(Udp), "24 clients chose the same of three twice by chance");
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 48);
}

/// Every way of telling pods from others, with the places whose connections count as from inside.
fn detections() -> Vec<(DetectLocal, Vec<Place>)> {
    vec![
        (Shop::default().detect_local, vec![Place::Pods, Place::Node]),
        (DetectLocal::BridgeInterface("cbr0".to_owned()), vec![Place::Pods, Place::Node]),
        (DetectLocal::InterfaceNamePrefix("cali".to_owned()), vec![Place::Pods, Place::Node]),
        (DetectLocal::ClusterCidr(Vec::new()), vec![Place::Node]),
    ]
}

#[test]
fn external_policy_local_keeps_outside_clients_off_their_remote_endpoint() {
    for (detect_local, inside) in detections() {
        for here in [LOCAL, HOST] {
            std::thread::scope(|scope| {
                let play = || external_policy_local(detect_local.clone(), &inside, here);
                scope.spawn(play).join().unwrap_or_else(|_| panic!("{detect_local:?}, {here:?}"));
            });
        }
    }
}

fn external_policy_local(detect_local: DetectLocal, inside: &[Place], here: &'static [Pair]) {
    let endpoints = [here, REMOTE].concat();
    let mut live = Shop { endpoints, external_local: true, detect_local, ..Shop::default() }.open();
    watch_priorities();
    let local = addresses(&[here]);
    let (mut split, mut seen) = (0, Vec::new());
    for (ipv4, protocol) in [(true, Tcp), (true, Udp), (false, Tcp), (false, Udp)] {
        for place in [Place::Pods, Place::Uplink, Place::Node] {
            for (n, from) in clients(place, ipv4, 8) {
                let [cluster_ip, node_port, load_balancer] = through_all(&live, protocol, from, n);
                assert_eq!(node_port, load_balancer, "{from} {protocol}");
                seen.extend([(place, protocol, from, 0, cluster_ip), (place, protocol, from, 1, node_port)]);
                if inside.contains(&place) {
                    assert_eq!(cluster_ip, node_port, "{from} {protocol} takes any endpoint everywhere");
                } else {
                    assert!(local.contains(&node_port.ip()), "{from} {protocol} is sent to {node_port}");
                    split += usize::from(!local.contains(&cluster_ip.ip()));
                }
            }
        }
    }
    // Of 32 clients or more, a third: none happens once in 400,000 times.
    assert!(split > 0, "nobody was remembered on a remote endpoint");
    assert_priorities_are_gone();
    assert_tracer_knows(&mut live, &seen);
}

/// Asks the tracer, with the records of the kernel's table, where clients go through the frontend with that number.
fn assert_tracer_knows(live: &mut Live, seen: &[(Place, Protocol, IpAddr, usize, SocketAddr)]) {
    let host = Host { addresses: node_addresses().into_iter().collect() };
    for family in Family::ALL {
        let (listing, unknown) = live.read(family).expect("a table").listing(family);
        assert_eq!(unknown, [""; 0]);
        for &(place, protocol, source, frontend, target) in seen.iter().filter(|seen| Family::of(seen.2) == family) {
            let (name, to) = frontends(source.is_ipv4(), protocol)[frontend];
            let interface = match place {
                Place::Node => None,
                Place::Pods => Some(live.layout.pod_interface.name().to_owned()),
                Place::Uplink => Some("uplink0".to_owned()),
            };
            let number = ModelProtocol::from_number(protocol.number()).expect("known");
            let packet = Packet { source, destination: to.ip(), protocol: number, port: to.port(), interface };
            let trace = trace(&listing, &host, &packet);
            let (ip, port) = (target.ip(), target.port());
            let [(End::Translated { target, .. }, share)] = trace.ends[..] else {
                panic!("{source}, {name}: {trace:#?}")
            };
            assert_eq!((target, share), (Target { ip, port }, 1.0), "{source} {protocol}, {name}");
        }
    }
}

#[test]
fn internal_policy_local_shares_records_with_external_policy_local_only() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE].concat(), internal_local: true, ..Shop::default() };
    let mut live = shop.open();
    let local = addresses(&[LOCAL]);
    for external_local in [false, true] {
        shop.external_local = external_local;
        shop.change(&mut live);
        let mut apart = 0;
        for place in [Place::Pods, Place::Uplink] {
            for (n, from) in clients(place, true, 16) {
                let [cluster_ip, node_port, load_balancer] = through_all(&live, Tcp, from, n);
                assert!(local.contains(&cluster_ip.ip()), "{from} is sent to {cluster_ip}");
                assert_eq!(node_port, load_balancer, "{from}");
                if external_local && place == Place::Uplink {
                    assert_eq!(cluster_ip, node_port, "{from}");
                } else {
                    apart += usize::from(cluster_ip != node_port);
                }
            }
        }
        // Each of 16 clients or more chooses twice, among two and among three.
        assert!(apart > 0, "sets with other endpoints have the same records");
    }
}

#[test]
fn frontends_that_come_and_go_leave_records_alone() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), load_balancer: false, ..Shop::default() };
    let mut live = shop.open();
    let [(_, cluster_ip), (_, node_port), (_, load_balancer)] = frontends(true, Tcp);
    let before = targets(&live, Tcp, cluster_ip, 0..20);
    shop.load_balancer = true;
    shop.change(&mut live);
    assert_eq!(targets(&live, Tcp, load_balancer, 0..20), before, "through the new frontend");
    shop.load_balancer = false;
    shop.change(&mut live);
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 20);
    assert_eq!(targets(&live, Tcp, node_port, 0..20), before, "without it");
    // The same while nobody watches.
    shop.load_balancer = true;
    live.restart(shop.events()).expect("the table is taken over");
    assert_eq!(targets(&live, Tcp, load_balancer, 0..20), before, "after a restart");
}

#[test]
fn a_full_map_serves_without_memory() {
    let live = Shop { endpoints: [LOCAL, HOST].concat(), ..Shop::default() }.open();
    watch_priorities();
    let other =
        |n: u32| format!("{} . tcp . fffe:1 timeout 3h : 10.1.0.1 . 1", std::net::Ipv4Addr::from(0xc000_0000 + n));
    let elements: Vec<String> = (0..131_072).map(other).collect();
    load(&format!("add element ip portway affinity {{ {} }}", elements.join(", ")));
    for (_, to) in frontends(true, Tcp) {
        assert!(settled(&live, Tcp, outside(1), to, 16).is_err(), "there is no room for a record");
        targets(&live, Tcp, to, 0..8);
    }
    assert_priorities_are_gone();
}
