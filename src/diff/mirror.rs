//! The desired table, kept Service by Service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::claims::Claims;
use super::gone::Gone;
use super::growth::Sizes;
use super::numbers::Numbers;
use super::predecessors::Predecessors;
use super::references::References;
use super::service_state::ServiceState;
use super::shared::SharedElement;
use super::successors::Successors;
use crate::model::{Family, ObjectKey};
use crate::plan::{Frontend, FrontendKey, Member, Settings, Sizing, Target, globals, rules};
use crate::ruleset::{ChainId, Listing, Names, Op, Rule, SetId, Term, Transaction};

/// What the kernel holds once every update was applied. A clone shares the Services.
///
/// Each family has a table of its own. One whose table the kernel may hold in another state than it should is not in the
/// mirror until its table has been read again ([`Mirror::compile`]).
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) settings: Settings,
    pub(super) families: Vec<FamilyMirror>,
    pub(super) gone: Gone,
}

#[derive(Debug, Clone)]
pub(super) struct FamilyMirror {
    pub(super) family: Family,
    pub(super) services: HashMap<ObjectKey, Arc<ServiceState>>,
    pub(super) claims: Claims,
    pub(super) numbers: Numbers,
    pub(super) shared: References<SharedElement>,
    pub(super) chains: References<ChainId>,
    pub(super) globals: Vec<Member>,
    /// Endpoints that are gone.
    pub(super) gone: BTreeSet<Target>,
    /// The optional sets in force: chains name them.
    pub(super) optional: BTreeSet<SetId>,
    pub(super) sizes: Sizes,
    /// Maps that are nearly full and have no successors yet.
    pub(super) fuller: BTreeSet<SetId>,
    /// Of maps that are nearly full.
    pub(super) successors: Successors,
    /// Of maps that were replaced.
    pub(super) predecessors: Predecessors,
    /// Chains that nothing leads to and that the kernel still has: deleting them waits, or has failed.
    pub(super) undeleted: BTreeSet<ChainId>,
    /// The same of optional sets.
    pub(super) undeleted_sets: BTreeSet<SetId>,
}

impl Mirror {
    /// A mirror without any table.
    pub fn new(settings: Settings) -> Self {
        Self { settings, families: Vec::new(), gone: Gone::default() }
    }

    /// Forgets the table of a family: what the kernel holds of it is not known.
    pub fn lose(&mut self, family: Family) {
        self.families.retain(|mirror| mirror.family != family);
    }

    /// Has tables that are compiled from now on give their maps this much room.
    pub fn set_sizing(&mut self, sizing: Sizing) {
        self.settings.sizing = sizing;
    }

    /// The deletions that the kernel has not made.
    pub fn deletions(&self, family: Family) -> Transaction {
        let mut deletions = Transaction::default();
        for mirror in self.families.iter().filter(|mirror| mirror.family == family) {
            mirror.undeleted.iter().for_each(|chain| deletions.push(family, Op::DeleteChain(*chain)));
            let names = mirror.sizes.names();
            mirror.undeleted_sets.iter().for_each(|set| deletions.push(family, Op::DeleteSet(names.of(*set))));
        }
        deletions
    }

    /// Says which of these deletions the kernel has not made: the next update repeats them.
    pub fn set_undeleted(&mut self, family: Family, deletions: &Transaction) {
        let Some(mirror) = self.families.iter_mut().find(|mirror| mirror.family == family) else { return };
        mirror.undeleted.clear();
        mirror.undeleted_sets.clear();
        for (_, op) in &deletions.ops {
            match op {
                Op::DeleteChain(chain) => drop(mirror.undeleted.insert(*chain)),
                Op::DeleteSet(name) => drop(mirror.undeleted_sets.insert(name.set)),
                _ => {}
            }
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The frontends of a Service that are in force in a family.
    pub fn frontends_of(&self, family: Family, service: &ObjectKey) -> &[Frontend] {
        let mirror = self.families.iter().find(|mirror| mirror.family == family);
        mirror.and_then(|mirror| mirror.services.get(service)).map_or(&[], |state| &state.frontends)
    }

    /// The frontends a Service claims in vain in a family.
    pub fn lost_by(&self, family: Family, service: &ObjectKey) -> &[FrontendKey] {
        let mirror = self.families.iter().find(|mirror| mirror.family == family);
        mirror.and_then(|mirror| mirror.services.get(service)).map_or(&[], |state| &state.lost)
    }

    /// Frontends in force, as (family, Service, frontend), in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (Family, &ObjectKey, &Frontend)> {
        self.families.iter().flat_map(|mirror| {
            let family = mirror.family;
            let services = mirror.services.iter();
            services.flat_map(move |(key, state)| state.frontends.iter().map(move |f| (family, key, f)))
        })
    }

    /// The families the mirror serves.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.families.iter().map(|mirror| mirror.family)
    }

