//! What sources count and measure while they work. [`crate::metrics`] shows it; sources need not know how.

mod client;
mod source;

use prometheus_client::registry::{Metric, Registry};

pub use client::{RestClientLayer, RestClientMetrics, RestClientService};
pub use source::SourceStats;

/// Registers a metric and keeps a handle.
pub(crate) fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
