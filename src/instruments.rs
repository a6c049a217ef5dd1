//! Measurements that sources take. The module `metrics` exposes them; sources need not know how.

mod client;
mod faults;

use prometheus_client::registry::{Metric, Registry};

pub use client::{RestClientLayer, RestClientMetrics, RestClientService};
pub use faults::FaultCounts;

/// Registers a metric and keeps a handle.
pub(crate) fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
