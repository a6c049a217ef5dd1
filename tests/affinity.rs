//! Session affinity with real packets: each test has a node of its own, with the sync loop in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portway::model::Family;
use portway::ruleset::{Element, Value};
use support::live::Live;
use support::netns::output_of;
use support::nft::Nft;
use support::packets::Protocol::{Tcp, Udp};
use support::sticky::{HOST, LOCAL, REMOTE, Shop, client, frontends, outside, place_of, settled, targets};
use support::world::Place;

/// New connections that must all end at one place.
const CONNECTIONS: usize = 15;

/// Everybody, over everything, `CONNECTIONS` times.
fn everybody_stays(live: &Live) {
    let mut seen: BTreeMap<(bool, &str), BTreeSet<SocketAddr>> = BTreeMap::new();
    for (ipv4, protocol) in [(true, Tcp), (true, Udp), (false, Tcp), (false, Udp)] {
        for (name, to) in frontends(ipv4, protocol) {
            let pods = (0..4).map(|n| client(Place::Pods, ipv4, n));
            let outside = (0..4).map(|n| client(Place::Uplink, ipv4, n));
            for from in pods.chain(outside).chain([client(Place::Node, ipv4, 0)]) {
                let target = settled(live, protocol, from, to, CONNECTIONS);
                let target = target.unwrap_or_else(|seen| panic!("{name} {to} {protocol} from {from}: {seen:?}"));
                seen.entry((ipv4, name)).or_default().insert(target);
            }
        }
    }
    // Nine clients on one of three endpoints, at two ports: once in 3^17.
    for (frontend, targets) in seen {
        assert!(targets.len() > 1, "{frontend:?}: everybody is sent to {targets:?}");
    }
}

#[test]
fn a_client_stays_over_every_frontend() {
    let shop = Shop { endpoints: [LOCAL, REMOTE].concat(), ..Shop::default() };
    everybody_stays(&shop.open());
}

#[test]
fn a_client_stays_with_endpoints_on_the_host_network() {
    // These connections end on the node and never pass postrouting: the input hook remembers them.
    let live = Shop { endpoints: HOST.to_vec(), ..Shop::default() }.open();
    everybody_stays(&live);
}

#[test]
fn without_affinity_clients_move() {
    let shop = Shop { endpoints: [LOCAL, HOST].concat(), timeout: None, ..Shop::default() };
    let mut live = shop.open();
    for (name, to) in frontends(true, Tcp) {
        let moved = settled(&live, Tcp, outside(1), to, CONNECTIONS).is_err();
        assert!(moved, "{name}: the tests above cannot tell affinity from chance");
    }
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0);
}

#[test]
fn a_record_lives_as_long_as_new_connections_come() {
    let shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), timeout: Some(2), ..Shop::default() };
    let mut live = shop.open();
    for (name, to) in frontends(true, Udp) {
        let first = targets(&live, Udp, to, 0..12);
        // Three times 1.2 s are more than 2 s, but no gap is.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(1200));
            assert_eq!(targets(&live, Udp, to, 0..12), first, "{name}");
        }
        std::thread::sleep(Duration::from_millis(2300));
        assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "{name}: records outlive their timeout");
        assert_ne!(targets(&live, Udp, to, 0..12), first, "{name}: twelve clients chose the same by chance");
    }
}

#[test]
fn traffic_within_a_connection_does_not_keep_the_record() {
    // Not on the host network: the node would answer a SYN with a reset, and the next one were a new connection.
    let shop = Shop { endpoints: [LOCAL, REMOTE].concat(), timeout: Some(2), ..Shop::default() };
    let mut live = shop.open();
    for protocol in [Tcp, Udp] {
        let [(_, to), ..] = frontends(true, protocol);
        let probe = live.numbers.between(protocol, outside(1), to);
        for _ in 0..8 {
            let seen = live.send(Place::Uplink, vec![probe.clone()]).expect("a packet");
            assert!(support::attempt::target(&seen[0].1).is_some(), "the connection is cut: {seen:?}");
            std::thread::sleep(Duration::from_millis(290));
        }
        assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "{protocol}: 2.3 s after the last new one");
    }
}

#[test]
fn endpoints_that_come_move_nobody() {
    let mut shop = Shop { endpoints: LOCAL.to_vec(), ..Shop::default() };
    let mut live = shop.open();
    for ((name, to), first) in frontends(true, Tcp).into_iter().zip([0, 200, 400]) {
        shop.endpoints = LOCAL.to_vec();
        shop.change(&mut live);
        let before = targets(&live, Tcp, to, first..first + 20);
        shop.endpoints = [LOCAL, REMOTE, HOST].concat();
        shop.change(&mut live);
        assert_eq!(targets(&live, Tcp, to, first..first + 20), before, "{name}");
        let newcomers = targets(&live, Tcp, to, first + 100..first + 180);
        let newcomers: BTreeSet<SocketAddr> = newcomers.into_values().collect();
        assert_eq!(newcomers.len(), shop.endpoints.len(), "{name}: new clients reach all");
    }
}

