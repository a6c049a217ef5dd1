//! Direct return, where it is wanted.

use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{Configuration, Options};
use crate::controller::{Controller, Report};
use crate::direct::{self, DirectStatusHandle};
use crate::metrics::Metrics;
use crate::nftables::{self, KernelOptions};
use crate::ruleset::Kernel;

/// Begins it with the first sync. Without it everything else still works, and all connections go the ordinary way.
pub(super) fn start<K: Kernel>(
    configuration: &Configuration,
    options: &Options,
    controller: &mut Controller<K>,
    metrics: &Metrics,
) -> Option<DirectStatusHandle> {
    if options.direct_return_devices.is_empty() {
        return None;
    }
    let kernel = KernelOptions::new(configuration.table_ownership);
    match direct::start(options.direct_return_devices.clone(), kernel, metrics.faults()) {
        Ok((observer, status)) => {
            info!(devices = ?options.direct_return_devices, "direct return is on");
            controller.observe(observer);
            Some(status)
        }
        Err(cause) => {
            warn!(%cause, "cannot start direct return; all connections take the ordinary path");
            None
        }
    }
}

/// Removes the table of a process for which it was on. A node that has it hands packets on for ever.
pub(super) async fn remove_leftover(options: Options, mut reports: watch::Receiver<Report>) {
    // Only then the tables are known to be ours.
    let is_ours = reports.wait_for(|report| report.syncs > 0).await.is_ok();
    if !is_ours || !options.direct_return_devices.is_empty() {
        return;
    }
    match tokio::task::spawn_blocking(nftables::remove_direct_table).await {
        Ok(Ok(true)) => info!("direct return is off: deleted table netdev portway"),
        Ok(Err(cause)) => warn!(%cause, "cannot delete the table of direct return, which is off"),
        _ => {}
    }
}