    /// How many elements a set or map of a family has.
    pub fn element_count(&self, family: Family, set: SetId) -> usize {
        let mirror = self.families.iter().find(|mirror| mirror.family == family);
        mirror.map_or(0, |mirror| mirror.sizes.count_of(set))
    }

    /// The table of a family as a listing shows it; `None` when the family is not served.
    pub fn listing(&self, family: Family) -> Option<Listing> {
        let mirror = self.families.iter().find(|mirror| mirror.family == family)?;
        let chains = mirror.all_chains().into_iter().map(|chain| (chain, mirror.rules_in_force(&self.settings, chain)));
        let names = mirror.sizes.names();
        let sizes = mirror.sizes.all().iter().map(|(set, size)| (names.of(*set), *size)).collect();
        let mut listing = Listing { chains: chains.collect(), sizes, ..Listing::new(family, names) };
        listing.sets.extend(mirror.optional.iter().map(|set| (names.of(*set), BTreeMap::new())));
        for (set, element) in mirror.elements() {
            listing.sets.entry(names.of(set)).or_default().insert(element.key, element);
        }
        Some(listing)
    }
}

impl FamilyMirror {
    pub(super) fn new(family: Family, settings: &Settings) -> Self {
        Self {
            family,
            services: HashMap::new(),
            claims: Claims::default(),
            numbers: Numbers::default(),
            shared: References::default(),
            chains: References::default(),
            globals: globals(family, settings),
            gone: BTreeSet::new(),
            optional: BTreeSet::new(),
            sizes: Sizes::new(settings.sizing),
            fuller: BTreeSet::new(),
            successors: Successors::default(),
            predecessors: Predecessors::default(),
            undeleted: BTreeSet::new(),
            undeleted_sets: BTreeSet::new(),
        }
    }

    /// The rules of a chain that packets meet, under some settings.
    pub(super) fn rules_in_force(&self, settings: &Settings, chain: ChainId) -> Vec<Rule> {
        self.rules_naming(self.sizes.names(), settings, chain)
    }

    /// The rules of a chain with sets under these names.
    pub(super) fn rules_naming(&self, names: &Names, settings: &Settings, chain: ChainId) -> Vec<Rule> {
        let family = settings.family(self.family);
        let mut rules: Vec<Rule> =
            family.map(|f| rules(self.family, f, settings.masquerade_all, chain)).unwrap_or_default();
        for name in rules.iter_mut().flatten().filter_map(Term::set_mut) {
            *name = names.of(name.set);
        }
        rules
    }

    /// The sets of the table.
    pub(super) fn sets(&self) -> impl Iterator<Item = SetId> {
        SetId::ALL.into_iter().filter(|set| !set.is_optional() || self.optional.contains(set))
    }

    /// The optional sets that chains name.
    pub(super) fn optional_of(
        &self,
        settings: &Settings,
        chains: impl IntoIterator<Item = ChainId>,
    ) -> BTreeSet<SetId> {
        let rules = chains.into_iter().flat_map(|chain| self.rules_in_force(settings, chain)).flatten();
        rules.filter_map(|term| term.set()).map(|name| name.set).filter(|set| set.is_optional()).collect()
    }

    /// All chains of the table: the fixed ones, then those in use, sorted.
    pub(super) fn all_chains(&self) -> Vec<ChainId> {
        let mut used: Vec<ChainId> = self.chains.keys().collect();
        used.sort_unstable();
        used.into_iter().chain(ChainId::FIXED).collect()
    }
}
