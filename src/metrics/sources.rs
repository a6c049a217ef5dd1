//! The counters of sources, read when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::labels::BySource;
use crate::source::SourceStats;

/// A source's name and counters.
pub(super) type Watched = (&'static str, Arc<SourceStats>);

/// The sources whose counters are shown.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchedSources(Arc<Mutex<Vec<Watched>>>);

impl WatchedSources {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register_collector(Box::new(this.clone()));
        this
    }

    pub(super) fn watch(&self, name: &'static str, stats: Arc<SourceStats>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, stats));
    }

    pub(super) fn watched(&self) -> Vec<Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type CounterField = fn(&SourceStats) -> &AtomicU64;

const COUNTERS: [(&str, &str, CounterField); 4] = [
    ("portway_source_problems", "Faults found in objects.", |stats| &stats.problems),
    ("portway_source_skipped_objects", "Objects left out as a whole.", |stats| &stats.skipped),
    ("portway_source_errors", "Failed requests, watches and reads.", |stats| &stats.errors),
    ("portway_source_lists", "Complete lists and reloads.", |stats| &stats.lists),
];

impl Collector for WatchedSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.is_empty() {
            return Ok(());
        }
        for (name, help, field) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (source, stats) in sources.iter() {
                let labels = BySource { source };
                ConstCounter::new(field(stats).load(Ordering::Relaxed)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
