//! What `portway status` says of objects and of this node's settings.

use super::{Admin, FaultRow, State, StatusRow, faults};
use crate::controller::Snapshot;
use crate::model::Model;

/// A line for the objects, and one for the settings.
pub(super) fn status(admin: &Admin, snapshot: &Snapshot) -> [StatusRow; 2] {
    let objects = match &snapshot.mirror {
        Some(mirror) => {
            let count = faults::present(&snapshot.model, mirror, &admin.metrics.present_problems()).len();
            match count {
                0 => StatusRow::new("objects", State::Ok, "no faults"),
                1 => StatusRow::new("objects", State::Warn, "1 fault; `portway faults` shows it"),
                count => StatusRow::new("objects", State::Warn, format!("{count} faults; `portway faults` shows them")),
            }
        }
        None => StatusRow::new("objects", State::Warn, "not known: no sync, or the last one failed"),
    };
    let found: Vec<String> = of_node(admin, &snapshot.model).into_iter().map(|row| row.message).collect();
    let settings = match found.as_slice() {
        [] => StatusRow::new("settings", State::Ok, "all made, and none lacks data"),
        found => StatusRow::new("settings", State::Warn, found.join("; ")),
    };
    [objects, settings]
}

/// What of this node's settings is not as it was meant.
pub(super) fn of_node(admin: &Admin, model: &Model) -> Vec<FaultRow> {
    let row = |reason: &str, field: String, message: String| FaultRow {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: admin.options.node_name.to_string(),
        reason: reason.to_owned(),
        field,
        message,
        place: None,
    };
    let lacks = admin.options.shortfalls(model).into_iter();
    let missing = admin.settings.missing().into_iter();
    lacks
        .map(|lack| row(lack.reason, lack.family.to_string(), lack.text))
        .chain(missing.map(|text| row("SettingNotMade", String::new(), text)))
        .collect()
}
