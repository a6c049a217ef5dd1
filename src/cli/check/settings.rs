//! Settings that lack data: those of a configuration, or what the daemon says of its own.

use super::{CheckArgs, CheckRow, direct, fast};
use crate::admin::{ClientError, FaultRow};
use crate::config::{Configuration, Flags};
use crate::model::Family;

const WHAT: &str = "settings";
const REMEDY: &str = "see the end of the sentence";

pub(super) fn rows(args: &CheckArgs) -> anyhow::Result<Vec<CheckRow>> {
    let flags = match &args.config {
        Some(path) => {
            let config = format!("--config={}", path.display());
            Some(Flags::parse(["kube-proxy".into(), config.into()])?)
        }
        None => Some(args.plan.flags.0.clone()).filter(|flags| *flags != Flags::default()),
    };
    match flags {
        Some(flags) => of_configuration(flags),
        None => of_daemon(args),
    }
}

fn of_configuration(flags: Flags) -> anyhow::Result<Vec<CheckRow>> {
    let configuration = Configuration::load(flags)?;
    let mut rows: Vec<CheckRow> = configuration
        .notes
        .iter()
        .map(|note| CheckRow::warn(WHAT, note.text.clone(), "see docs/configuration.md"))
        .collect();
    // Which families Services use is not known here.
    let lacks = configuration.options().pod_detection_lacks(Family::Ipv4).into_iter();
    rows.extend(lacks.map(|text| CheckRow::warn(WHAT, text, REMEDY)));
    if rows.is_empty() {
        rows.push(CheckRow::ok(WHAT, "valid, and none lacks data"));
    }
    rows.extend(direct::of_configuration(&configuration.direct_return_devices));
    rows.extend(fast::of_configuration(&configuration.fast_path_devices));
    Ok(rows)
}

fn of_daemon(args: &CheckArgs) -> anyhow::Result<Vec<CheckRow>> {
    let faults: Vec<FaultRow> = match args.daemon.client().get("/faults") {
        Ok(faults) => faults,
        Err(ClientError::Down { .. }) => {
            return Ok(vec![CheckRow::ok(
                WHAT,
                "not looked at: no daemon answers; give --config FILE, or flags of run",
            )]);
        }
        Err(cause) => return Ok(vec![CheckRow::warn(WHAT, cause.to_string(), "see `portway status`")]),
    };
    // These have rows of their own.
    let others = faults.into_iter().filter(|fault| !["DirectReturn", "FastPath"].contains(&fault.reason.as_str()));
    let (of_node, of_others): (Vec<FaultRow>, Vec<FaultRow>) =
        others.partition(|fault| matches!(fault.reason.as_str(), "NoPodRange" | "NoNodeAddress" | "SettingNotMade"));
    let mut rows: Vec<CheckRow> =
        of_node.into_iter().map(|fault| CheckRow::warn(WHAT, fault.message, REMEDY)).collect();
    if rows.is_empty() {
        rows.push(CheckRow::ok(WHAT, "the daemon's are all made, and none lacks data"));
    }
    rows.push(match of_others.len() {
        0 => CheckRow::ok("objects", "no faults"),
        count => CheckRow::warn("objects", format!("faults: {count}"), "`portway faults` shows them"),
    });
    if let Ok(report) = args.daemon.client().get("/status") {
        rows.extend(direct::of_daemon(&report));
        rows.extend(fast::of_daemon(&report));
    }
    Ok(rows)
}
