//! Present faults, counted when somebody asks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::labels::ByReason;
use super::sources::WatchedSources;
use crate::instruments::FaultCounts;

/// What observers count, and what sources know.
#[derive(Debug)]
struct PresentFaults {
    counts: FaultCounts,
    sources: WatchedSources,
}

/// Shows them from now on.
pub(super) fn register(registry: &mut Registry, counts: FaultCounts, sources: WatchedSources) {
    registry.register_collector(Box::new(PresentFaults { counts, sources }));
}

impl Collector for PresentFaults {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counts = self.counts.all();
        for reason in ["InvalidField", "Unusable"] {
            counts.insert(reason, 0);
        }
        for (_, stats) in self.sources.watched() {
            for problem in stats.present() {
                let reason = if problem.field.is_empty() { "Unusable" } else { "InvalidField" };
                *counts.entry(reason).or_default() += 1;
            }
        }
        let help = "Faults that are present in objects and in this node's settings; portway faults lists them.";
        let mut metric = encoder.encode_descriptor("portway_faults", help, None, MetricType::Gauge)?;
        for (reason, count) in counts {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(metric.encode_family(&ByReason { reason })?)?;
        }
        Ok(())
    }
}
