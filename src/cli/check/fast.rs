//! Whether the fast path can work here, where it is configured. The ordinary path serves what it cannot, so nothing here fails.

use std::sync::Arc;

use super::CheckRow;
use crate::admin::{State, StatusReport};
use crate::fast::UNABLE;
use crate::nftables::{FastKernel, KernelOptions};

const WHAT: &str = "fast path";
const ORDINARY: &str = "connections take the ordinary path";

/// With the interfaces of a configuration.
pub(super) fn of_configuration(configured: &[Arc<str>]) -> Vec<CheckRow> {
    if configured.is_empty() { Vec::new() } else { vec![kernel()] }
}

/// With what the daemon says.
pub(super) fn of_daemon(report: &StatusReport) -> Vec<CheckRow> {
    let Some(row) = report.subsystems.iter().find(|row| row.subsystem == "fast-path") else { return Vec::new() };
    let daemon = match row.state {
        State::Ok => CheckRow::ok(WHAT, &row.detail),
        _ => CheckRow::warn(WHAT, &row.detail, "see docs/fast-path.md"),
    };
    vec![kernel(), daemon]
}

fn kernel() -> CheckRow {
    let what = format!("{WHAT}, kernel");
    match FastKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.trial()) {
        Ok(()) => CheckRow::ok(&what, "has flow tables"),
        Err(cause) => CheckRow::warn(&what, format!("{cause}: {ORDINARY}"), UNABLE),
    }
}
