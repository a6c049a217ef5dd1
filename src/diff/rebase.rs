//! Compares the whole table with what the kernel holds.

use std::collections::BTreeMap;

use foldhash::HashSet;

use super::Steps;
use super::affinity;
use super::change::Change;
use super::load::Load;
use super::mirror::{FamilyMirror, Mirror};
use super::recorder::OpRecorder;
use super::shared::SharedElement;
use crate::model::Family;
use crate::plan::{Frontend, Member, Settings, endpoint_element};
use crate::ruleset::{Bytes, Element, Elements, Foreign, Op, SetId, Table, encode_rule, end_of_chain};

impl Mirror {
    /// The transactions that turn the kernel's table of a family (`None`: there is none) into the mirror's. None when the
    /// kernel is right.
    pub fn rebase(&self, family: Family, kernel: Option<&Table>) -> Steps {
        let mut steps = Steps::default();
        let Some(mirror) = self.families.iter().find(|mirror| mirror.family == family) else {
            if kernel.is_some() {
                steps.main.push(family, Op::DeleteTable);
            }
            return steps;
        };
        match kernel {
            Some(table) if table.is_usable() && mirror.keeps_sizes(table) => {
                mirror.repair(&self.settings, table, &mut steps);
            }
            _ => Load::table(mirror, &self.settings, kernel.is_some()).whole(&mut steps.main),
        }
        steps
    }

    /// Affinity records that belong to no Service port in force, or whose endpoint that port does not have.
    pub fn orphans(&self, family: Family, records: &Elements) -> Vec<Element> {
        let of_family = self.frontends().filter(|(of, ..)| *of == family).map(|(_, _, frontend)| frontend);
        affinity::orphans(of_family, records)
    }
}

impl FamilyMirror {
    /// Whether no map of the table has a size it should not have: a successor goes by another name.
    fn keeps_sizes(&self, table: &Table) -> bool {
        let names = self.sizes.names();
        let size = |set: &SetId| table.sizes.get(set).copied().unwrap_or(0);
        table.sets.keys().all(|set| names.of(*set) != table.names.of(*set) || size(set) == self.sizes.of(*set))
    }

    fn repair(&self, settings: &Settings, table: &Table, steps: &mut Steps) {
        let names = self.sizes.names();
        let mut change = Change::default();
        self.compare_chains(settings, table, &mut change);
        self.delete_surplus(&change, steps);
        for name in self.leftovers(table) {
            steps.first.push(self.family, Op::DeleteSet(name));
        }
        let is_there = |set: &SetId| table.sets.contains_key(set);
        change.resized.extend(self.sets().filter(is_there).filter(|set| names.of(*set) != table.names.of(*set)));
        self.compare_sets(table, &mut change);
        self.compare_elements(&table.sets, &mut change.elements);
        self.write(settings, change, steps);
    }

    pub(super) fn compare_sets(&self, table: &Table, change: &mut Change) {
        change.came_sets.extend(self.optional.difference(&table.optional));
        change.went_sets.extend(table.optional.difference(&self.optional));
        if !change.came_sets.is_empty() {
            let came = &change.came_sets;
            let new = self.elements_in(|set| came.contains(&set));
            new.for_each(|(set, element)| change.elements.add(set, element));
        }
    }

    pub(super) fn compare_chains(&self, settings: &Settings, table: &Table, change: &mut Change) {
        let chains = self.all_chains();
        let is_altered =
            |chain| table.foreign.iter().any(|f| matches!(f, Foreign::Rule { chain: at, .. } if *at == chain));
        // Rules for successors that are to go stay out of the comparison: they are deleted before everything else.
        let in_force = |chain, code: &[_]| {
            if self.successors.are_bound_in(chain) || is_altered(chain) { code.len() } else { end_of_chain(code) }
        };
        for chain in &chains {
            let wanted =
                || self.rules(settings, *chain).iter().map(|rule| encode_rule(self.family, rule)).collect::<Vec<_>>();
            match table.chains.get(chain) {
                None => change.came.push(*chain),
                // It was left behind: where packets are led there, its rules cannot come too soon.
                Some(code) if code.is_empty() && !is_altered(*chain) => change.back.push(*chain),
                Some(code) if is_altered(*chain) || code[..in_force(*chain, code)] != wanted() => {
                    change.changed.push(*chain);
                }
                Some(_) => {}
            }
        }
        let counts = table.chains.iter().map(|(chain, code)| (*chain, in_force(*chain, code), code.len()));
        change.surplus.extend(counts.filter(|(_, count, of)| count < of));
        change.went.extend(table.chains.keys().filter(|chain| !chains.contains(chain)));
    }

    /// Compares the sets that were read.
    pub(super) fn compare_elements(&self, sets: &BTreeMap<SetId, Elements>, recorder: &mut OpRecorder) {
        let mut seen: BTreeMap<SetId, usize> = BTreeMap::new();
        for (set, element) in self.elements() {
            let Some(elements) = sets.get(&set) else { continue };
            let present = elements.get(&element.key);
            *seen.entry(set).or_default() += usize::from(present.is_some());
            recorder.replace(set, present, Some(element));
        }
        let has_more = |set: &SetId| sets[set].len() > seen.get(set).copied().unwrap_or(0);
        for set in sets.keys().filter(|set| **set != SetId::Affinity && has_more(set)) {
            let wanted: HashSet<Bytes> = self.elements().filter(|(of, _)| of == set).map(|(_, e)| e.key).collect();
            for element in sets[set].values().filter(|element| !wanted.contains(&element.key)) {
                recorder.delete(*set, element);
            }
        }
    }

    /// All elements: what Services share, then Service by Service, endpoints behind all else of their frontend.
    pub(super) fn elements(&self) -> impl Iterator<Item = (SetId, Element)> {
        self.elements_in(|_| true)
    }

    /// The same of some sets. Endpoints, which are most, are not even made where they are not wanted.
    pub(super) fn elements_in(&self, wanted: impl Fn(SetId) -> bool + Copy) -> impl Iterator<Item = (SetId, Element)> {
        let globals = self.globals.iter().cloned();
        let gone = self.gone.iter().copied().map(Member::gone);
        let members = globals.chain(gone).chain(self.shared.keys().map(SharedElement::member));
        let frontends = self.services.values().flat_map(|state| &state.frontends);
        let all = members.map(|member| (member.set, member.element));
        let all = all.chain(frontends.flat_map(move |frontend| Self::elements_of_frontend(frontend, wanted)));
        all.filter(move |(set, _)| wanted(*set))
    }

    /// The elements of one frontend, with its endpoints in the maps that are wanted.
    pub(super) fn elements_of_frontend(
        frontend: &Frontend,
        wanted: impl Fn(SetId) -> bool + Copy,
    ) -> impl Iterator<Item = (SetId, Element)> {
        let key = frontend.key.bytes();
        let members = frontend.members().into_iter().map(|member| (member.set, member.element));
        let lists = frontend.endpoint_lists().into_iter().filter(move |(map, ..)| wanted(map.set()));
        members.chain(lists.flat_map(move |(map, _, targets)| {
            let slots = frontend.slots(targets);
            (0..slots.len()).map(move |slot| (map.set(), endpoint_element(&key, slot, &slots[slot])))
        }))
    }
}
