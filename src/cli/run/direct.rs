//! Direct return, where it is wanted.

use tracing::{info, warn};

use super::leftover::Feature;
use crate::config::{Configuration, Options};
use crate::controller::Controller;
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

/// The table of a process for which it was on: a node that has it hands packets on for ever.
pub(super) const TABLE: Feature =
    Feature { name: "direct return", table: "netdev portway", remove: nftables::remove_direct_table };
