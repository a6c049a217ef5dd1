//! Consistent hashing and weights with real packets: each node is a namespace with a sync loop of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use portway::model::{Balance, Family};
use portway::ruleset::{SetId, Table};
use support::attempt::target;
use support::live::Live;
use support::packets::Probe;
use support::packets::Protocol::{self, Tcp, Udp};
use support::program::program_file;
use support::sticky::{LOCAL, Pair, REMOTE, Shop, client, frontends, settled};
use support::world::Place;

const CLIENTS: u16 = 24;

fn all_pods() -> Vec<Pair> {
    [LOCAL, REMOTE].concat()
}

fn hashing(balance: Balance) -> Shop {
    Shop { balance, endpoints: all_pods(), ..Shop::default() }
}

/// Runs on a node of its own.
fn on_a_node<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

/// What connections ask for: protocol, client, frontend.
fn questions() -> Vec<(Protocol, IpAddr, SocketAddr)> {
    let mut questions = Vec::new();
    for (ipv4, protocol) in [(true, Tcp), (true, Udp), (false, Tcp), (false, Udp)] {
        for n in 0..CLIENTS {
            let place = [Place::Pods, Place::Uplink][usize::from(n % 2)];
            let frontends = frontends(ipv4, protocol);
            questions.push((protocol, client(place, ipv4, n), frontends[usize::from(n) % 3].1));
        }
    }
    questions
}

/// The one endpoint that each question leads to, asked more than once, from another port each time.
fn answers(live: &Live) -> BTreeMap<String, SocketAddr> {
    let ask = |(protocol, from, to): &(Protocol, IpAddr, SocketAddr)| {
        let reached = settled(live, *protocol, *from, *to, 3);
        (format!("{protocol} {from} {to}"), reached.unwrap_or_else(|seen| panic!("{protocol} {from} {to}: {seen:?}")))
    };
    questions().iter().map(ask).collect()
}

fn tables(live: &mut Live) -> [Table; 2] {
    Family::ALL.map(|family| live.read(family).expect("a table"))
}

/// The elements with endpoints that differ between two tables.
fn changed_slots(before: &Table, after: &Table) -> usize {
    let maps = [SetId::Endpoints, SetId::NodeportEndpoints, SetId::LocalEndpoints, SetId::LocalNodeportEndpoints];
    let of = |map: &SetId| {
        after.sets[map].values().filter(|new| before.sets[map].get(&new.key).as_ref() != Some(new)).count()
    };
    maps.iter().map(of).sum()
}

#[test]
fn two_nodes_and_a_restart_lead_a_client_to_the_same_endpoint() {
    let shop = hashing(Balance::SourceIp);
    let first = on_a_node(|| {
        let mut live = shop.open();
        let (first, before) = (answers(&live), tables(&mut live));
        let generation = live.generation().expect("a number");
        live.restart(shop.events()).expect("a restart");
        assert_eq!(live.generation().expect("a number"), generation, "nothing is written");
        let after = tables(&mut live);
        assert_eq!([before[0].sets == after[0].sets, before[1].sets == after[1].sets], [true, true]);
        assert_eq!(answers(&live), first);
        // ClientIP affinity is asked for, and needs no records.
        assert!(Family::ALL.iter().all(|family| live.records(*family).expect("a table").is_empty()));
        assert!(after.iter().all(|table| table.sets[&SetId::AffinityIds].is_empty()));
        first
    });
    let second = on_a_node(|| {
        // This node has seen other endpoints before, and these in another order.
        let mut before = Shop { endpoints: [REMOTE, &LOCAL[1..]].concat(), ..shop.clone() };
        let mut live = before.open();
        before.endpoints = all_pods().into_iter().rev().collect();
        before.change(&mut live);
        answers(&live)
    });
    assert_eq!(first, second);
    let reached: BTreeSet<_> = first.values().collect();
    assert!(reached.len() >= 12, "3 pods with 2 ports in 2 families each: {reached:?}");
}

#[test]
fn an_endpoint_that_goes_moves_its_own_clients_and_its_own_slots() {
    on_a_node(|| {
        let mut shop = Shop { timeout: None, ..hashing(Balance::SourceIp) };
        let mut live = shop.open();
        let (before, tables_before) = (answers(&live), tables(&mut live));
        shop.endpoints.pop();
        shop.change(&mut live);
        let (after, tables_after) = (answers(&live), tables(&mut live));
        let gone = |target: &SocketAddr| REMOTE.iter().flatten().any(|ip| target.ip().to_string() == *ip);
        let moved = before.iter().filter(|(question, target)| !gone(target) && after[*question] != **target).count();
        assert!(before.values().any(gone) && !after.values().any(gone));
        assert!(moved <= 2, "{moved} clients of others moved, of {}", before.len());
        // Six frontends in each family with 1,024 slots; a third of them and a few more change.
        for (before, after) in tables_before.iter().zip(&tables_after) {
            let changed = changed_slots(before, after);
            assert!((6 * 341..6 * 400).contains(&changed), "{changed} slots are written");
        }
    });
}

