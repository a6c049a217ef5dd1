//! Endpoints that are gone: for a while, packets of TCP connections to them are answered with a reset.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ExistingLayout;
use super::mirror::{FamilyMirror, Mirror};
use super::recorder::OpRecorder;
use crate::model::{Changes, Family, Model};
use crate::plan::{Member, Target};
use crate::ruleset::{ChainId, SetId, Table};

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

    fn add(&mut self, targets: impl IntoIterator<Item = Target>, until: Instant) {
        for target in targets {
            if self.0.len() < GONE_MAX || self.0.contains_key(&target) {
                self.0.insert(target, until);
            }
        }
    }
}

impl Mirror {
    /// Takes note of which endpoints have left all slices, which have come back, and whose time is over. The next
    /// [`Mirror::update`] puts it into the tables.
    pub fn note_gone(&mut self, model: &Model, changes: &Changes, reset_for: Duration, now: Instant) {
        self.gone.0.retain(|_, until| *until > now);
        if !self.gone.0.is_empty() {
            for slice in changes.services.iter().flat_map(|service| model.slices(service)) {
                for (ip, port) in slice.tcp_targets() {
                    self.gone.0.remove(&Target { ip, port });
                }
            }
        }
        if !reset_for.is_zero() {
            let departed = model.departed(changes).into_iter().map(|(ip, port)| Target { ip, port });
            self.gone.add(departed, now + reset_for);
        }
    }

    /// Goes on with the endpoints that the process before this one had in a table, their time beginning anew.
    pub fn adopt_gone(&mut self, existing: &ExistingLayout<'_>, model: &Model, reset_for: Duration, now: Instant) {
        if reset_for.is_zero() || existing.gone.is_empty() {
            return;
        }
        let mut gone = existing.gone.clone();
        for (ip, port) in model.all_slices().flat_map(|slice| slice.tcp_targets()) {
            gone.remove(&Target { ip, port });
        }
        gone.retain(|target| !self.gone.0.contains_key(target));
        self.gone.add(gone, now + reset_for);
    }

    /// When the next endpoint is to be forgotten.
    pub fn forgets_at(&self) -> Option<Instant> {
        self.gone.0.values().min().copied()
    }
}

impl FamilyMirror {
    /// Has the table of the family answer for these endpoints. The chains that do so are there as long as there is one.
    pub(super) fn update_gone(&mut self, gone: BTreeSet<Target>, recorder: &mut OpRecorder) {
        if gone == self.gone {
            return;
        }
        let before = std::mem::replace(&mut self.gone, gone);
        for target in before.difference(&self.gone) {
            recorder.delete_member(Member::gone(*target));
        }
        for target in self.gone.difference(&before) {
            recorder.add_member(Member::gone(*target));
        }
        for chain in ChainId::RESETS {
            match (before.is_empty(), self.gone.is_empty()) {
                (true, false) => self.chains.add(chain),
                (false, true) => self.chains.remove(chain),
                _ => {}
            }
        }
    }
}

/// The endpoints that a table answers for.
pub(super) fn in_table(table: &Table) -> BTreeSet<Target> {
    let elements = table.sets.get(&SetId::Gone).into_iter().flat_map(|elements| elements.values());
    elements.filter_map(|element| super::slots::target(&element.key)).collect()
}

#[cfg(test)]
#[path = "gone_tests.rs"]
mod tests;
