//! The desired table, kept Service by Service.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::affinity;
use super::change::{Change, Steps};
use super::claims::{Claim, Claims};
use super::counted::Counted;
use super::growth::Sizes;
use super::numbers::Numbers;
use super::recorder::Recorder;
use super::slots;
use super::{Hints, Objection, StaleAffinity};
use crate::model::{Changes, Family, Model, ObjectKey};
use crate::plan::{
    Action, FIXED_CHAINS, Frontend, FrontendKey, Member, ServicePlan, Settings, Target, compile, endpoint_element,
    globals, rules,
};
use crate::ruleset::{Bytes, ChainId, Rule, SetId, Term, Value, Verdict};

/// What a sync has to do.
#[derive(Debug, Default)]
pub struct Update {
    /// Changes of the tables.
    pub steps: Steps,
    /// Affinity records to look for after the commit.
    pub stale: Vec<(Family, StaleAffinity)>,
    /// What Services of this update do not get.
    pub objections: Vec<Objection>,
}

/// What the kernel holds once every update was applied. A clone shares the Services.
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
    numbers: Numbers,
    pub(super) shared: Counted<Shared>,
    pub(super) chains: Counted<ChainId>,
    pub(super) globals: Vec<Member>,
    pub(super) sizes: Sizes,
}

/// A Service as it is in force; targets are in the order of their slots, and affinity is numbered. There are many, and
/// most have few of anything.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceState {
    pub(super) frontends: Box<[Frontend]>,
    /// Frontends other Services have.
    lost: Box<[FrontendKey]>,
    pub(super) shared: Box<[Shared]>,
}

/// An element that Services share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shared {
    ClusterIp(IpAddr),
    Hairpin(IpAddr),
    AfterDnatEndpoint(IpAddr),
}

impl Shared {
    pub(super) fn member(self) -> Member {
        match self {
            Shared::ClusterIp(ip) => Member::cluster_ip(ip),
            Shared::Hairpin(ip) => Member::hairpin(ip),
            Shared::AfterDnatEndpoint(ip) => Member::after_dnat_endpoint(ip),
        }
    }

    /// The one with this key, whether there is such an element or not.
    pub(super) fn at(family: Family, set: SetId, key: &Bytes) -> Option<Self> {
        let ip = match family {
            Family::Ipv4 => key.ipv4_at(0)?,
            Family::Ipv6 => key.ipv6_at(0)?,
        };
        let shared = match set {
            SetId::ClusterIps => Shared::ClusterIp(ip),
            SetId::Hairpin => Shared::Hairpin(ip),
            SetId::AfterDnatEndpoints => Shared::AfterDnatEndpoint(ip),
            _ => return None,
        };
        (shared.member().element.key == *key).then_some(shared)
    }
}

impl Mirror {
    /// The table for all Services of a model. Endpoints stay in the slots, and affinity records with the Service ports,
    /// that the hints give them; maps keep sizes that do.
    pub fn build(settings: Settings, model: &Model, hints: &HashMap<Family, Hints<'_>>) -> (Self, Vec<Objection>) {
        let families = settings.families().map(|(family, _)| FamilyMirror::new(family, &settings)).collect();
        let mut this = Self { settings, families };
        let mut update = Update::default();
        let all: BTreeSet<ObjectKey> = model.services().map(|service| service.key.clone()).collect();
        for mirror in &mut this.families {
            let mut recorder = Recorder::counting();
            let hints = hints.get(&mirror.family);
            mirror.numbers = Numbers::after(hints.map(|hints| &hints.numbers));
            replace_members(&[], &mirror.globals, &mut recorder);
            mirror.sync_services(&this.settings, model, &all, hints, &mut recorder, &mut update);
            mirror.settle_shared(&mut recorder);
            mirror.chains.settle();
            mirror.sizes.count(recorder.counts());
            mirror.sizes.choose(hints.and_then(|hints| hints.sizes.as_ref()));
        }
        (this, update.objections)
    }

