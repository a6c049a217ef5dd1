//! Maps that are replaced by larger ones while changes go on.
//!
//! Filling a large map takes seconds, and no change shall wait that long. So successors get their elements in parts, owner by
//! owner, between updates. An update changes both maps where the owner's turn has been, and the old one alone where it is
//! yet to come. When all have had theirs, one transaction has the rules use the successors, and the old maps are emptied
//! ([`super::emptying`]).

use super::Steps;
use super::change::Change;
use super::mirror::{FamilyMirror, Mirror};
use super::recorder::OpRecorder;
use super::successors::{Owner, Successors};
use crate::model::Family;
use crate::plan::Settings;
use crate::ruleset::{Element, Names, Op, SetId, SetName, Table, Transaction};

impl Mirror {
    /// Whether maps of a family are being replaced.
    pub fn is_growing(&self, family: Family) -> bool {
        self.families.iter().any(|mirror| mirror.family == family && mirror.is_growing())
    }

    /// Makes the successors of a family's maps that are nearly full: no change waits for the kernel to clear their memory.
    pub fn begin_successors(&mut self, family: Family) -> Transaction {
        let (mut mirrors, settings) = (self.families.iter_mut(), &self.settings);
        let mirror = mirrors.find(|mirror| mirror.family == family);
        mirror.map(|mirror| mirror.begin_successors(settings)).unwrap_or_default()
    }

    /// The next part of what the successors of a family's maps lack: of some owners, until these or their elements are so many.
    /// May be empty before all had their turn.
    pub fn fill_successors(&mut self, family: Family, max: usize) -> Transaction {
        let mirror = self.families.iter_mut().find(|mirror| mirror.family == family);
        mirror.map(|mirror| mirror.fill_successors(max)).unwrap_or_default()
    }

    /// How to have the rules of a family use the successors, once these have everything.
    pub fn switch_to_successors(&mut self, family: Family) -> Option<Steps> {
        let settings = &self.settings;
        let mut mirrors = self.families.iter_mut().filter(|mirror| mirror.family == family);
        let mirror = mirrors.find(|mirror| mirror.successors.are_filled())?;
        let mut steps = Steps::default();
        let successors = std::mem::take(&mut mirror.successors);
        let bound = successors.bound().collect();
        let filled = mirror.sizes.switch(successors.into_sizes());
        mirror.leave_predecessors(filled.iter().copied().filter(|set| !set.leads_to_chains()).collect());
        let mut change = Change { filled, bound, ..Change::default() };
        mirror.repeat_deletions(&mut change);
        mirror.write(settings, change, &mut steps);
        Some(steps)
    }

    /// How to be without the maps of a family that no rule uses: successors, of which a later update makes new ones, and
    /// those that were replaced.
    pub fn abandon_unused(&mut self, family: Family) -> Transaction {
        let (mut deletes, settings) = (Transaction::default(), &self.settings);
        for mirror in self.families.iter_mut().filter(|mirror| mirror.family == family) {
            mirror.abandon_successors(settings, &mut deletes);
            mirror.abandon_predecessors(&mut deletes);
        }
        deletes
    }
}

impl FamilyMirror {
    fn is_growing(&self) -> bool {
        !self.fuller.is_empty() || !self.successors.is_empty() || !self.predecessors.is_empty()
    }

    /// Notes which maps have more elements: those that are nearly full get successors.
    pub(super) fn note_fuller(&mut self, sets: impl IntoIterator<Item = SetId>) {
        self.fuller.extend(self.sizes.tight(sets).into_keys());
    }

    /// Makes successors of maps that are nearly full, while there are no others.
    fn begin_successors(&mut self, settings: &Settings) -> Transaction {
        let mut sets = Transaction::default();
        if !self.successors.is_empty() || !self.predecessors.is_empty() {
            return sets;
        }
        let sizes = self.sizes.tight(std::mem::take(&mut self.fuller));
        if sizes.is_empty() {
            return sets;
        }
        let names = self.sizes.names();
        for (set, size) in &sizes {
            sets.push(self.family, Op::AddSet(names.of(*set).other(), *size));
        }
        let shared = self.shared.keys().filter(|shared| sizes.contains_key(&shared.member().set)).map(Owner::Shared);
        let services = self.services.keys().cloned().map(Owner::Service);
        let owners = shared.chain(services).chain([Owner::Settings]).collect();
        let chains = self.chains_to_bind(settings, &sizes);
        self.successors = Successors::new(sizes, owners, chains);
        sets
    }

    fn fill_successors(&mut self, max: usize) -> Transaction {
        let (mut recorder, mut part, mut count) = (OpRecorder::default(), Transaction::default(), 0);
        for _ in 0..max {
            if count >= max {
                break;
            }
            let Some(owner) = self.successors.next() else { break };
            for (set, element) in self.elements_of(&owner) {
                if self.successors.replace(set) {
                    recorder.add(set, element);
                    count += 1;
                }
            }
        }
        recorder.finish(self.family, &self.successor_names(), &mut part);
        part
    }

    /// What sets are called once successors are in force.
    pub(super) fn successor_names(&self) -> Names {
        let mut names = self.sizes.names().clone();
        self.successors.sets().for_each(|set| names.switch(set));
        names
    }

