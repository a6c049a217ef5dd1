//! `portway faults`: what in objects is not as its author meant, at present.

use std::collections::BTreeSet;

use super::FaultRow;
use crate::diff::Mirror;
use crate::model::{Family, Model, ObjectKey, Service};
use crate::plan::{FrontendKey, Mismatch, mismatches};
use crate::source::Problem;

/// All present faults, in the order of their objects.
pub(super) fn present(model: &Model, mirror: &Mirror, problems: &[Problem]) -> Vec<FaultRow> {
    let mut rows: Vec<FaultRow> = problems.iter().map(of_problem).collect();
    let families: Vec<Family> = mirror.families().collect();
    for service in model.services() {
        rows.extend(of_slices(model, service, &families));
        rows.extend(oversized(model, mirror, service, &families));
    }
    rows.extend(mirror.conflicts().map(|(_, conflict)| row("PortConflict", &conflict.loser, "spec", &conflict)));
    rows.extend(model.all_set_aside().map(|(service, cause)| {
        row(
            "SetAside",
            service,
            "",
            &format_args!("the kernel refused it, none of it is in force until it changes: {cause}"),
        )
    }));
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The faults of what a Service is made of: itself, its slices, and Endpoints nobody reads.
pub(super) fn of_service(model: &Model, mirror: &Mirror, problems: &[Problem], key: &ObjectKey) -> Vec<FaultRow> {
    let slices: BTreeSet<&ObjectKey> = model.slices(key).map(|slice| &slice.key).collect();
    let concerns = |problem: &&Problem| {
        problem.subject.as_ref().is_some_and(|subject| {
            subject.is("Service", key)
                || subject.is("Endpoints", key)
                || slices.iter().any(|slice| subject.is("EndpointSlice", slice))
        })
    };
    let mut rows: Vec<FaultRow> = problems.iter().filter(concerns).map(of_problem).collect();
    let families: Vec<Family> = mirror.families().collect();
    rows.extend(model.service(key).into_iter().flat_map(|service| of_slices(model, service, &families)));
    let lost = mirror.conflicts().filter(|(_, conflict)| conflict.loser == *key);
    rows.extend(lost.map(|(_, conflict)| row("PortConflict", key, "spec", &conflict)));
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn of_slices(model: &Model, service: &Service, families: &[Family]) -> Vec<FaultRow> {
    let found = mismatches(service, || model.slices(&service.key), families);
    let of = |mismatch: &Mismatch| match mismatch {
        Mismatch::Port { .. } => row("PortMismatch", &service.key, "spec.ports", mismatch),
        Mismatch::Family { .. } => row("FamilyMismatch", &service.key, "spec.clusterIPs", mismatch),
    };
    found.iter().map(of).collect()
}

/// A Service that would have frontends, has none, and lost none to anybody was left out for its size.
fn oversized(model: &Model, mirror: &Mirror, service: &Service, families: &[Family]) -> Option<FaultRow> {
    let is_lost = |family, key: &FrontendKey| mirror.other_owner(family, *key, &service.key).is_some();
    let is_left_out = |family: &&Family| {
        !service.ports.is_empty()
            && !model.is_set_aside(&service.key, **family)
            && service.cluster_ip(**family).is_some()
            && mirror.frontends_of(**family, &service.key).is_empty()
            && !mirror.lost_by(**family, &service.key).iter().any(|key| is_lost(**family, key))
    };
    let family = families.iter().find(is_left_out)?;
    let text = format!(
        "would take too many {family} elements for its ports, addresses, source ranges and endpoints; none of it is in force"
    );
    Some(row("Oversized", &service.key, "", &text))
}

fn of_problem(problem: &Problem) -> FaultRow {
    let (kind, namespace, name) = match problem.subject.clone() {
        Some(subject) => (subject.kind, subject.namespace, subject.name),
        None => Default::default(),
    };
    FaultRow {
        kind,
        namespace,
        name,
        reason: if problem.field.is_empty() { "Unusable" } else { "InvalidField" }.into(),
        field: problem.field.clone(),
        message: problem.message.clone(),
        place: problem.place.clone(),
    }
}

fn row(reason: &str, service: &ObjectKey, field: &str, message: &dyn std::fmt::Display) -> FaultRow {
    FaultRow {
        kind: "Service".into(),
        namespace: service.namespace().into(),
        name: service.name().into(),
        reason: reason.into(),
        field: field.into(),
        message: message.to_string(),
        place: None,
    }
}
