//! A change of one table, put into the order the kernel wants.

use super::mirror::FamilyMirror;
use super::recorder::Recorder;
use crate::plan::Settings;
use crate::ruleset::{ChainId, Op, SetId, Transaction};

/// What is to be done to a table that is in force.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Chains to create.
    pub(super) came: Vec<ChainId>,
    /// Chains whose rules are to be written anew.
    pub(super) changed: Vec<ChainId>,
    /// Chains that are there and not wanted any more; they are deleted later.
    pub(super) went: Vec<ChainId>,
    /// Maps to replace, because they need another size.
    pub(super) resized: Vec<SetId>,
    /// Elements, besides those of the replaced maps.
    pub(super) elements: Recorder,
}

impl FamilyMirror {
    /// Appends the change that makes the table what this mirror, which is that far already, says.
    ///
    /// A map cannot change its size, nor go while rules name it. So these rules go, the map is deleted and made anew with
    /// all its elements, and the rules come again: packets see the old table, then the new one.
    pub(super) fn write(&self, settings: &Settings, mut change: Change, main: &mut Transaction) {
        let family = self.family;
        if !change.resized.is_empty() {
            let names_resized = |chain: &ChainId| {
                let rules = self.rules(settings, *chain);
                rules.iter().flatten().filter_map(|term| term.set()).any(|set| change.resized.contains(&set))
            };
            let others: Vec<ChainId> = self
                .all_chains()
                .into_iter()
                .filter(|chain| !change.came.contains(chain) && !change.changed.contains(chain))
                .filter(names_resized)
                .collect();
            change.changed.extend(others);
        }
        let emptied = change.went.iter().filter(|_| !change.resized.is_empty());

        for chain in &change.came {
            main.push(family, Op::AddChain(*chain));
        }
        for chain in change.changed.iter().chain(emptied) {
            main.push(family, Op::FlushChain(*chain));
        }
        for set in &change.resized {
            main.push(family, Op::DeleteSet(*set));
            main.push(family, Op::AddSet(*set, self.sizes.of(*set)));
            change.elements.forget(*set);
        }
        for chain in change.came.iter().chain(&change.changed) {
            self.add_rules(settings, *chain, main);
        }
        if !change.resized.is_empty() {
            for (set, element) in self.elements().filter(|(set, _)| change.resized.contains(set)) {
                change.elements.add(set, element);
            }
        }
        change.elements.finish(family, main);
    }

    pub(super) fn add_rules(&self, settings: &Settings, chain: ChainId, main: &mut Transaction) {
        for rule in self.rules(settings, chain) {
            main.push(self.family, Op::AddRule(chain, rule));
        }
    }
}