    fn elements_of(&self, owner: &Owner) -> Box<dyn Iterator<Item = (SetId, Element)> + '_> {
        match owner {
            Owner::Settings => Box::new(self.globals.iter().map(|member| (member.set, member.element.clone()))),
            Owner::Shared(shared) => {
                let member = self.shared.contains(shared).then(|| shared.member());
                Box::new(member.into_iter().map(|member| (member.set, member.element)))
            }
            Owner::Service(service) => {
                let frontends = self.services.get(service).into_iter().flat_map(|state| &state.frontends);
                Box::new(
                    frontends
                        .flat_map(|frontend| Self::elements_of_frontend(frontend, |set| self.successors.replace(set))),
                )
            }
        }
    }

    /// Appends what deletes the successors, and the rules for them. `settings`: those in force.
    pub(super) fn abandon_successors(&mut self, settings: &Settings, deletes: &mut Transaction) {
        let successors = std::mem::take(&mut self.successors);
        self.keep_rules(settings, &successors.bound().collect::<Vec<_>>(), false, deletes);
        let names = self.sizes.names();
        for set in successors.sets() {
            deletes.push(self.family, Op::DeleteSet(names.of(set).other()));
        }
    }

    /// Maps in the kernel's table that no rule uses and that nobody is filling or emptying.
    pub(super) fn leftovers<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = SetName> + 'a {
        let is_successor =
            |name: &SetName| self.successors.replace(name.set) && *name == self.sizes.names().of(name.set).other();
        table.leftovers.iter().copied().filter(move |name| !is_successor(name) && !self.is_predecessor(*name))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::Options;
    use crate::model::Model;
    use crate::plan::Sizing;
    use crate::ruleset::{FakeKernel, Kernel as _};
    use crate::testing::{added, added_slice, all_listed, service, slice};

    const V4: Family = Family::Ipv4;

    #[test]
    fn what_could_not_be_deleted_is_deleted_with_a_switch() {
        let (mut model, options) =
            (Model::default(), Options { sizing: Sizing { floor: 2, headroom: 2 }, ..Options::new("n") });
        all_listed().for_each(|event| model.apply(event));
        model.take_changes();
        let settings = options.settings(&model);
        let (mut mirror, _) = Mirror::build(settings.clone(), &model);
        let left = [Op::DeleteChain("pick-9".parse().expect("ours")), Op::DeleteSet(SetId::Gone.into())];
        let left = Transaction { ops: left.map(|op| (V4, op)).into() };
        mirror.set_undeleted(V4, &left);

        (1..4).for_each(|n| model.apply(added(service(&format!("s{n}"), &format!("10.96.0.{n}")))));
        let changes = model.take_changes();
        let update = mirror.update(&settings, &model, &changes).families.remove(0);
        assert_eq!((update.family, update.steps.after), (V4, left.clone()));
        assert!(mirror.is_growing(V4) && !mirror.begin_successors(V4).is_empty());
        let steps = loop {
            mirror.fill_successors(V4, 1);
            if let Some(steps) = mirror.switch_to_successors(V4) {
                break steps;
            }
        };
        assert_eq!(steps.after, left, "the kernel has them still");
    }

    /// A process that ends before the larger maps are filled, or a command that reads meanwhile, has to see which are in force.
    #[test]
    fn while_larger_maps_are_filled_at_once_all_rules_name_those_in_force() {
        let sizing = Sizing { floor: 4, headroom: 2 };
        let (mut model, options) = (Model::default(), Options { sizing, ..Options::new("n") });
        all_listed().for_each(|event| model.apply(event));
        for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
            model.apply(added(service(name, ip)));
        }
        model.apply(added_slice(slice("a", "n", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])));
        model.take_changes();
        let (mut kernel, settings) = (FakeKernel::new(), options.settings(&model));
        let (mut mirror, _) = Mirror::build(settings.clone(), &model);
        mirror.commit_in(&mut kernel, &mirror.rebase(V4, None));
        let before = kernel.read(V4).expect("in memory").expect("there");

        let addresses: Vec<String> = (1..=40).map(|n| format!("10.1.0.{n}")).collect();
        model.apply(added_slice(slice("b", "n", &addresses.iter().map(String::as_str).collect::<Vec<_>>())));
        let changes = model.take_changes();
        let steps = mirror.update(&settings, &model, &changes).families.remove(0).steps;
        kernel.apply(&steps.first).expect("the kernel takes it");
        let table = kernel.read(V4).expect("in memory").expect("there");
        assert_eq!((&table.foreign[..], &table.names), (&[][..], &before.names), "nothing else is in force yet");
        assert!(table.chains[&"pick-40".parse().expect("ours")].len() > 1, "it has rules before elements lead to it");

        // Another process starts now.
        let mut next = Mirror::new(settings);
        next.compile(V4, &model, Some(&crate::diff::ExistingLayout::of(&table)));
        let steps = next.rebase(V4, Some(&table));
        assert!(steps.transactions().iter().all(|part| !part.ops.contains(&(V4, Op::DeleteTable))), "the table stays");
        next.commit_in(&mut kernel, &steps);
        let table = kernel.read(V4).expect("in memory");
        assert!(next.rebase(V4, table.as_ref()).is_empty());
    }
}
