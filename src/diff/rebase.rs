//! The whole table against what the kernel really holds.

use std::collections::HashMap;

use super::mirror::{FamilyMirror, Mirror, shared_element};
use super::recorder::Recorder;
use crate::model::Family;
use crate::plan::{Settings, endpoint_element};
use crate::ruleset::{Bytes, ChainId, Element, Listing, Op, SetId, Table, Transaction, lower};

impl Mirror {
    /// The transactions that turn the kernel's table of a family (`None`: there is none) into the mirror's: the change
    /// itself, and the deletion of chains that are left over. Both are empty when the kernel is right.
    pub fn rebase(&self, family: Family, kernel: Option<&Table>) -> (Transaction, Transaction) {
        let (mut main, mut after) = (Transaction::default(), Transaction::default());
        let Some(mirror) = self.families.iter().find(|mirror| mirror.family == family) else {
            if kernel.is_some() {
                main.push(family, Op::DeleteTable);
            }
            return (main, after);
        };
        match kernel {
            Some(table) if is_usable(table) => mirror.repair(&self.settings, table, &mut main, &mut after),
            Some(_) => {
                main.push(family, Op::DeleteTable);
                mirror.create(&self.settings, &mut main);
            }
            None => mirror.create(&self.settings, &mut main),
        }
        (main, after)
    }

    /// The families the mirror serves.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.families.iter().map(|mirror| mirror.family)
    }

    /// How many elements each set and map of a family has.
    pub fn element_counts(&self, family: Family) -> HashMap<SetId, usize> {
        let mirror = self.families.iter().find(|mirror| mirror.family == family);
        let mut counts = HashMap::new();
        for (set, _) in mirror.map(FamilyMirror::elements).unwrap_or_default() {
            *counts.entry(set).or_default() += 1;
        }
        counts
    }

    /// The table of a family as a listing shows it; `None` when the family is not served.
    pub fn listing(&self, family: Family) -> Option<Listing> {
        let mirror = self.families.iter().find(|mirror| mirror.family == family)?;
        let chains = mirror.all_chains().into_iter().map(|chain| (chain, mirror.rules(&self.settings, chain)));
        let mut listing = Listing { chains: chains.collect(), ..Listing::new(family) };
        for (set, element) in mirror.elements() {
            listing.sets.entry(set).or_default().insert(element.key, element);
        }
        Some(listing)
    }
}

/// Whether the table can be repaired piece by piece: all its objects are ours, and no set is missing.
fn is_usable(table: &Table) -> bool {
    table.foreign.is_empty() && SetId::ALL.iter().all(|set| table.sets.contains_key(set))
}

impl FamilyMirror {
    fn create(&self, settings: &Settings, main: &mut Transaction) {
        let family = self.family;
        main.push(family, Op::AddTable);
        for set in SetId::ALL {
            main.push(family, Op::AddSet(set));
        }
        let chains = self.all_chains();
        for chain in &chains {
            main.push(family, Op::AddChain(*chain));
        }
        for chain in chains {
            self.add_rules(settings, chain, main);
        }
        let mut recorder = Recorder::default();
        for (set, element) in self.elements() {
            recorder.add(set, element);
        }
        recorder.finish(family, main);
    }

    fn repair(&self, settings: &Settings, table: &Table, main: &mut Transaction, after: &mut Transaction) {
        let family = self.family;
        let chains = self.all_chains();
        for chain in chains.iter().filter(|chain| !table.chains.contains_key(chain)) {
            main.push(family, Op::AddChain(*chain));
        }
        for chain in &chains {
            match table.chains.get(chain) {
                Some(code) => {
                    let wanted: Vec<_> = self.rules(settings, *chain).iter().map(|rule| lower(family, rule)).collect();
                    if *code != wanted {
                        main.push(family, Op::FlushChain(*chain));
                        self.add_rules(settings, *chain, main);
                    }
                }
                None => self.add_rules(settings, *chain, main),
            }
        }
        let mut recorder = Recorder::default();
        self.compare_elements(table, &mut recorder);
        recorder.finish(family, main);
        for chain in table.chains.keys().filter(|chain| !chains.contains(chain)) {
            after.push(family, Op::DeleteChain(*chain));
        }
    }

    fn compare_elements(&self, table: &Table, recorder: &mut Recorder) {
        let mut extra: HashMap<SetId, HashMap<&Bytes, &Element>> =
            table.sets.iter().map(|(set, elements)| (*set, elements.iter().collect())).collect();
        extra.remove(&SetId::Affinity);
        for (set, element) in self.elements() {
            match extra.get_mut(&set).and_then(|elements| elements.remove(&element.key)) {
                Some(present) if *present == element => {}
                Some(present) => {
                    recorder.delete(set, present.clone());
                    recorder.add(set, element);
                }
                None => recorder.add(set, element),
            }
        }
        for (set, elements) in extra {
            for element in elements.into_values() {
                recorder.delete(set, element.clone());
            }
        }
    }

    fn add_rules(&self, settings: &Settings, chain: ChainId, main: &mut Transaction) {
        for rule in self.rules(settings, chain) {
            main.push(self.family, Op::AddRule(chain, rule));
        }
    }

    fn elements(&self) -> Vec<(SetId, Element)> {
        let mut all: Vec<(SetId, Element)> =
            self.globals.iter().map(|member| (member.set, member.element.clone())).collect();
        all.extend(self.shared.keys().map(|(set, key)| (set, shared_element(key))));
        for frontend in self.services.values().flat_map(|state| &state.frontends) {
            all.extend(frontend.members().into_iter().map(|member| (member.set, member.element)));
            let key = frontend.key.bytes();
            for (map, _, targets) in frontend.endpoint_lists() {
                all.extend(targets.iter().enumerate().map(|(slot, t)| (map.set(), endpoint_element(&key, slot, t))));
            }
        }
        all
    }
}
