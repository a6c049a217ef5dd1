//! The swap: kube-proxy's rules to ours and back, and from the table of an earlier version, under a client that connects
//! without pause. And both proxies side by side.

mod support;

use std::io::{BufRead as _, BufReader};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::one_pod::{Client, MANIFESTS, OnePodNetwork, PORTWAY, output, start};
use support::wait::eventually;

/// kube-proxy 1.36's shape for one Service, in its nftables mode.
const KUBE_PROXY: &str = "
table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain endpoint-A {
        meta l4proto tcp dnat to 10.244.1.2:8080
    }
    chain service-A {
        ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        numgen random mod 1 vmap { 0 : goto endpoint-A }
    }
    chain mark-for-masquerade {
        meta mark set meta mark | 0x4000
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain filter-forward {
        type filter hook forward priority filter; policy accept;
        ct state new ip daddr 10.96.0.0/12 drop
    }
}
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-A }
";

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
const LABELLED: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: default, name: ours, labels: {service.kubernetes.io/service-proxy-name: portway}}
spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: ours-1, labels: {kubernetes.io/service-name: ours}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.244.1.2], nodeName: node-a}]
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12]}
";

#[test]
fn rules_go_there_and_back_without_a_lost_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    network.load(KUBE_PROXY);
    let asking = Client::start(network.client.clone(), "10.96.0.1:80");
    asking.ask(300);

    let mut child = network.portway(folder.path(), MANIFESTS, &["--takeover"]);
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
    network.load(KUBE_PROXY);
    let before = counter();
    asking.ask(200);
    assert_eq!(counter(), before);
    child.kill().expect("killed");
    child.wait().expect("ended");
    asking.ask(200);
    let mut cleanup = start(&network.node, PORTWAY, &["cleanup", "--stay"]);
    let mut said = BufReader::new(cleanup.stdout.take().expect("piped")).lines();
    assert!(said.any(|line| line.expect("text").starts_with("staying")), "it stays");
    assert!(!output(&network.node, "nft", &["list", "tables"]).contains("portway"));
    asking.ask(500);
    let pid = Pid::from_raw(i32::try_from(cleanup.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("sent");
    assert!(cleanup.wait().expect("ended").success(), "told to stop, it ends");

    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    println!("{asked} connections through both swaps, none lost");
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
    let mut child = network.portway(folder.path(), MANIFESTS, &[]);
    eventually("the new table", || table().contains("classid"));
    asking.ask(500);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
}

#[test]
fn rules_of_an_earlier_version_are_replaced_and_elements_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    // Else `nft` could not change its table.
    let run = || network.portway(folder.path(), MANIFESTS, &["--no-table-ownership"]);
    let rules = || output(&network.node, "nft", &["-s", "list", "table", "ip", "portway"]);
    let mut child = run();
    eventually("the table", || output(&network.node, "nft", &["list", "ruleset"]).contains("hook postrouting"));
    let ours = rules();
    child.kill().expect("killed");
    child.wait().expect("ended");
    network.load(EARLIER_RULES);
    assert_ne!(rules(), ours);

    let asking = Client::start(network.client.clone(), "10.96.0.1:80");
    asking.ask(300);
    let mut child = run();
    eventually("the new rules", || rules() == ours);
    asking.ask(500);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    let services = output(&network.node, "nft", &["list", "map", "ip", "portway", "services"]);
    let counted = services.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert_eq!(counted, Some(asked), "counted on through the restart: {services}");
}

#[test]
fn beside_kube_proxy_each_serves_its_services() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = OnePodNetwork::build();
    network.load(KUBE_PROXY);
    let theirs = Client::start(network.client.clone(), "10.96.0.1:80");
    theirs.ask(100);
    let manifests = format!("{MANIFESTS}---{LABELLED}");
    let mut child = network.portway(folder.path(), &manifests, &["--service-proxy-name", "portway"]);
    eventually("our table", || output(&network.node, "nft", &["list", "ruleset"]).contains("default/ours"));
    let table = output(&network.node, "nft", &["list", "table", "ip", "portway"]);
    assert!(!table.contains("default/web"), "{table}");

    let ours = Client::start(network.client.clone(), "10.96.0.2:80");
    ours.ask(200);
    theirs.ask(200);
    for client in [ours, theirs] {
        let (asked, failures) = client.finish();
        assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}
