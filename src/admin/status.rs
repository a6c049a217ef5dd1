//! `portway status`: a line for each subsystem.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Admin, AdminError, State, StatusRow, comparison, present};
use crate::conntrack;
use crate::controller::Snapshot;
use crate::host::Flows;
use crate::host::sysctl::Roots;
use crate::model::Kind;
use crate::nftables::NftKernel;

pub(super) fn rows(admin: &Admin, kernel: &mut NftKernel) -> Vec<StatusRow> {
    let mut rows = vec![daemon(admin), configuration(admin)];
    match admin.snapshots.take(comparison::PATIENCE) {
        Ok(snapshot) => {
            rows.extend([source(admin, &snapshot), model(&snapshot), sync(admin, &snapshot)]);
            rows.extend(present::status(admin, &snapshot));
        }
        Err(cause) => rows.push(StatusRow::new("sync", State::Fail, cause.to_string())),
    }
    rows.extend([tables(admin, kernel), conntrack(), health(admin)]);
    rows
}

fn daemon(admin: &Admin) -> StatusRow {
    let up = admin.metrics.started().elapsed().unwrap_or_default();
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    StatusRow::new("daemon", State::Ok, format!("portway {version}, pid {pid}, up {}", in_words(up)))
}

fn configuration(admin: &Admin) -> StatusRow {
    let row = |state, detail: String| StatusRow::new("configuration", state, detail);
    let Some(file) = &admin.configuration.file else { return row(State::Ok, "from flags".to_owned()) };
    match &*admin.configuration.refused.borrow() {
        None => row(State::Ok, format!("from {}", file.display())),
        Some(cause) => row(
            State::Warn,
            format!(
                "{} was changed to something that cannot be used, the old one is in force: {cause}",
                file.display()
            ),
        ),
    }
}

fn source(admin: &Admin, snapshot: &Snapshot) -> StatusRow {
    let row = |state, detail: String| StatusRow::new("source", state, detail);
    let missing = [(Kind::Service, "Services"), (Kind::EndpointSlice, "EndpointSlices"), (Kind::Node, "our Node")];
    let missing: Vec<&str> =
        missing.iter().filter(|(kind, _)| !snapshot.model.has_listed(*kind)).map(|(_, name)| *name).collect();
    let sources = admin.metrics.watched_sources();
    let name = sources.first().map_or("not connected", |(name, _)| *name);
    let sum = |field: fn(&crate::source::SourceStats) -> &std::sync::atomic::AtomicU64| {
        sources.iter().map(|(_, stats)| field(stats).load(Ordering::Relaxed)).sum::<u64>()
    };
    if !missing.is_empty() {
        let errors = sum(|stats| &stats.errors);
        return row(State::Fail, format!("{name}: waiting for the list of {}; {errors} errors", missing.join(", ")));
    }
    let seen = admin.activity.seen();
    let mut detail = format!("{name}: last change {}", ago(seen.event));
    if let Some(latency) = seen.latency {
        detail += &format!(", in the kernel {latency:.1?} after its cause");
    }
    detail += &format!("; {} errors", sum(|stats| &stats.errors));
    row(State::Ok, detail)
}

fn model(snapshot: &Snapshot) -> StatusRow {
    let model = &snapshot.model;
    let node = model.node().map_or("no Node".to_owned(), |node| format!("Node {}", node.name));
    let mut detail = format!(
        "{} Services, {} EndpointSlices, {node}, {} ServiceCIDR ranges",
        model.service_count(),
        model.slice_count(),
        model.service_cidrs().len()
    );
    let set_aside: Vec<String> = model.all_set_aside().map(|(service, cause)| format!("{service} ({cause})")).collect();
    if set_aside.is_empty() {
        return StatusRow::new("model", State::Ok, detail);
    }
    detail += &format!("; set aside, because the kernel refused them: {}", set_aside.join(", "));
    StatusRow::new("model", State::Warn, detail)
}

fn sync(admin: &Admin, snapshot: &Snapshot) -> StatusRow {
    let seen = admin.activity.seen();
    let report = &snapshot.report;
    if let Some(cause) = seen.waiting {
        return StatusRow::new("sync", State::Warn, format!("waiting: {cause}"));
    }
    if !seen.failures.is_empty() {
        let causes: Vec<String> = seen.failures.iter().map(|(family, cause)| format!("{family}: {cause}")).collect();
        return StatusRow::new(
            "sync",
            State::Fail,
            format!("{} attempts failed: {}", report.failures, causes.join("; ")),
        );
    }
    let Some((at, duration)) = seen.sync else {
        return StatusRow::new("sync", State::Fail, "none yet");
    };
    let mut detail = format!(
        "{} syncs, the last {} in {duration:.1?}: {} elements added, {} deleted",
        report.syncs,
        ago(Some(at)),
        report.added,
        report.deleted
    );
    if let Some((at, repair)) = seen.repair {
        let times = if seen.repairs == 1 { "once".to_owned() } else { format!("{} times", seen.repairs) };
        detail += &format!("; tables changed by others {times}, the last time {}: {repair}", ago(Some(at)));
    }
    StatusRow::new("sync", State::Ok, detail)
}

fn tables(admin: &Admin, kernel: &mut NftKernel) -> StatusRow {
    let (state, detail) = match comparison::differences(kernel, &admin.snapshots) {
        Ok(found) if found.is_empty() => (State::Ok, "equal to what is desired".to_owned()),
        Ok(found) => (State::Fail, format!("differs in {} places; `portway diff` shows them", found.len())),
        Err(AdminError::NotSynced | AdminError::FamilyNotSynced(_)) => {
            (State::Fail, "not known to be right: no sync, or the last one failed".to_owned())
        }
        Err(cause) => (State::Fail, cause.to_string()),
    };
    StatusRow::new("kernel", state, detail)
}

fn conntrack() -> StatusRow {
    if let Err(cause) = conntrack::reach() {
        let detail = format!("cannot be listed: {cause}; {}", conntrack::UNREACHABLE);
        return StatusRow::new("conntrack", State::Warn, detail);
    }
    match Flows::read(&Roots::default()) {
        Some(flows) => {
            let state = if flows.is_nearly_full() { State::Warn } else { State::Ok };
            StatusRow::new("conntrack", state, flows.to_string())
        }
        None => StatusRow::new("conntrack", State::Ok, "not active"),
    }
}

fn health(admin: &Admin) -> StatusRow {
    let verdict = admin.health.verdict();
    let sick: Vec<String> =
        verdict.families.iter().filter(|family| !family.healthy).map(|family| family.family.to_string()).collect();
    let balancers = if verdict.node_eligible { "may" } else { "must not" };
    match (sick.is_empty(), admin.health.is_ready()) {
        (true, true) => {
            StatusRow::new("health", State::Ok, format!("healthy; load balancers {balancers} use this node"))
        }
        (true, false) => StatusRow::new("health", State::Fail, "not ready: no sync has succeeded yet"),
        (false, _) => StatusRow::new("health", State::Fail, format!("changes wait too long in {}", sick.join(", "))),
    }
}

fn ago(at: Option<Instant>) -> String {
    at.map_or("never".to_owned(), |at| format!("{} ago", in_words(at.elapsed())))
}

/// `3h2m`: the two largest units.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String =
        parts.iter().skip_while(|(n, _)| *n == 0).take(2).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_words() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m0s"), (3725, "1h2m"), (90_061, "1d1h")];
        for (seconds, text) in cases {
            assert_eq!(in_words(Duration::from_secs(seconds)), text);
        }
    }
}
