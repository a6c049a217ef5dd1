//! Measurements that sources take, and states of what works beside the tables of Services. The modules `metrics` and `admin`
//! show them; who makes them need not know how.

mod client;
mod faults;
mod status;

use prometheus_client::registry::{Metric, Registry};

pub use client::{RestClientLayer, RestClientMetrics, RestClientService};
pub use faults::FaultCounts;
pub use status::{StatusHandle, Troubled};

/// Registers a metric and keeps a handle.
pub(crate) fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
