//! From the sync loop to metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Metrics;
use super::labels::{ByFamily, ByResult};
use super::services::Shares;
use crate::controller::{Observer, Repair, Synced};
use crate::model::{Event, Family};
use crate::ruleset::KernelError;

/// Tells [`Metrics`] what the sync loop does.
///
/// Each family has transactions and observations of its own.
#[derive(Debug)]
pub struct MetricsObserver {
    metrics: Arc<Metrics>,
    families: Vec<Family>,
    shares: Shares,
    /// The families whose next sync compares everything.
    full: BTreeSet<Family>,
}

impl MetricsObserver {
    /// An observer for a loop that serves these families and starts now.
    pub fn new(metrics: Arc<Metrics>, families: &[Family]) -> Self {
        let this = Self {
            metrics,
            families: families.to_vec(),
            shares: Shares::default(),
            full: families.iter().copied().collect(),
        };
        this.queued();
        // `increase()` sees a first failure only if there was a zero before it.
        drop(this.metrics.table.transactions.get_or_create(&ByResult { result: "error" }));
        this.for_each_family(|family| {
            drop(this.metrics.sync.sync_failures.get_or_create(family));
            drop(this.metrics.sync.cleanup_failures.get_or_create(family));
        });
        this
    }

    fn queued(&self) {
        let now = unix(SystemTime::now());
        self.for_each_family(|family| {
            self.metrics.sync.last_queued.get_or_create(family).set(now);
        });
    }

    fn for_each_family(&self, mut work: impl FnMut(&ByFamily)) {
        self.families.iter().for_each(|family| work(&ByFamily::from(*family)));
    }

    /// A run took this long, whatever came of it.
    fn ran(&self, family: Family, full: bool, duration: Duration) {
        let sync = &self.metrics.sync;
        for histograms in [&sync.duration, if full { &sync.full_duration } else { &sync.partial_duration }] {
            histograms.get_or_create(&ByFamily::from(family)).observe(duration.as_secs_f64());
        }
    }

    /// A sync has taken all changes.
    fn took_changes(&self) {
        self.metrics.sync.endpoint_changes_pending.set(0);
        self.metrics.sync.service_changes_pending.set(0);
    }

    fn count_changes(&self, batch: &[Event]) {
        let sync = &self.metrics.sync;
        for event in batch {
            match event {
                Event::Slice(slice) if self.families.contains(&slice.family) => {
                    sync.endpoint_changes.inc();
                    sync.endpoint_changes_pending.inc();
                }
                Event::SliceDeleted(_) => {
                    sync.endpoint_changes.inc();
                    sync.endpoint_changes_pending.inc();
                }
                Event::Service(_) | Event::ServiceDeleted(_) => {
                    sync.service_changes.inc_by(self.families.len() as u64);
                    sync.service_changes_pending.inc();
                }
                _ => {}
            }
        }
    }

    /// Specification 10.3. The model leaves out times from before the start.
    fn observe_latency(&self, sync: &Synced<'_>, now: SystemTime) {
        for ((_, family), times) in &sync.changes.triggers {
            if *family != sync.family {
                continue;
            }
            for time in times {
                // The other clock may be ahead.
                let latency = now.duration_since(*time).unwrap_or_default().as_secs_f64();
                self.metrics.sync.programming.get_or_create(&ByFamily::from(*family)).observe(latency);
            }
        }
    }
}

impl Observer for MetricsObserver {
    fn received(&mut self, batch: &[Event]) {
        self.count_changes(batch);
    }

    fn requested(&mut self) {
        self.queued();
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        let now = SystemTime::now();
        self.full.remove(&sync.family);
        self.took_changes();
        // Nobody asked for a sync of no changes.
        if sync.full || !sync.changes.is_empty() {
            self.ran(sync.family, sync.full, sync.duration);
        }
        self.metrics.sync.last.get_or_create(&ByFamily::from(sync.family)).set(unix(now));
        self.observe_latency(sync, now);
        self.shares.follow(sync);
        let table = &self.metrics.table;
        self.shares.show(sync.family, &self.metrics.sync, table);
        table.wrote(sync.elements);
        table.services.set(sync.model.service_count() as i64);
        table.set_aside.set(sync.model.all_set_aside().len() as i64);
        if sync.full {
            table.recount(sync.mirror, sync.family);
        } else {
            table.follow(sync.mirror, sync.transaction);
        }
    }

    fn failed(&mut self, family: Family, _: &KernelError, duration: Duration) {
        if !self.families.contains(&family) {
            return;
        }
        self.took_changes();
        // The next one compares everything.
        let full = !self.full.insert(family);
        self.ran(family, full, duration);
        self.metrics.sync.sync_failures.get_or_create(&ByFamily::from(family)).inc();
    }

    fn cleanup_failed(&mut self, family: Family, _: &KernelError) {
        self.metrics.sync.cleanup_failures.get_or_create(&ByFamily::from(family)).inc();
    }

    fn repaired(&mut self, repair: &Repair) {
        self.metrics.table.repairs.inc();
        self.metrics.table.repaired_elements.inc_by((repair.added + repair.deleted) as u64);
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
