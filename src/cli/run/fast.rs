//! The fast path, where it is wanted.

use tokio::sync::watch;
use tracing::{info, warn};

use super::leftover::Feature;
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

/// The table of a process for which it was on.
pub(super) const TABLE: Feature =
    Feature { name: "the fast path", table: "inet portway", remove: nftables::remove_fast_table };
