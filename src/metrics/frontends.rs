//! Connections of each frontend, for those who want them: read from the kernel when somebody asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::labels;
use super::table::TableMetrics;
use crate::model::Family;
use crate::nftables::FrontendCount;
use crate::ruleset::KernelError;

/// Reads the counts of a family.
pub(super) type Read = Box<dyn FnMut(Family) -> Result<Vec<FrontendCount>, KernelError> + Send>;

/// How the counters are read, and up to how many frontends.
struct CountReader {
    read: Read,
    families: Vec<Family>,
    max: u32,
    /// The same complaint is not logged at each scrape.
    complained: bool,
}

#[derive(Clone)]
pub(super) struct FrontendMetrics {
    table: TableMetrics,
    wanted: Arc<Mutex<Option<CountReader>>>,
}

impl fmt::Debug for FrontendMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontendMetrics").finish_non_exhaustive()
    }
}

impl FrontendMetrics {
    pub(super) fn register(registry: &mut Registry, table: TableMetrics) -> Self {
        let this = Self { table, wanted: Arc::default() };
        registry.register_collector(Box::new(this.clone()));
        this
    }

    pub(super) fn show(&self, read: Read, families: &[Family], max: u32) {
        let wanted = CountReader { read, families: families.to_vec(), max, complained: false };
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
    }

    /// The counts; none where they are not wanted, where there are too many, and where they cannot be read.
    fn read(&self) -> Vec<(Family, FrontendCount)> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = wanted.as_mut() else { return Vec::new() };
        // Before the kernel is asked: a listing costs as much as it is long.
        let there = wanted.families.iter().map(|family| self.table.frontends(*family)).sum::<i64>();
        let complaint = if there > i64::from(wanted.max) {
            format!("{there} frontends are more than --frontend-metrics-max={}: none is shown", wanted.max)
        } else {
            match read(wanted) {
                Ok(counts) => {
                    wanted.complained = false;
                    return counts;
                }
                Err(error) => error.to_string(),
            }
        };
        if !std::mem::replace(&mut wanted.complained, true) {
            tracing::warn!("no metrics of frontends: {complaint}");
        }
        Vec::new()
    }
}

fn read(wanted: &mut CountReader) -> Result<Vec<(Family, FrontendCount)>, KernelError> {
    let mut all = Vec::new();
    for family in &wanted.families {
        let mut counts = (wanted.read)(*family)?;
        counts.sort_by(|a, b| (a.key, b.connections).cmp(&(b.key, a.connections)));
        counts.dedup_by_key(|count| count.key);
        all.extend(counts.into_iter().map(|count| (*family, count)));
    }
    Ok(all)
}

impl Collector for FrontendMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.read();
        if counts.is_empty() {
            return Ok(());
        }
        let help = "New connections of each frontend.";
        let mut metric = encoder.encode_descriptor("portway_frontend_connections", help, None, MetricType::Counter)?;
        for (family, count) in &counts {
            let labels = labels::FrontendLabels::new(&count.label, count.key.to_string(), *family);
            ConstCounter::new(count.connections).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