#[test]
fn only_clients_of_a_removed_endpoint_move() {
    let all = [LOCAL, REMOTE, HOST].concat();
    let mut shop = Shop { endpoints: all.clone(), ..Shop::default() };
    let mut live = shop.open();
    for ((name, to), first) in frontends(true, Tcp).into_iter().zip([0, 100, 200]) {
        for gone in [LOCAL[0], REMOTE[0], HOST[0]] {
            let address: IpAddr = gone[0].parse().expect("valid");
            let before = targets(&live, Tcp, to, first..first + 40);
            shop.endpoints.retain(|endpoint| *endpoint != gone);
            shop.change(&mut live);
            let after = targets(&live, Tcp, to, first..first + 40);
            let mut moved = 0;
            for (client, target) in &before {
                if target.ip() == address {
                    moved += 1;
                    assert_ne!(after[client].ip(), address, "{name}: {client} is sent to what is gone");
                } else {
                    assert_eq!(after[client], *target, "{name}: {client} has moved");
                }
            }
            assert!(moved > 0, "nobody was on {address}");
            // It comes back, and nobody is remembered there.
            shop.endpoints = all.clone();
            shop.change(&mut live);
            assert_eq!(targets(&live, Tcp, to, first..first + 40), after, "{name}: {address} came back");
        }
    }
}

#[test]
fn switching_off_forgets() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let every_frontend = |live: &Live| -> Vec<_> {
        frontends(true, Tcp).map(|(_, to)| targets(live, Tcp, to, 0..20)).into_iter().collect()
    };
    let before = every_frontend(&live);
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 20, "one for each client");
    shop.timeout = None;
    shop.change(&mut live);
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "switched off");
    every_frontend(&live);
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "still switched off");
    shop.timeout = Some(10_800);
    shop.change(&mut live);
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "on again starts empty");
    let after = every_frontend(&live);
    assert_ne!(after, before, "twenty clients chose the same by chance");
    assert_eq!(every_frontend(&live), after);
}

#[test]
fn a_new_timeout_takes_effect() {
    let mut shop = Shop { endpoints: [LOCAL, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let [(_, cluster_ip), ..] = frontends(true, Tcp);
    let before = targets(&live, Tcp, cluster_ip, 0..10);
    shop.timeout = Some(1);
    shop.change(&mut live);
    assert_eq!(targets(&live, Tcp, cluster_ip, 0..10), before, "a new timeout moves nobody");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 0, "shorter");
    targets(&live, Tcp, cluster_ip, 0..10);
    shop.timeout = Some(60);
    shop.change(&mut live);
    let before = targets(&live, Tcp, cluster_ip, 0..10);
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 10, "longer");
    assert_eq!(targets(&live, Tcp, cluster_ip, 0..10), before);
}

#[test]
fn records_survive_a_restart() {
    let shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let before = frontends(true, Tcp).map(|(_, to)| targets(&live, Tcp, to, 0..20));
    let generation = live.generation().expect("a generation");
    live.restart(shop.events()).expect("the table is taken over");
    assert_eq!(live.generation().expect("a generation"), generation, "nothing was written");
    assert_eq!(frontends(true, Tcp).map(|(_, to)| targets(&live, Tcp, to, 0..20)), before);
}

#[test]
fn what_became_stale_while_nobody_watched_is_forgotten() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let [(_, to), ..] = frontends(true, Tcp);
    let before = targets(&live, Tcp, to, 0..40);
    shop.endpoints.retain(|endpoint| *endpoint != LOCAL[0]);
    live.restart(shop.events()).expect("the table is taken over");
    let gone: IpAddr = LOCAL[0][0].parse().expect("valid");
    for (client, target) in targets(&live, Tcp, to, 0..40) {
        assert_ne!(target.ip(), gone);
        assert!(before[&client].ip() == gone || before[&client] == target, "{client} has moved");
    }
}

