//! What `portway status` says of where objects come from, and of what came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::words::{ago, count, in_words, timestamp};
use super::{Admin, State, StatusRow};
use crate::controller::Snapshot;
use crate::model::Kind;
use crate::source::SourceStats;

/// An API server that restarts is back by then. Longer, and endpoints that are gone keep getting connections.
const LASTING: Duration = Duration::from_secs(30);
/// Without it Services work, and unused ClusterIPs are not refused.
const OPTIONAL: [&str; 1] = ["servicecidrs"];

/// Whether changes are followed.
pub(super) fn source(admin: &Admin, snapshot: &Snapshot) -> StatusRow {
    let wanted = [(Kind::Service, "Services"), (Kind::EndpointSlice, "EndpointSlices"), (Kind::Node, "our Node")];
    let missing: Vec<&str> =
        wanted.iter().filter(|(kind, _)| !snapshot.model.has_listed(*kind)).map(|(_, name)| *name).collect();
    let sources = admin.metrics.watched_sources();
    let (name, address) =
        sources.first().map_or(("not connected", ""), |(name, stats)| (*name, stats.address.as_str()));
    let sum = |field: fn(&SourceStats) -> &AtomicU64| {
        sources.iter().map(|(_, stats)| field(stats).load(Ordering::Relaxed)).sum::<u64>()
    };
    let errors = sum(|stats| &stats.errors);
    let outage = sources.iter().find_map(|(_, stats)| stats.outage());
    let seen = admin.activity.seen();

    let mut detail = format!("{name}: ");
    if let Some(outage) = &outage {
        let (lasts, since) = (in_words(outage.since.elapsed()), timestamp(outage.since));
        detail += &format!("{} not read for {lasts}, since {since}: {}; ", outage.parts.join(", "), outage.error);
    }
    if missing.is_empty() {
        detail += &format!("last change {}", ago(seen.event));
    } else {
        detail += &format!("waiting for the list of {}", missing.join(", "));
    }
    if let Some(latency) = seen.latency.filter(|_| outage.is_none()) {
        detail += &format!(", in the kernel {latency:.1?} after its cause");
    }
    detail += &format!("; {}", count(errors, "error"));
    if outage.is_some() {
        detail += "; the rules stay in force, but changes of these are not followed";
    }
    let lasted = outage.as_ref().map(|outage| outage.since.elapsed());
    let can_do_without = outage.as_ref().is_some_and(|outage| outage.parts == OPTIONAL);
    let patience = match name {
        // It is there or not.
        "manifests" => Duration::ZERO,
        _ if can_do_without => Duration::MAX,
        _ => LASTING,
    };
    StatusRow::new("source", judge(missing.is_empty(), lasted, patience), detail).with(json!({
        "source": name,
        "address": address,
        "waitingFor": missing,
        "lastChange": seen.event.map(timestamp),
        "latencySeconds": seen.latency.map(|latency| latency.as_secs_f64()),
        "errors": errors,
        "outage": outage.map(|outage| json!({
            "since": timestamp(outage.since),
            "error": outage.error,
            "parts": outage.parts,
        })),
    }))
}

/// An outage is a failure when it lasts. Before the first lists this process follows nothing.
fn judge(is_listed: bool, outage: Option<Duration>, patience: Duration) -> State {
    match outage {
        _ if !is_listed => State::Fail,
        None => State::Ok,
        Some(lasted) if lasted >= patience => State::Fail,
        Some(_) => State::Warn,
    }
}

/// What is known of the cluster.
pub(super) fn model(admin: &Admin, snapshot: &Snapshot) -> StatusRow {
    let model = &snapshot.model;
    let node = model.node().map_or("no Node".to_owned(), |node| format!("Node {}", node.name));
    let mut detail = format!(
        "{}, {}, {node}, {}",
        count(model.service_count() as u64, "Service"),
        count(model.slice_count() as u64, "EndpointSlice"),
        count(model.service_cidrs().len() as u64, "ServiceCIDR range"),
    );
    let mut state = State::Ok;
    let set_aside: Vec<String> = model.all_set_aside().map(|(service, cause)| format!("{service} ({cause})")).collect();
    if !set_aside.is_empty() {
        state = State::Warn;
        detail += &format!("; set aside, because the kernel refused them: {}", set_aside.join(", "));
    }
    let name = &admin.options.node_name;
    if !model.is_ready() {
        state = State::Fail;
        detail += "; not known before all lists are there";
    }
    if model.is_node_gone() {
        state = state.max(State::Warn);
        detail += &format!("; Node {name} is gone, the last one seen stays in use");
    }
    if model.node().is_none() && model.has_listed(Kind::Node) {
        state = State::Fail;
        detail += &format!(
            "; there is no Node {name}, so no endpoint counts as local and load balancers must not use this node: if it has \
             another name, give it with --hostname-override"
        );
    }
    let of_set_aside =
        model.all_set_aside().map(|(service, cause)| json!({"service": service.to_string(), "cause": cause}));
    StatusRow::new("model", state, detail).with(json!({
        "services": model.service_count(),
        "endpointSlices": model.slice_count(),
        "serviceCIDRRanges": model.service_cidrs().len(),
        "node": model.node().map(|node| node.name.to_string()),
        "wantedNode": name.to_string(),
        "isNodeGone": model.is_node_gone(),
        "setAside": of_set_aside.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_a_warning_at_first_and_a_failure_when_it_lasts() {
        let lasted = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            (true, None, LASTING, State::Ok),
            (true, lasted(0), LASTING, State::Warn),
            (true, lasted(29), LASTING, State::Warn),
            (true, lasted(30), LASTING, State::Fail),
            (true, lasted(0), Duration::ZERO, State::Fail),
            (true, lasted(86_400), Duration::MAX, State::Warn),
            (false, None, LASTING, State::Fail),
            (false, lasted(1), LASTING, State::Fail),
        ];
        for (is_listed, outage, patience, state) in cases {
            assert_eq!(judge(is_listed, outage, patience), state, "{is_listed} {outage:?} {patience:?}");
        }
    }
}
