//! `portway status`: a line for each subsystem, with the same in fields. docs/commands.md lists these.

use std::sync::Arc;

use serde_json::json;

use super::words::{ago, count, in_words, timestamp};
use super::{Admin, AdminError, State, StatusReport, StatusRow, comparison, present, sources};
use crate::conntrack;
use crate::controller::Snapshot;
use crate::direct::{DirectStatus, DirectStatusHandle};
use crate::fast::{FastStatus, FastStatusHandle};
use crate::health::HealthAnswer;
use crate::host::Flows;
use crate::host::sysctl::Roots;
use crate::nftables::NftKernel;

pub(super) fn report(admin: &Admin, kernel: &mut NftKernel) -> StatusReport {
    let mut rows = vec![daemon(admin), configuration(admin)];
    let snapshot = admin.snapshots.take(comparison::PATIENCE);
    match &snapshot {
        Ok(snapshot) => {
            rows.extend([sources::source(admin, snapshot), sources::model(admin, snapshot), sync(admin, snapshot)]);
            rows.extend(present::status(admin, snapshot));
        }
        Err(cause) => rows.push(StatusRow::new("sync", State::Fail, cause.to_string())),
    }
    rows.extend(admin.direct.as_ref().map(direct));
    rows.extend(admin.fast.as_ref().map(fast));
    let has_node = snapshot.is_ok_and(|snapshot| snapshot.model.node().is_some());
    rows.extend([tables(admin, kernel), conntrack(), health(admin, has_node)]);
    StatusReport::new(rows)
}

fn daemon(admin: &Admin) -> StatusRow {
    let up = admin.metrics.started().elapsed().unwrap_or_default();
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let detail = format!("portway {version}, pid {pid}, up {}", in_words(up));
    let fields = json!({"answers": true, "portwayVersion": version, "pid": pid, "upSeconds": up.as_secs()});
    StatusRow::new("daemon", State::Ok, detail).with(fields)
}

fn configuration(admin: &Admin) -> StatusRow {
    let row = |state, detail: String| StatusRow::new("configuration", state, detail);
    let Some(file) = &admin.configuration.file else {
        return row(State::Ok, "from flags".to_owned()).with(json!({"file": null, "refused": null}));
    };
    let refused = admin.configuration.refused.borrow().clone();
    let line = match &refused {
        None => row(State::Ok, format!("from {}", file.display())),
        Some(cause) => row(
            State::Warn,
            format!(
                "{} was changed to something that cannot be used, the old one is in force: {cause}",
                file.display()
            ),
        ),
    };
    line.with(json!({"file": file.display().to_string(), "refused": refused}))
}

fn sync(admin: &Admin, snapshot: &Snapshot) -> StatusRow {
    let seen = admin.activity.seen();
    let report = &snapshot.report;
    let causes: Vec<String> = seen.failures.iter().map(|(family, cause)| format!("{family}: {cause}")).collect();
    let (state, detail) = match (&seen.waiting, seen.sync) {
        // This process follows nothing, and does not know whether the other one does.
        (Some(cause), _) => (State::Fail, format!("waiting: {cause}")),
        _ if !causes.is_empty() => {
            (State::Fail, format!("{} failed: {}", count(report.failures, "attempt"), causes.join("; ")))
        }
        (None, None) => (State::Fail, "none yet".to_owned()),
        (None, Some((at, duration))) => {
            let mut detail = format!(
                "{}, the last {} in {duration:.1?}: {} elements added, {} deleted",
                count(report.syncs, "sync"),
                ago(Some(at)),
                report.added,
                report.deleted
            );
            if let Some((at, repair)) = &seen.repair {
                let times = if seen.repairs == 1 { "once".to_owned() } else { format!("{} times", seen.repairs) };
                detail += &format!("; tables changed by others {times}, the last time {}: {repair}", ago(Some(*at)));
            }
            (State::Ok, detail)
        }
    };
    let failures = seen.failures.iter().map(|(family, cause)| json!({"family": family.to_string(), "cause": cause}));
    StatusRow::new("sync", state, detail).with(json!({
        "syncs": report.syncs,
        "lastSync": seen.sync.map(|(at, _)| timestamp(at)),
        "durationSeconds": seen.sync.map(|(_, duration)| duration.as_secs_f64()),
        "added": report.added,
        "deleted": report.deleted,
        "failedAttempts": report.failures,
        "failures": failures.collect::<Vec<_>>(),
        "waitingFor": seen.waiting,
        "repairs": seen.repairs,
        "lastRepair": seen.repair.map(|(at, repair)| json!({"time": timestamp(at), "what": repair})),
    }))
}