#[test]
fn policy_local_leaves_nobody_on_remote_endpoints() {
    let mut shop = Shop { endpoints: [LOCAL, REMOTE, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let here: BTreeSet<IpAddr> =
        [LOCAL, HOST].concat().iter().map(|endpoint| endpoint[0].parse().expect("valid")).collect();
    for (name, to) in frontends(true, Tcp) {
        (shop.external_local, shop.internal_local) = (false, false);
        shop.change(&mut live);
        let before = targets(&live, Tcp, to, 0..30);
        assert!(before.values().any(|target| !here.contains(&target.ip())), "{name}: nobody was on a remote one");
        (shop.external_local, shop.internal_local) = (true, true);
        shop.change(&mut live);
        let after = targets(&live, Tcp, to, 0..30);
        for (client, target) in &after {
            assert!(here.contains(&target.ip()), "{name}: {client} is still sent to {target}");
        }
        assert_eq!(targets(&live, Tcp, to, 0..30), after, "{name}");
    }
}

#[test]
fn a_thousand_clients_on_a_hundred_endpoints_need_no_rule() {
    let mut shop = Shop { endpoints: [LOCAL, HOST].concat(), ..Shop::default() };
    let mut live = shop.open();
    let rules = |live: &mut Live| -> usize {
        let table = live.read(Family::Ipv4).expect("a table");
        table.chains.values().map(Vec::len).sum()
    };
    let with_few = rules(&mut live);
    let many: Vec<String> = (0..100).map(|n| format!("10.1.1.{}", 50 + n)).collect();
    shop.more = many.clone();
    shop.endpoints = Vec::new();
    shop.change(&mut live);
    assert_eq!(rules(&mut live), with_few, "endpoints cost no rules");
    let [(_, to), ..] = frontends(true, Tcp);
    let clients = || (0..1000_u16).collect::<Vec<_>>();
    let reach = |live: &Live| -> BTreeMap<IpAddr, SocketAddr> {
        clients().chunks(32).flat_map(|chunk| together(live, to, chunk)).collect()
    };
    let first = reach(&live);
    assert_eq!(rules(&mut live), with_few, "clients cost no rules");
    assert_eq!(live.records(Family::Ipv4).expect("a table").len(), 1000);
    let reached: BTreeSet<SocketAddr> = first.values().copied().collect();
    // 100 (99/100)^1000 endpoints are missed on average, that is 0.004.
    assert!(reached.len() >= 98, "only {} endpoints are used", reached.len());
    for _ in 0..3 {
        assert_eq!(reach(&live), first, "each client stays");
    }
}

/// Where clients outside are sent, all at once.
fn together(live: &Live, to: SocketAddr, clients: &[u16]) -> Vec<(IpAddr, SocketAddr)> {
    let probes = clients.iter().map(|n| live.numbers.between(Tcp, outside(*n), to)).collect();
    let outcomes = live.send(place_of(outside(0)), probes).expect("packets");
    let target = |(probe, outcome): &(support::packets::Probe, _)| {
        (probe.source.ip(), support::attempt::target(outcome).unwrap_or_else(|| panic!("{probe:?} got lost")))
    };
    outcomes.iter().map(target).collect()
}

/// A packet chooses its endpoint in the prerouting hook, and its client is remembered in a later hook. Rules and elements may be
/// replaced in between: records are deleted only when all such packets have passed.
#[test]
fn a_packet_that_met_old_rules_leaves_no_record_behind() {
    // How long the packet is to be on its way, at least.
    const LONG: Duration = Duration::from_millis(60);
    let [first, second] = [LOCAL[0], LOCAL[1]];
    let mut shop = Shop { endpoints: vec![first], ..Shop::default() };
    // Where nobody owns the tables reading them waits in any case, for the transactions of others.
    let mut live = shop.open_owned();
    let [(_, to), ..] = frontends(true, Udp);
    // Between both hooks each packet of the client passes 500 x 500 rules, or more where the machine is fast.
    let mut rules = 500;
    loop {
        output_of("nft", &["delete", "table", "ip", "slow"]);
        Nft::all()[0].run(&["-f", "-"], &slow_forwarding(rules)).expect("loaded");
        let probe = live.numbers.between(Udp, outside(0), to);
        let begin = Instant::now();
        live.world.send(Place::Uplink, &probe).expect("a packet");
        if begin.elapsed() >= LONG {
            break;
        }
        assert!(rules < 20_000, "packets cannot be held up: {:?} with {rules} rules", begin.elapsed());
        rules = rules * 3 / 2;
    }
    let mut overtaken = 0;
    for (n, gone, left) in (1..=10).flat_map(|n| [(2 * n, first, second), (2 * n + 1, second, first)]) {
        shop.endpoints = vec![left];
        let probe = live.numbers.between(Udp, outside(n), to);
        let beside = live.handle_during(Place::Uplink, &probe, LONG / 6, shop.objects()).expect("a sync");
        overtaken += usize::from(beside.began < beside.passed);
        let address: IpAddr = gone[0].parse().expect("valid");
        let records = live.records(Family::Ipv4).expect("a table");
        let stale = records.iter().filter(|(_, record)| endpoint_of(record) == Some(address)).count();
        assert_eq!(stale, 0, "client {n} is remembered at {address}, which is gone");
    }
    // With one CPU nothing else happens while the kernel handles a packet.
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        assert!(overtaken >= 5, "a sync began while the packet was on its way {overtaken} times of 20");
    }
}

/// A table in which forwarding a packet of these tests' clients takes long.
fn slow_forwarding(rules: usize) -> String {
    // Never so, but the kernel looks each time.
    let never = "meta mark 0xfffffffe meta mark 0xfffffffd drop\n";
    let (slow, often) = (never.repeat(rules), "jump slow\n".repeat(rules));
    format!(
        "table ip slow {{
            chain slow {{
                {slow}
            }}
            chain often {{
                {often}
            }}
            chain forward {{
                type filter hook forward priority 0
                ip saddr 172.20.0.0/16 jump often
            }}
        }}"
    )
}

/// The endpoint that a record leads to.
fn endpoint_of(record: &Element) -> Option<IpAddr> {
    match &record.value {
        Value::Data(data) => Some(IpAddr::from(<[u8; 4]>::try_from(data.as_slice().get(..4)?).ok()?)),
        _ => None,
    }
}
