//! Rules that look up successors of maps, made while these are empty.
//!
//! For each rule that names a map the kernel walks all of the map's elements: a million take it 70 ms, for each chain that picks
//! endpoints. So these chains get their rules for a successor before it is filled, one chain at a time. The rules stand behind
//! those in force, which end in a `drop`: no packet gets there. The switch deletes what stands before them.

use std::collections::BTreeMap;

use super::change::Change;
use super::mirror::{FamilyMirror, Mirror};
use crate::model::Family;
use crate::plan::Settings;
use crate::ruleset::{ChainId, Op, Rule, SetId, Transaction};

impl Mirror {
    /// The rules of the next chain for the successors of a family's maps; empty when all chains have theirs.
    pub fn bind_successors(&mut self, family: Family) -> Transaction {
        let mut rules = Transaction::default();
        let mirror = self.families.iter_mut().find(|mirror| mirror.family == family);
        if let Some(mirror) = mirror
            && let Some(chain) = mirror.successors.next_chain()
        {
            let waiting = mirror.rules_naming(&mirror.successor_names(), &self.settings, chain);
            waiting.into_iter().for_each(|rule| rules.push(family, Op::AddRule(chain, rule)));
        }
        rules
    }
}

impl FamilyMirror {
    /// All rules of a chain: those in force, and those for successors.
    pub(super) fn rules(&self, settings: &Settings, chain: ChainId) -> Vec<Rule> {
        let mut rules = self.rules_in_force(settings, chain);
        if self.successors.are_bound_in(chain) {
            rules.extend(self.rules_naming(&self.successor_names(), settings, chain));
        }
        rules
    }

    /// The chains that are to get rules for successors of these maps.
    pub(super) fn chains_to_bind(&self, settings: &Settings, sizes: &BTreeMap<SetId, u32>) -> Vec<ChainId> {
        let names_one = |chain: &ChainId| {
            let rules = self.rules_in_force(settings, *chain);
            rules.iter().flatten().filter_map(|term| term.set()).any(|name| sizes.contains_key(&name.set))
        };
        self.all_chains().into_iter().filter(|chain| picks(*chain) && names_one(chain)).collect()
    }

    /// Chains that come get their rules for successors at once; those that go lose them, so that nothing names the maps.
    pub(super) fn bind_with(&mut self, settings: &Settings, change: &Change) {
        if self.successors.is_empty() {
            return;
        }
        for chain in self.chains_to_bind(settings, self.successors.sizes()) {
            if [&change.came, &change.back, &change.changed].iter().any(|list| list.contains(&chain)) {
                self.successors.bind(chain);
            }
        }
        change.went.iter().for_each(|chain| self.successors.unbind(*chain));
    }

    /// Appends what leaves chains with the rules for the successors, or with the others.
    pub(super) fn keep_rules(&self, settings: &Settings, chains: &[ChainId], successors: bool, ops: &mut Transaction) {
        for chain in chains {
            let count = self.rules_in_force(settings, *chain).len();
            let kept = if successors { count..2 * count } else { 0..count };
            ops.push(self.family, Op::KeepRules { chain: *chain, kept, of: 2 * count });
        }
    }
}

