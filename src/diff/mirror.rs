//! The desired table, kept Service by Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::claims::Claims;
use super::growth::Sizes;
use super::numbers::Numbers;
use super::references::References;
use super::shared::SharedElement;
use super::successors::Successors;
use crate::model::{Family, ObjectKey};
use crate::plan::{Frontend, FrontendKey, Member, Settings, Sizing, globals, rules};
use crate::ruleset::{ChainId, Listing, Rule, SetId, Term};

/// What the kernel holds once every update was applied. A clone shares the Services.
///
/// Each family has a table of its own. One whose table the kernel may hold in another state than it should is not in the
/// mirror until its table has been read again ([`Mirror::compile`]).
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) settings: Settings,
    pub(super) families: Vec<FamilyMirror>,
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
    pub(super) sizes: Sizes,
    /// Of maps that are nearly full.
    pub(super) successors: Successors,
    /// Chains that nothing leads to and that the kernel still has, because deleting them has failed.
    pub(super) undeleted: BTreeSet<ChainId>,
}

/// A Service as it is in force; targets are in the order of their slots, and affinity is numbered. There are many, and
/// most have few of anything.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceState {
    pub(super) frontends: Box<[Frontend]>,
    /// Frontends it claims that are not in force: others have them, or it is set aside or too large.
    pub(super) lost: Box<[FrontendKey]>,
    /// Where its health check server answers.
    pub(super) checks: Box<[FrontendKey]>,
    pub(super) shared: Box<[SharedElement]>,
}

impl Mirror {
    /// A mirror without any table.
    pub fn new(settings: Settings) -> Self {
        Self { settings, families: Vec::new() }
    }

    /// Forgets the table of a family: what the kernel holds of it is not known.
    pub fn lose(&mut self, family: Family) {
        self.families.retain(|mirror| mirror.family != family);
    }

    /// Has tables that are compiled from now on give their maps this much room.
    pub fn set_sizing(&mut self, sizing: Sizing) {
        self.settings.sizing = sizing;
    }

    /// Says which chains of a table, of those that steps were to delete, the kernel still has: the next update deletes them.
    pub fn set_undeleted(&mut self, family: Family, chains: impl IntoIterator<Item = ChainId>) {
        if let Some(mirror) = self.families.iter_mut().find(|mirror| mirror.family == family) {
            mirror.undeleted = chains.into_iter().collect();
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
        let chains = mirror.all_chains().into_iter().map(|chain| (chain, mirror.rules(&self.settings, chain)));
        let names = mirror.sizes.names();
        let sizes = mirror.sizes.all().iter().map(|(set, size)| (names.of(*set), *size)).collect();
        let mut listing = Listing { chains: chains.collect(), sizes, ..Listing::new(family, names) };
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
            sizes: Sizes::new(settings.sizing),
            successors: Successors::default(),
            undeleted: BTreeSet::new(),
        }
    }

    /// The rules of a chain under some settings.
    pub(super) fn rules(&self, settings: &Settings, chain: ChainId) -> Vec<Rule> {
        let family = settings.family(self.family);
        let mut rules: Vec<Rule> =
            family.map(|f| rules(self.family, f, settings.masquerade_all, chain)).unwrap_or_default();
        for name in rules.iter_mut().flatten().filter_map(Term::set_mut) {
            *name = self.sizes.names().of(name.set);
        }
        rules
    }

    /// All chains of the table: the fixed ones, then those in use, sorted.
    pub(super) fn all_chains(&self) -> Vec<ChainId> {
        let mut used: Vec<ChainId> = self.chains.keys().collect();
        used.sort_unstable();
        used.into_iter().chain(ChainId::FIXED).collect()
    }
}
