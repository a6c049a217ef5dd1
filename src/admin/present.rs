//! What `portway status` says of objects and of this node's settings.

use serde_json::{Value, json};

use super::{Admin, FaultRow, State, StatusRow, faults};
use crate::controller::Snapshot;
use crate::direct::DirectStatusHandle;
use crate::fast::FastStatusHandle;
use crate::model::Model;

/// A line for the objects, and one for the settings.
pub(super) fn status(admin: &Admin, snapshot: &Snapshot) -> [StatusRow; 2] {
    let problems = admin.metrics.present_problems();
    let faults = snapshot.mirror.as_ref().map(|mirror| faults::present(&snapshot.model, mirror, &problems).len());
    let objects = match faults {
        Some(0) => StatusRow::new("objects", State::Ok, "no faults"),
        Some(1) => StatusRow::new("objects", State::Warn, "1 fault; `portway faults` shows it"),
        Some(count) => StatusRow::new("objects", State::Warn, format!("{count} faults; `portway faults` shows them")),
        None => StatusRow::new("objects", State::Warn, "not known: no sync, or the last one failed"),
    };
    let found = of_node(admin, &snapshot.model);
    let settings = match found.as_slice() {
        [] if snapshot.report.syncs == 0 => {
            StatusRow::new("settings", State::Warn, "kernel settings are made after the first sync")
        }
        [] => StatusRow::new("settings", State::Ok, "all made, and none lacks data"),
        found => {
            let sentences: Vec<&str> = found.iter().map(|row| row.message.as_str()).collect();
            StatusRow::new("settings", State::Warn, sentences.join("; "))
        }
    };
    let field = |row: &FaultRow| json!({"reason": row.reason, "field": row.field, "message": row.message});
    let found: Vec<Value> = found.iter().map(field).collect();
    [objects.with(json!({"faults": faults})), settings.with(json!({"faults": found}))]
}

/// What of this node's settings is not as it was meant.
pub(super) fn of_node(admin: &Admin, model: &Model) -> Vec<FaultRow> {
    let row = |reason: &str, field: String, message: String| row(admin, reason, field, message);
    let lacks = admin.options.shortfalls(model).into_iter();
    let missing = admin.settings.missing().into_iter();
    lacks
        .map(|lack| row(lack.reason, lack.family.to_string(), lack.text))
        .chain(missing.map(|text| row("SettingNotMade", String::new(), text)))
        .collect()
}

/// What goes the ordinary way although direct return is on. `portway status` has a line of its own for it.
pub(super) fn of_direct_return(admin: &Admin) -> Vec<FaultRow> {
    let status = admin.direct.as_ref().and_then(DirectStatusHandle::get).unwrap_or_default();
    let rows = status.troubles.into_iter().map(|trouble| row(admin, "DirectReturn", String::new(), trouble));
    rows.collect()
}

/// The same of the fast path.
pub(super) fn of_fast_path(admin: &Admin) -> Vec<FaultRow> {
    let status = admin.fast.as_ref().and_then(FastStatusHandle::get).unwrap_or_default();
    let rows = status.troubles.into_iter().map(|trouble| row(admin, "FastPath", String::new(), trouble));
    rows.collect()
}

fn row(admin: &Admin, reason: &str, field: String, message: String) -> FaultRow {
    FaultRow {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: admin.options.node_name.to_string(),
        reason: reason.to_owned(),
        field,
        message,
        place: None,
    }
}