fn tables(admin: &Admin, kernel: &mut NftKernel) -> StatusRow {
    let compared = comparison::differences(kernel, &admin.snapshots);
    let (state, detail) = match &compared {
        Ok(found) if found.is_empty() => (State::Ok, "equal to what is desired".to_owned()),
        Ok(found) => {
            (State::Fail, format!("differs in {}; `portway diff` shows them", count(found.len() as u64, "place")))
        }
        Err(AdminError::NotSynced | AdminError::FamilyNotSynced(_)) => {
            (State::Fail, "not known to be right: no sync, or the last one failed".to_owned())
        }
        Err(cause) => (State::Fail, cause.to_string()),
    };
    let error = compared.as_ref().err().map(ToString::to_string);
    let fields = json!({"differences": compared.as_ref().ok().map(Vec::len), "error": error});
    StatusRow::new("kernel", state, detail).with(fields)
}

/// What goes the ordinary way is still served, so this never fails.
fn direct(handle: &DirectStatusHandle) -> StatusRow {
    let row = |state, detail: String| StatusRow::new("direct-return", state, detail);
    let Some(DirectStatus { frontends, nodes, configured, devices, strict, troubles, .. }) = handle.get() else {
        return row(State::Warn, "begins with the first sync".to_owned());
    };
    let on = if devices.is_empty() { "no interface".to_owned() } else { devices.join(", ") };
    let mut does = format!("{} to {} on {on}", count(frontends as u64, "frontend"), count(nodes as u64, "node"));
    if !strict.is_empty() {
        does += &format!(
            "; rp_filter of {} is strict: IPv4 clients that are reached through another interface take the ordinary path, and \
             their packets that other nodes hand on are dropped",
            strict.join(", ")
        );
    }
    let line = match troubles.as_slice() {
        [] => row(State::Ok, does),
        troubles => row(State::Warn, format!("{does}; {}", troubles.join("; "))),
    };
    line.with(json!({"frontends": frontends, "nodes": nodes, "configured": configured, "devices": devices, "strict": strict, "troubles": troubles}))
}

/// What goes the ordinary way is still served, so this never fails.
fn fast(handle: &FastStatusHandle) -> StatusRow {
    let row = |state, detail: String| StatusRow::new("fast-path", state, detail);
    let Some(FastStatus { configured, devices, troubles }) = handle.get() else {
        return row(State::Warn, "begins with the first sync".to_owned());
    };
    let texts = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (configured, devices) = (texts(configured), devices.map(|devices| texts(devices.into_iter().collect())));
    let does = match &devices {
        None => "off".to_owned(),
        Some(names) if (1..=4).contains(&names.len()) => format!("on {}", names.join(", ")),
        Some(names) => format!("on {}", count(names.len() as u64, "interface")),
    };
    let line = match troubles.as_slice() {
        [] => row(State::Ok, does),
        troubles => row(State::Warn, format!("{does}; {}", troubles.join("; "))),
    };
    line.with(json!({"configured": configured, "devices": devices, "troubles": troubles}))
}

fn conntrack() -> StatusRow {
    let row = |state, detail: String| StatusRow::new("conntrack", state, detail);
    let error = conntrack::reach().err().map(|cause| cause.to_string());
    let flows = Flows::read(&Roots::default());
    let line = match (&error, &flows) {
        (Some(cause), _) => row(State::Warn, format!("cannot be listed: {cause}; {}", conntrack::UNREACHABLE)),
        (None, Some(flows)) if flows.is_nearly_full() => row(State::Warn, flows.to_string()),
        (None, Some(flows)) => row(State::Ok, flows.to_string()),
        (None, None) => row(State::Ok, "not active".to_owned()),
    };
    let (count, max) = (flows.as_ref().map(|flows| flows.count), flows.as_ref().map(|flows| flows.max));
    line.with(json!({"flows": count, "max": max, "error": error}))
}

/// Not OK whenever `/healthz` is not 200.
fn health(admin: &Admin, has_node: bool) -> StatusRow {
    let verdict = admin.health.verdict();
    let is_ready = admin.health.is_ready();
    let sick: Vec<String> =
        verdict.families.iter().filter(|family| !family.healthy).map(|family| family.family.to_string()).collect();
    let (state, detail) = if !sick.is_empty() {
        (State::Fail, format!("changes wait too long in {}", sick.join(", ")))
    } else if !is_ready {
        (State::Fail, "not ready: no sync has succeeded yet".to_owned())
    } else if verdict.node_eligible {
        (State::Ok, "healthy; load balancers may use this node".to_owned())
    } else if has_node {
        (State::Warn, "/healthz is 503, load balancers must not use this node: its Node is being deleted".to_owned())
    } else {
        (State::Fail, "/healthz is 503, load balancers must not use this node: its Node has not been seen".to_owned())
    };
    StatusRow::new("health", state, detail).with(json!({
        "healthz": if HealthAnswer::healthz(&verdict).ok { 200 } else { 503 },
        "ready": is_ready,
        "nodeEligible": verdict.node_eligible,
        "waitingFamilies": sick,
    }))
}
