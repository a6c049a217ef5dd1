//! `portway endpoints`: every endpoint, and why it was taken or left.

use super::EndpointRow;
use crate::diff::Mirror;
use crate::model::{Family, Model, Service, ServicePort, ServiceType};
use crate::plan::{Candidate, EndpointRules, EndpointUse, Needs, Topology, candidates};
use crate::source::{Problem, Subject};

/// The endpoints of all Services, and what of their slices is left out.
pub(super) fn rows(model: &Model, mirror: &Mirror, problems: &[Problem]) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    for service in model.services() {
        for (family, _) in mirror.settings().families() {
            rows.extend(service.ports.iter().flat_map(|port| of(model, service, port, family, mirror)));
        }
        rows.extend(left_out(model, service, problems));
    }
    rows.sort_by(|a, b| (&a.namespace, &a.name, &a.port).cmp(&(&b.namespace, &b.name, &b.port)));
    rows
}

/// The endpoints of a Service port in a family; none for a Service that is not served there.
pub(super) fn of(
    model: &Model,
    service: &Service,
    port: &ServicePort,
    family: Family,
    mirror: &Mirror,
) -> Vec<EndpointRow> {
    let settings = mirror.settings();
    if service.service_type == ServiceType::ExternalName || service.cluster_ip(family).is_none() {
        return Vec::new();
    }
    let found = candidates(model.slices(&service.key), family, port, &settings.node_name);
    let rules = EndpointRules::new(&found, &settings.node_name, &settings.zone);
    let needs = Needs::of(service, port, family, settings);
    let first = traffic_that_stays(&found, &rules, needs);
    let mut rows: Vec<EndpointRow> =
        found.iter().map(|candidate| row(service, port, candidate, &rules, needs, &first)).collect();
    let of_port = (port.name.clone(), port.protocol);
    let mut frontends = mirror.frontends_of(family, &service.key).iter();
    if frontends.any(|frontend| frontend.direct && frontend.port_key() == of_port) {
        for (row, candidate) in rows.iter_mut().zip(&found).filter(|(row, _)| !row.used.is_empty()) {
            row.reason += &match &candidate.placement.node {
                _ if candidate.local => "; direct return: other nodes hand connections on to this one".to_owned(),
                Some(node) => format!("; direct return: connections are handed on to node {node}"),
                None => "; no direct return: it is not known on which node it is".to_owned(),
            };
        }
    }
    for slice in model.slices(&service.key).filter(|slice| slice.family == family) {
        let Some(reason) = slice.refuses(port) else { continue };
        rows.extend(slice.endpoints.iter().map(|endpoint| EndpointRow {
            endpoint: format!("{}/{}", endpoint.address, port.protocol),
            reason: reason.clone(),
            local: Some(endpoint.placement.node.as_deref() == Some(&*settings.node_name)),
            ..empty(service, &port.name)
        }));
    }
    rows
}

/// Which traffic ready endpoints of this node take from all others.
fn traffic_that_stays(found: &[Candidate], rules: &EndpointRules<'_>, needs: Needs) -> String {
    if !found.iter().any(|candidate| candidate.local && candidate.ready) {
        return String::new();
    }
    let internal = needs.internal_first && rules.topology == Topology::None;
    let kinds = [("internal", internal), ("external", needs.external_first)];
    kinds.iter().filter(|(_, stays)| *stays).map(|(kind, _)| *kind).collect::<Vec<_>>().join(" and ")
}

/// What the slices of a Service have in vain, and Endpoints that nobody reads.
fn left_out(model: &Model, service: &Service, problems: &[Problem]) -> Vec<EndpointRow> {
    if problems.is_empty() {
        return Vec::new();
    }
    let is_its = |subject: &Subject| {
        subject.is("Endpoints", &service.key)
            || model.slices(&service.key).any(|slice| subject.is("EndpointSlice", &slice.key))
    };
    let its = problems.iter().filter(|problem| problem.subject.as_ref().is_some_and(is_its));
    let reason = |problem: &Problem| {
        let object = problem.subject.as_ref().map(Subject::to_string).unwrap_or_default();
        if problem.field.is_empty() {
            format!("{object} {}", problem.message)
        } else {
            format!("{object}: {}: {}", problem.field, problem.message)
        }
    };
    its.map(|problem| EndpointRow { reason: reason(problem), ..empty(service, "") }).collect()
}

fn empty(service: &Service, port: &str) -> EndpointRow {
    EndpointRow {
        namespace: service.key.namespace().to_owned(),
        name: service.key.name().to_owned(),
        port: port.to_owned(),
        endpoint: String::new(),
        conditions: Vec::new(),
        local: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        used: Vec::new(),
        reason: String::new(),
    }
}

fn row(
    service: &Service,
    port: &ServicePort,
    candidate: &Candidate,
    rules: &EndpointRules<'_>,
    needs: Needs,
    first: &str,
) -> EndpointRow {
    let sets = [
        ("cluster", needs.cluster.then(|| rules.cluster(candidate))),
        ("local", needs.local.then(|| rules.local(candidate))),
    ];
    let sets: Vec<_> = sets.into_iter().filter_map(|(name, fit)| Some((name, fit?))).collect();
    let mut reason = match sets.as_slice() {
        [(_, fit)] => fit.to_string(),
        [(_, cluster), (_, local)] if cluster == local => cluster.to_string(),
        several => several.iter().map(|(name, fit)| format!("{name}: {fit}")).collect::<Vec<_>>().join("; "),
    };
    if let Some(unused) =
        rules.unused_hints().filter(|_| needs.cluster && rules.cluster(candidate) == EndpointUse::Ready)
    {
        reason += &format!("; {unused}");
    }
    let is_first = candidate.local && candidate.ready;
    if !first.is_empty() {
        reason += if is_first { "; first for " } else { "; one on this node is first for " };
        reason += first;
        reason += " traffic";
    }
    let Candidate { target, ready, serving, terminating, .. } = *candidate;
    let conditions = [("ready", ready), ("serving", serving), ("terminating", terminating)];
    let strings = |list: &[std::sync::Arc<str>]| list.iter().map(|text| text.to_string()).collect();
    EndpointRow {
        namespace: service.key.namespace().to_owned(),
        name: service.key.name().to_owned(),
        port: port.name.to_string(),
        endpoint: format!("{target}/{}", port.protocol),
        conditions: conditions.iter().filter(|(_, holds)| *holds).map(|(name, _)| (*name).to_owned()).collect(),
        local: Some(candidate.local),
        zone_hints: strings(&candidate.placement.zone_hints),
        node_hints: strings(&candidate.placement.node_hints),
        used: sets.iter().filter(|(_, fit)| fit.is_taken()).map(|(name, _)| (*name).to_owned()).collect(),
        reason,
    }
}
