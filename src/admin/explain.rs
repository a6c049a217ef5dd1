//! The daemon's part of `portway explain`: who has a frontend, and which endpoints it could use.

use super::services::{self, ConnectionCounts};
use super::{ExplainRows, endpoints, faults};
use crate::diff::Mirror;
use crate::model::{Balance, Family, Model, ObjectKey, Protocol};
use crate::plan::{FrontendKey, FrontendOwner, ListeningSocket, NodePortAddresses, Target};
use crate::source::Problem;

/// What is known of a destination; empty when no Service has it. Without counters no connections are shown.
pub fn rows(
    model: &Model,
    mirror: &Mirror,
    problems: &[Problem],
    counters: &ConnectionCounts,
    at: Target,
    protocol: Protocol,
) -> ExplainRows {
    let family = Family::of(at.ip);
    let address = FrontendKey::Address { ip: at.ip, protocol, port: at.port };
    let mut keys = vec![address];
    if answers_node_ports(model, mirror, family, at) {
        keys.push(FrontendKey::NodePort { protocol, port: at.port });
    }
    let Some((key, owner)) = keys.iter().find_map(|key| Some((*key, mirror.owner(family, *key)?))) else {
        let node_ip = mirror.settings().family(family).and_then(|settings| settings.node_ip);
        let is_hit = |listener: &&ListeningSocket| keys.iter().any(|key| listener.is_hit_by(key, family, node_ip));
        let listener = mirror.settings().listeners.iter().find(is_hit);
        let notes = listener.map(|listener| format!("Portway's {} answers there", listener.name)).into_iter().collect();
        return ExplainRows { notes, ..ExplainRows::default() };
    };
    let text = services::frontend_text(key);
    let of_this = |row: &super::ServiceRow| row.frontend == text && row.family == family.to_string();
    let mut claims: Vec<_> = model
        .services()
        .filter(|service| service.key == *owner || mirror.lost_by(family, &service.key).contains(&key))
        .flat_map(|service| services::of(service, model, mirror, counters))
        .filter(of_this)
        .collect();
    claims.sort_by_key(|row| row.owner.is_some());
    let service = model.service(owner);
    let ports = service.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let asked = |port: &crate::model::ServicePort| match key {
        FrontendKey::Address { ip, port: number, .. } if !ip.is_loopback() => {
            port.port == number && port.protocol == protocol
        }
        FrontendKey::Address { port: number, .. } | FrontendKey::NodePort { port: number, .. } => {
            port.node_port == Some(number) && port.protocol == protocol
        }
    };
    let candidates = ports
        .filter(|(_, port)| asked(port))
        .flat_map(|(service, port)| endpoints::of(model, service, port, family, mirror))
        .collect();
    let faults = faults::of_service(model, mirror, problems, owner);
    let mut notes: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
    notes.extend(chosen_by(mirror, family, owner, key));
    notes.extend(handed_on(mirror, family, owner, key));
    if let Some(FrontendOwner::HealthCheck(service)) = mirror.other_owner(family, key, owner) {
        notes.insert(0, format!("the health check of Service {service} answers there, no endpoint"));
    }
    ExplainRows { services: claims, candidates, notes }
}

/// How endpoints are chosen, where it is not simply at random.
fn chosen_by(mirror: &Mirror, family: Family, service: &ObjectKey, key: FrontendKey) -> Option<String> {
    let frontend = mirror.frontends_of(family, service).iter().find(|frontend| frontend.key == key)?;
    let spread = frontend.spread.as_ref()?;
    let how = match spread.balance {
        Balance::Random => "at random",
        Balance::SourceIp => "by source-ip: a client gets the same one on every node",
        Balance::SourceIpPort => "by source-ip-port: the same address and port get the same one on every node",
    };
    let weights = if spread.weights.is_empty() { "" } else { "; weights count" };
    Some(format!("endpoints are chosen {how}{weights}"))
}

/// Whether nodes hand connections on to that of the endpoint.
fn handed_on(mirror: &Mirror, family: Family, service: &ObjectKey, key: FrontendKey) -> Option<String> {
    let is_direct = mirror.frontends_of(family, service).iter().any(|frontend| frontend.key == key && frontend.direct);
    is_direct.then(|| {
        "direct return: packets that come in here for an endpoint on another node are handed on to that node, which answers \
         the client itself; `portway status` says what keeps some from it"
            .to_owned()
    })
}

fn answers_node_ports(model: &Model, mirror: &Mirror, family: Family, at: Target) -> bool {
    match mirror.settings().family(family).map(|settings| &settings.node_ports) {
        Some(NodePortAddresses::Listed(ips)) => ips.contains(&at.ip),
        Some(NodePortAddresses::AllLocal) => {
            !at.ip.is_loopback() && model.local_addresses().is_some_and(|addresses| addresses.contains(&at.ip))
        }
        None => false,
    }
}