    /// Takes over changes. `settings` are those in force from now on.
    pub fn update(&mut self, settings: &Settings, model: &Model, changes: &Changes) -> Update {
        let mut update = Update::default();
        let old = std::mem::replace(&mut self.settings, settings.clone());
        let all = recompiles_everything(&old, settings);
        let dirty: BTreeSet<ObjectKey> = if all {
            let known = self.families.iter().flat_map(|mirror| mirror.services.keys());
            known.chain(model.services().map(|service| &service.key)).cloned().collect()
        } else {
            changes.services.clone()
        };
        for mirror in &mut self.families {
            mirror.update(&old, settings, model, &dirty, &mut update);
        }
        update
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

    /// The Service that has a frontend.
    pub fn owner(&self, family: Family, frontend: FrontendKey) -> Option<&ObjectKey> {
        self.families.iter().find(|mirror| mirror.family == family)?.claims.winner(frontend)
    }

    /// Frontends in force, as (family, Service, frontend), in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (Family, &ObjectKey, &Frontend)> {
        self.families.iter().flat_map(|mirror| {
            let family = mirror.family;
            let services = mirror.services.iter();
            services.flat_map(move |(key, state)| state.frontends.iter().map(move |f| (family, key, f)))
        })
    }
}

/// Whether a change of settings concerns what Services compile to, and not just rules or global elements.
fn recompiles_everything(old: &Settings, new: &Settings) -> bool {
    let node_ips = |settings: &Settings| settings.families().map(|(_, f)| f.node_ip).collect::<Vec<_>>();
    old.node_name != new.node_name
        || old.zone != new.zone
        || old.external_ips != new.external_ips
        || node_ips(old) != node_ips(new)
}

