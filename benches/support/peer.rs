//! A table of kube-proxy's shape (nftables mode), generated here: kube-proxy itself is no part of these benchmarks.
//!
//! As it lists it: per Service port one chain with one rule and an anonymous map, `service-ips` leading to it, `ct state new`
//! in the filter chains, masquerading by mark. The chains of `filter-*` sit where kube-proxy's do: -110 in prerouting and
//! output, 0 in input, forward and output. From 1.37 on a Service with one endpoint has no map (kubernetes/kubernetes#140723,
//! and #140960 for how its rule is written); with more endpoints both versions write the same. What kube-proxy lists before it
//! writes (by `nft` up to 1.36, by netlink from 1.37 on) is not part of the figures.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portway::model::{EndpointSlice, Protocol, Service};

use crate::cluster;

/// Whose shape.
#[derive(Clone, Copy, PartialEq)]
pub enum Version {
    /// kube-proxy 1.36.
    V1_36,
    /// kube-proxy 1.37.
    V1_37,
}

impl Version {
    /// Both, the older one first.
    pub const ALL: [Self; 2] = [Self::V1_36, Self::V1_37];

    /// As tables of results have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_36 => "1.36",
            Self::V1_37 => "1.37",
        }
    }
}

/// Everything that does not depend on Services.
const BASE: &str = r#"
add table ip kube-proxy { comment "rules for kube-proxy" ; }
add set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; comment "IPs that accept NodePort traffic" ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy services
add chain ip kube-proxy masquerading
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { 10.0.0.0/8 } drop
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != 11.0.0.0/8 mark set mark or 0x4000
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
add element ip kube-proxy nodeport-ips { 192.168.0.1 }
"#;

/// The text for a generated cluster.
pub fn table(version: Version, services: usize, endpoints: usize, protocol: Protocol) -> String {
    let mut text = BASE.to_owned();
    for n in 0..services {
        let (service, slice) = (cluster::service(n), cluster::first_slice(n, endpoints));
        let (chain, address) = (chain(&service, protocol), service.cluster_ips[0]);
        let (name, port) = (name(protocol), service.ports[0].port);
        writeln!(text, "add chain ip kube-proxy {chain}").expect("a string");
        writeln!(text, "add element ip kube-proxy cluster-ips {{ {address} }}").expect("a string");
        writeln!(text, "add element ip kube-proxy service-ips {{ {address} . {name} . {port} : goto {chain} }}")
            .expect("a string");
        writeln!(text, "{}", rule(version, &service, &slice, protocol)).expect("a string");
        for local in slice.endpoints.iter().filter(|endpoint| endpoint.placement.node.as_deref() == Some("node-0")) {
            let (ip, port) = (local.address, slice.ports[0].port);
            writeln!(text, "add element ip kube-proxy hairpin-connections {{ {ip} . {ip} . {name} . {port} }}")
                .expect("a string");
        }
    }
    text
}

/// What changes when an endpoint does: the chain is written anew.
pub fn change(version: Version, n: usize, endpoints: usize, generation: usize) -> String {
    let (service, slice) = (cluster::service(n), cluster::slice(n, endpoints, generation));
    let protocol = Protocol::Tcp;
    format!("flush chain ip kube-proxy {}\n{}\n", chain(&service, protocol), rule(version, &service, &slice, protocol))
}

/// Runs `nft -f -` in the network namespace of the caller, as kube-proxy does; how long it took.
pub fn load(text: &str) -> Duration {
    let start = Instant::now();
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().expect("piped").write_all(text.as_bytes()).expect("nft reads its input");
    assert!(nft.wait().expect("nft ends").success(), "nft refuses the table");
    start.elapsed()
}

/// The name of a protocol in nft.
pub fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// kube-proxy puts a hash in front of the name; its length is what matters here.
fn chain(service: &Service, protocol: Protocol) -> String {
    format!("service-ABCDEFGH-{}/{}/{}", service.key, name(protocol), service.ports[0].name)
}

fn rule(version: Version, service: &Service, slice: &EndpointSlice, protocol: Protocol) -> String {
    let port = slice.ports[0].port;
    if let (Version::V1_37, [only]) = (version, &*slice.endpoints) {
        let (chain, protocol) = (chain(service, protocol), name(protocol));
        return format!("add rule ip kube-proxy {chain} meta l4proto {protocol} dnat to {}:{port}", only.address);
    }
    let map: Vec<String> =
        slice.endpoints.iter().enumerate().map(|(i, one)| format!("{i} : {} . {port}", one.address)).collect();
    format!(
        "add rule ip kube-proxy {} meta l4proto {} dnat ip to numgen random mod {} map {{ {} }}",
        chain(service, protocol),
        name(protocol),
        map.len(),
        map.join(", ")
    )
}
