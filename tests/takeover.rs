//! The swap: kube-proxy's rules to ours and back, and from the table of an earlier version, under a client that connects
//! without pause. And both proxies side by side.

use std::io::{BufRead as _, BufReader};

use support::kube_proxy;
use support::one_pod::{Client, OnePodNetwork, kill, manifests, output, pod_slice, start, terminate};
use support::program::program_file;
use support::wait::eventually;

/// The shape of our own table when affinity records were kept for each address and port.
const EARLIER: &str = "
table ip portway {
    map services {
        type ipv4_addr . inet_proto . inet_service : verdict
        counter
    }
    map affinity {
        type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
        size 131072
        flags dynamic,timeout
    }
    chain sticky-1 {
        dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity
        meta l4proto tcp dnat to 10.244.1.2:8080
    }
    chain dispatch {
        ip daddr . meta l4proto . th dport vmap @services
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump dispatch
    }
}
add element ip portway services { 10.96.0.1 . tcp . 80 : goto sticky-1 }
";

/// The rules of our own table when those of IPv4 said `meta l4proto` and all connections jumped to `dispatch`.
const EARLIER_RULES: &str = "
flush chain ip portway dispatch
add rule ip portway dispatch ip daddr . meta l4proto . th dport vmap @services
flush chain ip portway prerouting
add rule ip portway prerouting jump dispatch
flush chain ip portway postrouting
add rule ip portway postrouting ip saddr 10.244.0.0/16 ip daddr != @after-dnat-endpoints return
add rule ip portway postrouting ct status dnat jump after-dnat
";

/// A Service for the proxy named `portway`, and the range of all ClusterIPs.
fn labelled() -> String {
    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: default, name: ours, labels: {service.kubernetes.io/service-proxy-name: portway}}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12]}
---
";
    format!("{SERVICE}{}", pod_slice("ours"))
}

#[test]
fn rules_go_there_and_back_without_a_lost_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    network.load(&kube_proxy::rules(&["10.96.0.1"]));
    let asking = Client::start(network.client.clone(), "10.96.0.1:80");
    asking.ask(300);

    let child = network.portway(folder.path(), &manifests(), &["--takeover"]);
    eventually("the takeover", || {
        let tables = output(&network.node, "nft", &["list", "tables"]);
        tables.contains("portway") && !tables.contains("kube-proxy")
    });
    let counter = || {
        let services = output(&network.node, "nft", &["list", "map", "ip", "portway", "services"]);
        services.lines().find(|line| line.contains("10.96.0.1 . tcp . 80")).expect("the Service").to_owned()
    };
    let before = counter();
    asking.ask(500);
    assert_ne!(counter(), before, "Portway decides");

    // Rules that come later decide: of equal priorities the newer comes first, so Portway's counters stand still. Its tables can
    // go at any time then. (The whole way back, with ports: way_back.rs.)
    network.load(&kube_proxy::rules(&["10.96.0.1"]));
    let before = counter();
    asking.ask(200);
    assert_eq!(counter(), before);
    kill(child);
    asking.ask(200);
    let mut cleanup = start(&network.node, program_file(), &["cleanup", "--stay"]);
    let mut said = BufReader::new(cleanup.stdout.take().expect("piped")).lines();
    assert!(said.any(|line| line.expect("text").starts_with("staying")), "it stays");
    assert!(!output(&network.node, "nft", &["list", "tables"]).contains("portway"));
    asking.ask(500);
    assert!(terminate(&mut cleanup).success(), "told to stop, it ends");

    println!("{} connections through both swaps, none lost", asking.lost_nothing());
}

#[test]
fn the_table_of_an_earlier_version_is_replaced_without_a_lost_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    network.load(EARLIER);
    let asking = Client::start(network.client.clone(), "10.96.0.1:80");
    asking.ask(300);
    let table = || output(&network.node, "nft", &["list", "map", "ip", "portway", "affinity"]);
    assert!(!table().contains("classid"));
    let child = network.portway(folder.path(), &manifests(), &[]);
    eventually("the new table", || table().contains("classid"));
    asking.ask(500);
    kill(child);
    asking.lost_nothing();
}

#[test]
fn rules_of_an_earlier_version_are_replaced_and_elements_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    // Else `nft` could not change its table.
    let run = || network.portway(folder.path(), &manifests(), &["--no-table-ownership"]);
    let rules = || output(&network.node, "nft", &["-s", "list", "table", "ip", "portway"]);
    let child = run();
    eventually("the table", || output(&network.node, "nft", &["list", "ruleset"]).contains("hook postrouting"));
    let ours = rules();
    kill(child);
    network.load(EARLIER_RULES);
    assert_ne!(rules(), ours);

    let asking = Client::start(network.client.clone(), "10.96.0.1:80");
    asking.ask(300);
    let child = run();
    eventually("the new rules", || rules() == ours);
    asking.ask(500);
    kill(child);
    let asked = asking.lost_nothing();
    let services = output(&network.node, "nft", &["list", "map", "ip", "portway", "services"]);
    let counted = services.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert_eq!(counted, Some(asked), "counted on through the restart: {services}");
}

#[test]
fn beside_kube_proxy_each_serves_its_services() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    network.load(&kube_proxy::rules(&["10.96.0.1"]));
    let theirs = Client::start(network.client.clone(), "10.96.0.1:80");
    theirs.ask(100);
    let child = network.portway(folder.path(), &(manifests() + &labelled()), &["--service-proxy-name", "portway"]);
    eventually("our table", || output(&network.node, "nft", &["list", "ruleset"]).contains("default/ours"));
    let table = output(&network.node, "nft", &["list", "table", "ip", "portway"]);
    assert!(!table.contains("default/web"), "{table}");

    let ours = Client::start(network.client.clone(), "10.96.0.2:80");
    ours.ask(200);
    theirs.ask(200);
    for client in [ours, theirs] {
        client.lost_nothing();
    }
    kill(child);
}
