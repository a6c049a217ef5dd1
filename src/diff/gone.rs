//! Endpoints that are gone, as long as they are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::slots;
use crate::model::Family;
use crate::plan::Target;
use crate::ruleset::{SetId, Table};

/// The most endpoints that are remembered. More go at once only when a whole cluster does; the set takes some 100 bytes of
/// kernel memory for each.
const GONE_MAX: usize = 1 << 16;

/// Endpoints that are gone, with the moment at which they are forgotten.
#[derive(Debug, Clone, Default)]
pub(super) struct Gone(BTreeMap<Target, Instant>);

impl Gone {
    /// Those of a family.
    pub(super) fn of_family(&self, family: Family) -> BTreeSet<Target> {
        self.0.keys().copied().filter(|target| Family::of(target.ip) == family).collect()
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, until| *until > now);
    }

    /// Forgets one, which is back.
    pub(super) fn remove(&mut self, target: Target) {
        self.0.remove(&target);
    }

    /// Whether one is remembered.
    pub(super) fn contains(&self, target: Target) -> bool {
        self.0.contains_key(&target)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next one is to be forgotten.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Remembers these until some moment.
    pub(super) fn add(&mut self, targets: impl IntoIterator<Item = Target>, until: Instant) {
        for target in targets {
            if self.0.len() < GONE_MAX || self.0.contains_key(&target) {
                self.0.insert(target, until);
            }
        }
    }
}

/// The endpoints that a table answers for.
pub(super) fn in_table(table: &Table) -> BTreeSet<Target> {
    let elements = table.sets.get(&SetId::Gone).into_iter().flat_map(|elements| elements.values());
    elements.filter_map(|element| slots::target(&element.key)).collect()
}
