//! The fast path, where it is wanted.

use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::settings;
use crate::config::{Configuration, Options};
use crate::controller::Report;
use crate::fast::{self, FastStatusHandle};
use crate::metrics::Metrics;
use crate::nftables::{self, KernelOptions};

/// Begins it with the first sync. Without it everything else still works, and all connections take the ordinary path.
pub(super) fn start(
    configuration: &Configuration,
    options: &Options,
    metrics: &Metrics,
    reports: watch::Receiver<Report>,
) -> Option<FastStatusHandle> {
    if options.fast_path_devices.is_empty() {
        return None;
    }
    let kernel = KernelOptions::new(configuration.table_ownership);
    let (devices, roots) = (options.fast_path_devices.clone(), settings::roots(configuration));
    match fast::start(devices, kernel, roots, reports, metrics.faults()) {
        Ok(status) => {
            info!(devices = ?options.fast_path_devices, "the fast path is on");
            Some(status)
        }
        Err(cause) => {
            warn!(%cause, "cannot start the fast path; all connections take the ordinary path");
            None
        }
    }
}

/// Removes the table of a process for which it was on.
pub(super) async fn remove_leftover(options: Options, mut reports: watch::Receiver<Report>) {
    // Only then the tables are known to be ours.
    let is_ours = reports.wait_for(|report| report.syncs > 0).await.is_ok();
    if !is_ours || !options.fast_path_devices.is_empty() {
        return;
    }
    match tokio::task::spawn_blocking(nftables::remove_fast_table).await {
        Ok(Ok(true)) => info!("the fast path is off: deleted table inet portway"),
        Ok(Err(cause)) => warn!(%cause, "cannot delete the table of the fast path, which is off"),
        _ => {}
    }
}
