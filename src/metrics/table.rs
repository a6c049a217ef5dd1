//! Our own metrics of the table and of what it is made from.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::labels::{ByFamily, ByOp, ByResult, BySet};
use crate::diff::Mirror;
use crate::instruments::add;
use crate::model::Family;
use crate::ruleset::{Op, SetId, Transaction};

#[derive(Debug, Clone)]
pub(super) struct TableMetrics {
    pub(super) transactions: Labelled<ByResult, Counter>,
    pub(super) transaction_duration: Histogram,
    elements: Labelled<BySet, Gauge>,
    pub(super) written: Labelled<ByOp, Counter>,
    pub(super) repairs: Counter,
    pub(super) repaired_elements: Counter,
    pub(super) services: Gauge,
    pub(super) set_aside: Gauge,
    pub(super) endpoints: Labelled<ByFamily, Gauge>,
}

impl TableMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("portway");
        Self {
            transactions: add(registry, "transactions", "Transactions sent to the kernel", Labelled::default()),
            transaction_duration: add(
                registry,
                "transaction_duration_seconds",
                "Time the kernel took for a transaction",
                Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            ),
            elements: add(registry, "elements", "Elements of each set and map of the table", Labelled::default()),
            written: add(registry, "elements_written", "Set and map elements added and deleted", Labelled::default()),
            repairs: add(
                registry,
                "drift_repairs",
                "Times the table was found changed by someone else and repaired",
                Counter::default(),
            ),
            repaired_elements: add(
                registry,
                "drift_repaired_elements",
                "Elements found changed by someone else and repaired",
                Counter::default(),
            ),
            services: add(registry, "services", "Services known", Gauge::default()),
            set_aside: add(
                registry,
                "services_set_aside",
                "Services that are not in force because the kernel refused an element of theirs",
                Gauge::default(),
            ),
            endpoints: add(registry, "endpoints", "Endpoints known, in slices of known Services", Labelled::default()),
        }
    }

    /// Counts what a sync has written.
    pub(super) fn wrote(&self, (added, deleted): (usize, usize)) {
        self.written.get_or_create(&ByOp { op: "add" }).inc_by(added as u64);
        self.written.get_or_create(&ByOp { op: "delete" }).inc_by(deleted as u64);
    }

    /// Counts what a transaction has changed.
    pub(super) fn follow(&self, mirror: &Mirror, transaction: &Transaction) {
        for (family, op) in &transaction.ops {
            if let Op::AddSet(name, _) | Op::AddElements(name, _) | Op::DeleteElements(name, _) = op {
                self.count(mirror, *family, name.set);
            }
        }
    }

    /// Counts the whole table of a family.
    pub(super) fn recount(&self, mirror: &Mirror, family: Family) {
        // Packets fill dynamic maps, not transactions.
        for set in SetId::ALL.into_iter().filter(|set| !set.spec().dynamic) {
            self.count(mirror, family, set);
        }
    }

    fn count(&self, mirror: &Mirror, family: Family, set: SetId) {
        let count = mirror.element_count(family, set);
        self.elements.get_or_create(&BySet::new(set, family)).set(count as i64);
    }

    /// The frontends of a family.
    pub(super) fn frontends(&self, family: Family) -> i64 {
        [SetId::Services, SetId::Nodeports].map(|set| self.elements_of(set, family)).iter().sum()
    }

    pub(super) fn elements_of(&self, set: SetId, family: Family) -> i64 {
        self.elements.get_or_create(&BySet::new(set, family)).get()
    }
}