impl FamilyMirror {
    fn new(family: Family, settings: &Settings) -> Self {
        Self {
            family,
            services: HashMap::new(),
            claims: Claims::default(),
            numbers: Numbers::default(),
            shared: Counted::default(),
            chains: Counted::default(),
            globals: globals(family, settings),
            sizes: Sizes::new(settings.sizing),
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
        used.into_iter().chain(FIXED_CHAINS).collect()
    }

    fn update(
        &mut self,
        old: &Settings,
        new: &Settings,
        model: &Model,
        dirty: &BTreeSet<ObjectKey>,
        update: &mut Update,
    ) {
        let mut recorder = Recorder::default();
        let before = self.all_chains_if_rules_may_differ(old, new);
        self.update_globals(new, &mut recorder);
        self.sync_services(new, model, dirty, None, &mut recorder, update);
        self.settle_shared(&mut recorder);
        let (came, went) = self.chains.settle();
        self.sizes.count(recorder.counts());
        let resized = self.sizes.grow();
        let changed = before.into_iter().filter(|chain| self.rules(new, *chain) != self.rules(old, *chain)).collect();
        let change = Change { came, changed, went, resized, elements: recorder };
        self.write(new, change, &mut update.steps);
    }

    /// Records what came into force and what went out of it among the elements Services share.
    fn settle_shared(&mut self, recorder: &mut Recorder) {
        let (came, went) = self.shared.settle();
        came.into_iter().for_each(|shared| recorder.add_member(shared.member()));
        went.into_iter().for_each(|shared| recorder.delete_member(shared.member()));
    }

    fn all_chains_if_rules_may_differ(&self, old: &Settings, new: &Settings) -> Vec<ChainId> {
        let same = old.family(self.family) == new.family(self.family) && old.masquerade_all == new.masquerade_all;
        if same { Vec::new() } else { self.all_chains() }
    }

    fn update_globals(&mut self, settings: &Settings, recorder: &mut Recorder) {
        let wanted = globals(self.family, settings);
        if wanted == self.globals {
            return;
        }
        let old = std::mem::replace(&mut self.globals, wanted);
        replace_members(&old, &self.globals, recorder);
    }

    /// Brings the given Services, and those that win or lose a frontend by them, up to date.
    fn sync_services(
        &mut self,
        settings: &Settings,
        model: &Model,
        dirty: &BTreeSet<ObjectKey>,
        hints: Option<&Hints<'_>>,
        recorder: &mut Recorder,
        update: &mut Update,
    ) {
        let plan_of = |key: &ObjectKey, family| match model.usable_service(key) {
            Some(service) => compile(service, || model.slices(key), family, settings),
            None => ServicePlan::default(),
        };
        let mut plans: Vec<(ObjectKey, ServicePlan)> = Vec::with_capacity(dirty.len());
        let mut affected = BTreeSet::new();
        for key in dirty {
            let plan = plan_of(key, self.family);
            if let Some(elements) = plan.oversized {
                let (service, family) = (key.clone(), self.family);
                update.objections.push(Objection::Oversized { service, family, elements });
            }
            if plan.is_empty() && !self.services.contains_key(key) {
                continue;
            }
            self.claim(key, model.service(key).and_then(|s| s.created), &plan, &mut affected);
            plans.push((key.clone(), plan));
        }
        for key in affected.into_iter().filter(|key| !dirty.contains(key)) {
            let plan = plan_of(&key, self.family);
            plans.push((key, plan));
        }
        for (key, plan) in plans {
            self.sync_service(key, plan, hints, recorder, update);
        }
    }

    /// Replaces a Service's claims by those of its new plan.
    fn claim(
        &mut self,
        service: &ObjectKey,
        created: Option<i64>,
        plan: &ServicePlan,
        affected: &mut BTreeSet<ObjectKey>,
    ) {
        if let Some(state) = self.services.get(service) {
            let held = state.frontends.iter().map(|f| f.key).chain(state.lost.iter().copied());
            for key in held {
                affected.extend(self.claims.remove(key, service));
            }
        }
        for frontend in &plan.frontends {
            let created = created.unwrap_or(i64::MAX);
            let claim = Claim { class: frontend.class, created, service: service.clone() };
            affected.extend(self.claims.add(frontend.key, claim));
        }
    }

    fn sync_service(
        &mut self,
        key: ObjectKey,
        plan: ServicePlan,
        hints: Option<&Hints<'_>>,
        recorder: &mut Recorder,
        update: &mut Update,
    ) {
        let old = self.services.remove(&key).unwrap_or_default();
        let mut old_frontends: HashMap<FrontendKey, &Frontend> =
            old.frontends.iter().map(|frontend| (frontend.key, frontend)).collect();
        let shared = shared(&plan).collect();
        let (mut frontends, mut lost) = (plan.frontends, Vec::new());
        frontends.retain(|frontend| match self.claims.check(frontend.key, &key) {
            Ok(()) => true,
            Err(conflict) => {
                lost.push(frontend.key);
                update.objections.push(Objection::Contested(conflict));
                false
            }
        });
        let mut state = ServiceState { frontends: frontends.into(), lost: lost.into(), shared };
        self.numbers.assign(&old.frontends, &mut state.frontends, hints.map(|hints| &hints.numbers));
        for frontend in &mut state.frontends {
            let previous = old_frontends.remove(&frontend.key);
            place(frontend, previous, hints);
            if previous != Some(frontend) {
                self.replace_frontend(previous, Some(frontend), recorder);
            }
        }
        for gone in old_frontends.values() {
            self.replace_frontend(Some(gone), None, recorder);
        }
        let stale = affinity::stale(&old.frontends, &state.frontends);
        update.stale.extend(stale.into_iter().map(|stale| (self.family, stale)));
        for shared in &state.shared {
            self.shared.add(*shared);
        }
        for shared in &old.shared {
            self.shared.remove(*shared);
        }
        if !state.shared.is_empty() || !state.frontends.is_empty() || !state.lost.is_empty() {
            self.services.insert(key, Arc::new(state));
        }
    }

    fn replace_frontend(&mut self, old: Option<&Frontend>, new: Option<&Frontend>, recorder: &mut Recorder) {
        let old_members = old.map(Frontend::members).unwrap_or_default();
        let new_members = new.map(Frontend::members).unwrap_or_default();
        new_members.iter().filter_map(dynamic_chain).for_each(|chain| self.chains.add(chain));
        old_members.iter().filter_map(dynamic_chain).for_each(|chain| self.chains.remove(chain));
        replace_members(&old_members, &new_members, recorder);
        replace_endpoints(old, new, recorder);
    }
}

/// Puts the targets of a new frontend into slots: those of its predecessor, or those the kernel has.
fn place(frontend: &mut Frontend, previous: Option<&Frontend>, hints: Option<&Hints<'_>>) {
    let key = frontend.key.bytes();
    let maps: Vec<_> = frontend.endpoint_lists().into_iter().map(|(map, ..)| map).collect();
    let lists: Vec<&mut Vec<Target>> = match &mut frontend.action {
        Action::Refuse | Action::Drop | Action::Relay(_) => Vec::new(),
        Action::Balance(_, targets) => vec![targets],
        Action::ExternalLocal { cluster, local } => vec![cluster, local],
    };
    for (map, list) in maps.into_iter().zip(lists) {
        let old = match previous {
            Some(previous) => {
                let lists = previous.endpoint_lists();
                lists.into_iter().find(|(m, ..)| *m == map).map(|(.., list)| Cow::Borrowed(list))
            }
            None => hints.map(|hints| Cow::Owned(hints.slots.get(map, &key))),
        };
        if let Some(old) = old.filter(|old| !old.is_empty()) {
            *list = slots::assign(&old, list);
        }
    }
}

fn replace_members(old: &[Member], new: &[Member], recorder: &mut Recorder) {
    missing_in(new, old).for_each(|member| recorder.delete_member(member.clone()));
    missing_in(old, new).for_each(|member| recorder.add_member(member.clone()));
}

/// Those of `members` that `others` lack. Mostly there are a handful, but source ranges can come in thousands.
fn missing_in<'a>(others: &'a [Member], members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
    let index: Option<HashSet<&Member>> = (others.len() > 16).then(|| others.iter().collect());
    members.iter().filter(move |member| match &index {
        Some(index) => !index.contains(member),
        None => !others.contains(member),
    })
}

