//! Tables that a process before this one made for what is off now.

use tokio::sync::watch;
use tracing::{info, warn};

use crate::controller::Report;
use crate::ruleset::KernelError;

/// Something with a table of its own.
pub(super) struct Feature {
    /// As messages call it.
    pub(super) name: &'static str,
    /// Its table.
    pub(super) table: &'static str,
    /// Deletes the table; whether there was one.
    pub(super) remove: fn() -> Result<bool, KernelError>,
}

/// Removes the table of a feature that is off, after the first sync.
pub(super) async fn remove(feature: Feature, mut reports: watch::Receiver<Report>) {
    // Only then the tables are known to be ours.
    if reports.wait_for(|report| report.syncs > 0).await.is_err() {
        return;
    }
    let Feature { name, table, remove } = feature;
    match tokio::task::spawn_blocking(remove).await {
        Ok(Ok(true)) => info!("{name} is off: deleted table {table}"),
        Ok(Err(cause)) => warn!(%cause, "cannot delete the table of {name}, which is off"),
        _ => {}
    }
}
