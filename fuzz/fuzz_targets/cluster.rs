//! Objects made to hurt: few names and addresses, so that all collide, and fields no API server would let through.
#![no_main]

#[path = "../healthy_service.rs"]
mod healthy_service;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const ADDRESSES: [&str; 24] = [
    "10.96.0.1",
    "10.96.0.2",
    "10.96.0.3",
    "010.96.000.1",
    "::ffff:10.96.0.1",
    "192.168.0.1",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "10.1.0.1",
    "10.1.1.1",
    "fd00::1",
    "fd00:1::1",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "10.96.0.1 ",
    "not an address",
    "",
    "1.2.3.4/32",
    "fd00:1::1%eth0",
];
const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/17",
    "10.1.128.0/17",
    "255.255.255.255/32",
    "0.0.0.0/1",
    "192.168.0.0/24",
    "fd00::/8",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    "10.1.0.0/99",
];
const NAMES: [&str; 10] = ["a", "b", "web", "", "zz/healthy:web", "\"", "\\", "a\nb", "\u{1b}[2J", "\u{fdfa}\u{1f600}"];
const PORTS: [i64; 10] = [443, 80, 30_000, 0, -1, 1, 65_535, 65_536, 6443, 30_001];
const WORDS: [&str; 16] = [
    "TCP",
    "UDP",
    "SCTP",
    "ICMP",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "Local",
    "Cluster",
    "ClientIP",
    "None",
    "VIP",
    "Proxy",
    "IPv4",
    "IPv6",
];

fn word(u: &mut Unstructured<'_>, words: &[&str]) -> Result<Value> {
    Ok(if u.ratio(1, 200)? { json!(String::arbitrary(u)?) } else { json!(*u.choose(words)?) })
}

fn list(u: &mut Unstructured<'_>, max: usize, item: impl Fn(&mut Unstructured<'_>) -> Result<Value>) -> Result<Value> {
    (0..u.int_in_range(0..=max)?).map(|_| item(u)).collect::<Result<Vec<_>>>().map(Value::Array)
}

fn port(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(if u.ratio(1, 20)? { json!(u16::arbitrary(u)?) } else { json!(*u.choose(&PORTS)?) })
}

fn object(u: &mut Unstructured<'_>) -> Result<Value> {
    let address = |u: &mut Unstructured<'_>| word(u, &ADDRESSES);
    let created = word(u, &["2021-01-01T00:00:00Z", "2030-01-01T00:00:00Z", "soon"])?;
    let mut metadata =
        json!({"name": word(u, &NAMES)?, "namespace": word(u, &NAMES[..4])?, "creationTimestamp": created});
    Ok(match u.int_in_range(0..=9)? {
        0..=4 => {
            let ports = list(u, 4, |u| {
                Ok(
                    json!({"name": word(u, &NAMES)?, "protocol": word(u, &WORDS[..4])?, "port": port(u)?, "nodePort": port(u)?}),
                )
            })?;
            let ingress = list(u, 3, |u| Ok(json!({"ip": address(u)?, "ipMode": word(u, &WORDS[12..14])?})))?;
            json!({"kind": "Service", "metadata": metadata, "spec": {
                "type": word(u, &WORDS[4..8])?, "clusterIP": address(u)?, "clusterIPs": list(u, 2, address)?,
                "ipFamilies": list(u, 2, |u| word(u, &WORDS[14..]))?, "ports": ports,
                "externalIPs": list(u, 3, address)?, "loadBalancerSourceRanges": list(u, 4, |u| word(u, &RANGES))?,
                "externalTrafficPolicy": word(u, &WORDS[8..10])?, "internalTrafficPolicy": word(u, &WORDS[8..10])?,
                "sessionAffinity": word(u, &WORDS[10..12])?, "healthCheckNodePort": port(u)?,
            }, "status": {"loadBalancer": {"ingress": ingress}}})
        }
        5..=7 => {
            metadata["labels"] = json!({"kubernetes.io/service-name": word(u, &NAMES)?});
            let ports = list(u, 3, |u| {
                Ok(json!({"name": word(u, &NAMES)?, "protocol": word(u, &WORDS[..4])?, "port": port(u)?}))
            })?;
            let endpoints = list(u, 4, |u| {
                Ok(json!({"addresses": list(u, 2, address)?, "nodeName": "node-a", "conditions": {
                    "ready": Option::<bool>::arbitrary(u)?, "serving": bool::arbitrary(u)?,
                    "terminating": bool::arbitrary(u)?}}))
            })?;
            json!({"kind": "EndpointSlice", "metadata": metadata, "addressType": word(u, &WORDS[14..])?, "ports": ports,
                "endpoints": endpoints})
        }
        8 => json!({"kind": "ServiceCIDR", "metadata": metadata, "spec": {"cidrs": list(u, 3, |u| word(u, &RANGES))?}}),
        _ => {
            metadata["name"] = json!("node-a");
            let addresses = list(u, 3, |u| Ok(json!({"type": "InternalIP", "address": address(u)?})))?;
            json!({"kind": "Node", "metadata": metadata, "spec": {"podCIDRs": list(u, 2, |u| word(u, &RANGES))?},
                "status": {"addresses": addresses}})
        }
    })
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let mut healthy_service = healthy_service::HealthyService::new();
    while !u.is_empty() {
        let Ok(object) = object(&mut u) else { break };
        healthy_service.deliver(object.to_string().as_bytes());
        if u.ratio(1, 3).unwrap_or(true) {
            healthy_service.check();
        }
    }
    healthy_service.check();
});