fn replace_endpoints(old: Option<&Frontend>, new: Option<&Frontend>, recorder: &mut Recorder) {
    let Some(key) = new.or(old).map(|frontend| frontend.key.bytes()) else {
        return;
    };
    let lists = |frontend: Option<&Frontend>, map| -> Vec<Target> {
        let lists = frontend.map(Frontend::endpoint_lists).unwrap_or_default();
        lists.into_iter().find(|(m, ..)| *m == map).map(|(.., list)| list.to_vec()).unwrap_or_default()
    };
    for map in crate::ruleset::EndpointMap::ALL {
        let (old, new) = (lists(old, map), lists(new, map));
        for (slot, target) in old.iter().enumerate().filter(|(slot, target)| new.get(*slot) != Some(target)) {
            recorder.delete(map.set(), endpoint_element(&key, slot, target));
        }
        for (slot, target) in new.iter().enumerate().filter(|(slot, target)| old.get(*slot) != Some(target)) {
            recorder.add(map.set(), endpoint_element(&key, slot, target));
        }
    }
}

fn shared(plan: &ServicePlan) -> impl Iterator<Item = Shared> {
    let cluster_ip = plan.cluster_ip.map(Shared::ClusterIp);
    let hairpins = plan.hairpins.iter().copied().map(Shared::Hairpin);
    let endpoints = plan.after_dnat_endpoints().into_iter().map(Shared::AfterDnatEndpoint);
    cluster_ip.into_iter().chain(hairpins).chain(endpoints)
}

/// The chain a verdict leads to, when it is one that comes and goes.
fn dynamic_chain(member: &Member) -> Option<ChainId> {
    match member.element.value {
        Value::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) if !FIXED_CHAINS.contains(&chain) => Some(chain),
        _ => None,
    }
}
