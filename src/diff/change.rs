//! A change of one table, put into the order the kernel wants.

use std::collections::BTreeSet;

use super::Steps;
use super::mirror::FamilyMirror;
use super::recorder::OpRecorder;
use crate::plan::Settings;
use crate::ruleset::{ChainId, Op, SetId, Transaction};

/// What is to be done to a table that is in force.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Chains to create.
    pub(super) came: Vec<ChainId>,
    /// Chains that were to go, are there with whatever rules, and are wanted again: nothing leads to them until `main`.
    pub(super) back: Vec<ChainId>,
    /// Chains whose rules are to be written anew.
    pub(super) changed: Vec<ChainId>,
    /// Chains that are there and not wanted any more.
    pub(super) went: Vec<ChainId>,
    /// Optional sets to create.
    pub(super) came_sets: BTreeSet<SetId>,
    /// Optional sets that are there and not wanted any more.
    pub(super) went_sets: BTreeSet<SetId>,
    /// Maps to replace, because they need another size; the mirror has the names of their successors.
    pub(super) resized: Vec<SetId>,
    /// Maps whose successors have all elements; the mirror has their names.
    pub(super) filled: Vec<SetId>,
    /// Chains that have rules for these successors already.
    pub(super) bound: Vec<ChainId>,
    /// Chains with rules that no packet meets, for successors that are to go: how many are in force, and how many there are.
    pub(super) surplus: Vec<(ChainId, usize, usize)>,
    /// Elements, besides those of the replaced maps.
    pub(super) elements: OpRecorder,
}

impl FamilyMirror {
    /// Appends what deletes rules that no packet meets, and that keep maps from being deleted.
    pub(super) fn delete_surplus(&self, change: &Change, steps: &mut Steps) {
        for (chain, count, of) in change.surplus.iter().copied() {
            steps.first.push(self.family, Op::KeepRules { chain, kept: 0..count, of });
        }
    }

    /// Appends the change that makes the kernel's table equal to this mirror, which has been updated already.
    ///
    /// A map cannot change its size, so its successor comes in its place. At any moment all rules of a table use the same
    /// one of its two names: a restart finds what is in force.
    pub(super) fn write(&self, settings: &Settings, mut change: Change, steps: &mut Steps) {
        let (family, names) = (self.family, self.sizes.names());
        let replaced = [&change.resized[..], &change.filled].concat();
        if !replaced.is_empty() {
            let names_resized = |chain: &ChainId| {
                let rules = self.rules_in_force(settings, *chain);
                rules.iter().flatten().filter_map(|term| term.set()).any(|name| replaced.contains(&name.set))
            };
            let others: Vec<ChainId> = self
                .all_chains()
                .into_iter()
                .filter(|chain| ![&change.changed, &change.bound].iter().any(|known| known.contains(chain)))
                .filter(names_resized)
                .collect();
            change.changed.extend(others);
        }
        let emptied = change.went.iter().filter(|_| !replaced.is_empty() || !self.successors.is_empty());

        for set in &change.came_sets {
            steps.first.push(family, Op::AddSet(names.of(*set), self.sizes.of(*set)));
        }
        for chain in &change.came {
            steps.first.push(family, Op::AddChain(*chain));
        }
        for set in &change.resized {
            let name = names.of(*set);
            steps.first.push(family, Op::AddSet(name, self.sizes.of(*set)));
            steps.resized.push((family, *set));
            change.elements.forget(*set);
        }
        // Others are emptied first. But chains are in use as long as verdicts lead to them.
        for set in change.resized.iter().chain(change.filled.iter().filter(|set| set.leads_to_chains())) {
            steps.replaced.push(family, Op::DeleteSet(names.of(*set).other()));
        }
        self.keep_rules(settings, &change.bound, true, &mut steps.main);
        for chain in &change.back {
            steps.first.push(family, Op::FlushChain(*chain));
        }
        // Like all others they name the maps in force until `main`; no new element can be in these, so packets are dropped.
        let mut until_now = names.clone();
        change.resized.iter().for_each(|set| until_now.switch(*set));
        for chain in change.came.iter().chain(&change.back) {
            let rules = match change.resized.is_empty() {
                true => self.rules(settings, *chain),
                false => self.rules_naming(&until_now, settings, *chain),
            };
            rules.into_iter().for_each(|rule| steps.first.push(family, Op::AddRule(*chain, rule)));
        }
        for chain in change.changed.iter().chain(emptied) {
            steps.main.push(family, Op::FlushChain(*chain));
        }
        for chain in &change.changed {
            self.add_rules(settings, *chain, &mut steps.main);
        }
        change.elements.finish(family, names, &mut steps.main);
        for chain in change.went {
            steps.after.push(family, Op::DeleteChain(chain));
        }
        // They have no elements by now, so it makes no difference to a packet that is still processed by those rules.
        for set in change.went_sets {
            steps.after.push(family, Op::DeleteSet(names.of(set)));
        }
    }

    /// What could not be deleted, and is not wanted again, is deleted with this change.
    pub(super) fn repeat_deletions(&self, change: &mut Change) {
        change.went.extend(self.undeleted.iter().filter(|chain| !self.chains.contains(chain)));
        change.went_sets.extend(self.undeleted_sets.difference(&self.optional));
    }

    pub(super) fn add_rules(&self, settings: &Settings, chain: ChainId, main: &mut Transaction) {
        for rule in self.rules(settings, chain) {
            main.push(self.family, Op::AddRule(chain, rule));
        }
    }
}