/// Whether a chain picks an endpoint: it ends in a `drop`, and names the largest maps.
fn picks(chain: ChainId) -> bool {
    matches!(chain, ChainId::Pick(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;
    use crate::model::Model;
    use crate::plan::Sizing;
    use crate::ruleset::{FakeKernel, Kernel as _, SetName};
    use crate::testing::{added, added_slice, all_listed, service, slice};

    const V4: Family = Family::Ipv4;

    /// A table whose map of endpoints is about to be replaced, and two chains that pick from it.
    fn growing() -> (FakeKernel, Mirror) {
        let sizing = Sizing { floor: 4, headroom: 2 };
        let (mut model, options) = (Model::default(), Options { sizing, ..Options::new("n") });
        all_listed().for_each(|event| model.apply(event));
        for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
            model.apply(added(service(name, ip)));
        }
        model.apply(added_slice(slice("a", "n", &["10.0.0.1"])));
        model.take_changes();
        let (mut kernel, settings) = (FakeKernel::new(), options.settings(&model));
        let (mut mirror, _) = Mirror::build(settings.clone(), &model);
        mirror.commit_in(&mut kernel, &mirror.rebase(V4, None));
        model.apply(added_slice(slice("b", "n", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])));
        let changes = model.take_changes();
        let update = mirror.update(&settings, &model, &changes).families.remove(0);
        mirror.commit_in(&mut kernel, &update.steps);
        kernel.apply(&mirror.begin_successors(V4)).expect("the kernel takes it");
        (kernel, mirror)
    }

    fn successor() -> SetName {
        SetName::from(SetId::Endpoints).other()
    }

    fn rules_of_chains(kernel: &FakeKernel) -> Vec<usize> {
        let table = kernel.listing(V4).expect("served");
        ["pick-1", "pick-3"].map(|chain| table.rules(chain.parse().expect("ours")).map_or(0, <[_]>::len)).into()
    }

    /// Gives all chains their rules for successors, which are empty meanwhile.
    fn bind_all(kernel: &mut FakeKernel, mirror: &mut Mirror) {
        for _ in 0..2 {
            let rules = mirror.bind_successors(V4);
            assert!(!rules.is_empty(), "two chains pick endpoints");
            kernel.apply(&rules).expect("the kernel takes it");
            assert!(kernel.listing(V4).expect("served").sets[&successor()].is_empty());
        }
        assert!(mirror.bind_successors(V4).is_empty());
    }

    #[test]
    fn a_switch_only_deletes_rules_of_chains_that_pick() {
        let (mut kernel, mut mirror) = growing();
        let before = rules_of_chains(&kernel);
        bind_all(&mut kernel, &mut mirror);
        assert_eq!(rules_of_chains(&kernel), before.iter().map(|count| 2 * count).collect::<Vec<_>>());
        let steps = loop {
            kernel.apply(&mirror.fill_successors(V4, 1)).expect("the kernel takes it");
            if let Some(steps) = mirror.switch_to_successors(V4) {
                break steps;
            }
        };
        let of_picks = |(_, op): &&(Family, Op)| {
            matches!(op, Op::FlushChain(ChainId::Pick(_)) | Op::AddRule(ChainId::Pick(_), _) | Op::KeepRules { .. })
        };
        let of_picks: Vec<_> = steps.main.ops.iter().filter(of_picks).collect();
        assert!(
            of_picks.len() == 2 && of_picks.iter().all(|(_, op)| matches!(op, Op::KeepRules { .. })),
            "{of_picks:?}"
        );
        mirror.commit_in(&mut kernel, &steps);
        assert_eq!(rules_of_chains(&kernel), before);
        let rules = kernel.listing(V4).expect("served").rules("pick-3".parse().expect("ours")).expect("there").to_vec();
        assert!(rules.iter().flatten().filter_map(|term| term.set()).all(|name| name == successor()));
    }

    #[test]
    fn without_successors_their_rules_go() {
        let (mut kernel, mut mirror) = growing();
        let before = kernel.listing(V4).expect("served").chains.clone();
        bind_all(&mut kernel, &mut mirror);
        kernel.apply(&mirror.abandon_unused(V4)).expect("the kernel takes it");
        let table = kernel.listing(V4).expect("served");
        assert_eq!(table.chains, before);
        assert!(!table.sets.contains_key(&successor()));
    }

    #[test]
    fn a_table_with_rules_for_successors_is_repaired_in_the_order_the_kernel_wants() {
        let (mut kernel, mut mirror) = growing();
        bind_all(&mut kernel, &mut mirror);
        kernel.apply(&mirror.fill_successors(V4, 1)).expect("the kernel takes it");
        let table = kernel.read(V4).expect("in memory").expect("there");
        assert_eq!((table.leftovers.as_slice(), table.foreign.as_slice()), (&[successor()][..], &[][..]));
        // A program that starts now knows nothing of successors.
        mirror.families.iter_mut().for_each(|family| family.successors = Default::default());
        let steps = mirror.rebase(V4, Some(&table));
        assert!(steps.main.is_empty(), "what is in force is right: {:?}", steps.main);
        mirror.commit_in(&mut kernel, &steps);
        let table = kernel.read(V4).expect("in memory");
        assert!(mirror.rebase(V4, table.as_ref()).is_empty());
    }
}