#[test]
fn a_load_balancer_may_spread_a_clients_packets_over_three_nodes() {
    /// What became of the same packets, from the same ports, on a node.
    fn on_one_of_three(shop: &Shop) -> Vec<Option<SocketAddr>> {
        on_a_node(|| {
            let mut live = shop.open();
            let mut reached = Vec::new();
            for (ipv4, protocol) in [(true, Tcp), (true, Udp), (false, Udp)] {
                let (_, to) = frontends(ipv4, protocol)[2];
                for n in 0..CLIENTS {
                    let from = client(Place::Uplink, ipv4, n);
                    for port in [30_001, 30_002] {
                        let Probe { tag, .. } = live.numbers.between(protocol, from, to);
                        let probe = Probe { tag, protocol, source: SocketAddr::new(from, port), target: to };
                        let outcomes = live.send(Place::Uplink, vec![probe]).expect("sent");
                        reached.push(target(&outcomes[0].1));
                    }
                }
            }
            let records: usize = Family::ALL.iter().map(|family| live.records(*family).expect("a table").len()).sum();
            assert_eq!(records == 0, shop.balance != Balance::Random, "{records} records");
            reached
        })
    }
    let of_three = |shop: &Shop| [(); 3].map(|()| on_one_of_three(shop));
    let [one, two, three] = of_three(&hashing(Balance::SourceIp));
    assert!(one.iter().all(Option::is_some) && one == two && two == three, "{one:?}\n{two:?}\n{three:?}");
    assert!(one.chunks(2).all(|ports| ports[0] == ports[1]), "a client stays with its endpoint: {one:?}");
    // By address and port with affinity it is the address that counts.
    assert_eq!(on_one_of_three(&hashing(Balance::SourceIpPort)), one);
    // Records of one node are nothing to others.
    let [one, two, three] = of_three(&hashing(Balance::Random));
    assert!(one.chunks(2).all(|ports| ports[0] == ports[1]) && (one != two || two != three), "what is this good for?");
}

#[test]
fn by_address_and_port_connections_of_a_client_are_spread() {
    let shop = Shop { timeout: None, ..hashing(Balance::SourceIpPort) };
    let ask = || {
        on_a_node(|| {
            let live = shop.open();
            let ask = |ipv4: bool| {
                let (from, (_, to)) = (client(Place::Uplink, ipv4, 1), frontends(ipv4, Tcp)[1]);
                live.connect(Place::Uplink, Tcp, from, to, 60).expect("packets").iter().map(target).collect::<Vec<_>>()
            };
            [true, false].map(ask)
        })
    };
    let [first, second] = [ask(), ask()];
    assert_eq!(first, second, "the same ports on another node");
    for answers in first {
        let reached: BTreeSet<_> = answers.iter().flatten().collect();
        assert!(reached.len() == 3 && answers.iter().all(Option::is_some), "{answers:?}");
    }
}

#[test]
fn weights_count_without_hashing_too() {
    on_a_node(|| {
        let weights = vec![(LOCAL[0][0], 6), (LOCAL[1][0], 3)];
        let mut shop = Shop { timeout: None, weights, ..hashing(Balance::Random) };
        let live = shop.open();
        let (_, to) = frontends(true, Udp)[0];
        let outcomes = live.connect(Place::Pods, Udp, client(Place::Pods, true, 1), to, 600).expect("packets");
        let count = |pod: &Pair| {
            outcomes.iter().filter(|outcome| target(outcome).is_some_and(|t| t.ip().to_string() == pod[0])).count()
        };
        let counts = [count(&LOCAL[0]), count(&LOCAL[1]), count(&REMOTE[0])];
        // Five standard deviations around 360, 180 and 60.
        for (count, (share, deviation)) in counts.iter().zip([(360, 60), (180, 56), (60, 37)]) {
            assert!(count.abs_diff(share) <= deviation, "{counts:?}");
        }
        // All alike again they take a slot each.
        let mut live = live;
        shop.weights.clear();
        shop.change(&mut live);
        let table = live.read(Family::Ipv4).expect("a table");
        assert_eq!(table.sets[&SetId::Endpoints].len(), 4 * 3);
    });
}

#[test]
fn commands_name_the_balance() {
    let explain = |arguments: &[&str]| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/rules/balancing");
        let output = Command::new(program_file())
            .args(["explain", "--manifests", folder, "--hostname-override=node-a", "--cluster-cidr=10.244.0.0/16"])
            .args(arguments)
            .output()
            .expect("the program");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = explain(&["--from", "10.244.1.9", "10.96.3.1:80"]);
    assert!(text.contains("100.0 %  to 10.244."), "one endpoint:\n{text}");
    for said in
        ["hash-1024: dnat", "balance=source-ip", "endpoints are chosen by source-ip: a client gets the same one"]
    {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    let text = explain(&["--from", "10.244.1.9", "10.96.3.2:53/UDP"]);
    assert!(text.contains("50.0 %  to 10.244."), "without a port it may be any:\n{text}");
    let text = explain(&["--from", "10.244.1.9", "--from-port", "4711", "10.96.3.2:53/UDP"]);
    assert!(text.contains("100.0 %  to 10.244."), "{text}");
    let text = explain(&["--from", "10.244.1.9", "10.96.3.3:80"]);
    assert!(text.contains("90.0 %  to 10.244.2.36:8080") && text.contains("at random; weights count"), "{text}");
}
