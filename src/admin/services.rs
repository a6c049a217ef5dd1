//! `portway services`: frontends with what happens there and how often.

use std::collections::HashMap;

use super::ServiceRow;
use crate::diff::Mirror;
use crate::model::{Family, Model, Service};
use crate::plan::{Action, Class, Frontend, FrontendKey, FrontendOwner, Target};
use crate::ruleset::Bytes;

/// Connections by family and frontend.
pub(super) type ConnectionCounts = HashMap<(Family, Bytes), u64>;

/// All frontends in force, and those that are claimed in vain.
pub(super) fn rows(model: &Model, mirror: &Mirror, counters: &ConnectionCounts) -> Vec<ServiceRow> {
    let mut rows: Vec<ServiceRow> = model.services().flat_map(|service| of(service, model, mirror, counters)).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name, &a.family, &a.port).cmp(&(&b.namespace, &b.name, &b.family, &b.port)));
    rows
}

/// The frontends of one Service.
pub(super) fn of(service: &Service, model: &Model, mirror: &Mirror, counters: &ConnectionCounts) -> Vec<ServiceRow> {
    let mut rows = Vec::new();
    for family in mirror.families() {
        let in_force = mirror.frontends_of(family, &service.key).iter();
        rows.extend(in_force.map(|frontend| row(service, family, frontend, counters)));
        for key in mirror.lost_by(family, &service.key) {
            let owner = mirror.other_owner(family, *key, &service.key).map(|owner| match owner {
                FrontendOwner::Service(service) => service.to_string(),
                other => other.to_string(),
            });
            // Its own, and not in force all the same: the kernel refused it, or it is too large.
            let action = if owner.is_some() { "lost" } else { "set-aside" }.to_owned();
            rows.push(ServiceRow { action, owner, ..empty(service, family, *key) });
        }
    }
    let unusable = model.annotation_faults(service);
    rows.iter_mut().for_each(|row| row.unusable.clone_from(&unusable));
    rows
}

fn row(service: &Service, family: Family, frontend: &Frontend, counters: &ConnectionCounts) -> ServiceRow {
    let texts = |targets: &[Target]| targets.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (action, backends, local_backends) = match &frontend.action {
        Action::Refuse => ("refuse", Vec::new(), None),
        Action::Drop => ("drop", Vec::new(), None),
        Action::Relay(targets) if targets.is_empty() => ("refuse", Vec::new(), None),
        Action::Relay(targets) => ("relay", texts(targets), None),
        Action::Balance(_, targets) => ("balance", texts(targets), None),
        Action::ExternalLocal { cluster, local } => ("balance", texts(cluster), Some(texts(local))),
    };
    let is_local = match frontend.class {
        Class::ClusterIp => service.internal_policy_local,
        _ => service.external_local(),
    };
    let direct = frontend.direct.then(|| "direct-return".to_owned());
    ServiceRow {
        class: class(frontend.class).into(),
        policy: if is_local { "Local" } else { "Cluster" }.into(),
        action: action.into(),
        backends,
        local_backends,
        affinity_seconds: frontend.affinity.map(|affinity| affinity.seconds),
        sources: frontend.sources.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
        connections: counters.get(&(family, frontend.key.bytes())).copied(),
        port: port_of(&frontend.label).to_owned(),
        options: service.options().texts().into_iter().chain(direct).collect(),
        ..empty(service, family, frontend.key)
    }
}

fn empty(service: &Service, family: Family, key: FrontendKey) -> ServiceRow {
    ServiceRow {
        namespace: service.key.namespace().to_owned(),
        name: service.key.name().to_owned(),
        port: String::new(),
        class: if key.is_node_port() { class(Class::NodePort) } else { "" }.into(),
        frontend: frontend_text(key),
        family: family.to_string(),
        policy: String::new(),
        action: String::new(),
        backends: Vec::new(),
        local_backends: None,
        affinity_seconds: None,
        sources: None,
        owner: None,
        options: service.options().texts(),
        unusable: Vec::new(),
        connections: None,
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::ClusterIp => "ClusterIP",
        Class::HealthCheck => "HealthCheck",
        Class::LoadBalancer => "LoadBalancer",
        Class::ExternalIp => "ExternalIP",
        Class::NodePort => "NodePort",
    }
}

/// `namespace/name:port`, as elements are commented.
pub(super) fn port_of(label: &str) -> &str {
    label.split_once(':').map_or("", |(_, port)| port)
}

/// `10.96.0.1:443/TCP`, `*:30080/TCP`.
pub(super) fn frontend_text(key: FrontendKey) -> String {
    match key {
        FrontendKey::NodePort { protocol, port } => format!("*:{port}/{protocol}"),
        address => address.to_string(),
    }
}
