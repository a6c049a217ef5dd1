//! Services of one family, brought up to date one by one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::affinity;
use super::claims::{Claim, Conflict};
use super::mirror::FamilyMirror;
use super::recorder::OpRecorder;
use super::service_state::ServiceState;
use super::shared::SharedElement;
use super::successors::Owner;
use super::{ExistingLayout, Objection, StaleAffinity};
use crate::model::{Model, ObjectKey};
use crate::plan::{Class, Frontend, FrontendKey, Member, ServicePlan, Settings, Target, compile, endpoint_element};
use crate::ruleset::{ChainId, EndpointMap, Value, Verdict};

/// What comes of bringing Services of a family up to date, besides elements.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) stale: Vec<StaleAffinity>,
    pub(super) objections: Vec<Objection>,
}

/// Plans of Services in parts, each of which is given back as soon as it is done with: a first load has as many as Services.
#[derive(Default)]
struct Plans {
    parts: Vec<Vec<(ObjectKey, ServicePlan)>>,
}

impl Plans {
    const PART: usize = 1024;

    fn push(&mut self, key: ObjectKey, plan: ServicePlan) {
        match self.parts.last_mut() {
            Some(part) if part.len() < Self::PART => part.push((key, plan)),
            _ => self.parts.push(vec![(key, plan)]),
        }
    }
}

impl FamilyMirror {
    /// Brings the given Services, which are in order, and those that win or lose a frontend by them, up to date.
    pub(super) fn sync_services(
        &mut self,
        settings: &Settings,
        model: &Model,
        dirty: &[&ObjectKey],
        existing: Option<&ExistingLayout<'_>>,
        recorder: &mut OpRecorder,
        effects: &mut Effects,
    ) {
        let plan_of = |key: &ObjectKey, family| {
            let Some(service) = model.service(key) else { return ServicePlan::default() };
            let plan = compile(service, || model.slices(key), family, settings);
            if model.is_set_aside(key, family) { plan.withheld() } else { plan }
        };
        let mut plans = Plans::default();
        let mut affected = BTreeSet::new();
        for &key in dirty {
            let plan = plan_of(key, self.family);
            if let Some(elements) = plan.oversized {
                let (service, family) = (key.clone(), self.family);
                effects.objections.push(Objection::Oversized { service, family, elements });
            }
            if plan.is_empty() && !self.services.contains_key(key) {
                continue;
            }
            self.claim(key, model.service(key).and_then(|s| s.created), &plan, &mut affected);
            plans.push(key.clone(), plan);
        }
        for key in affected.into_iter().filter(|key| dirty.binary_search(&key).is_err()) {
            let plan = plan_of(&key, self.family);
            plans.push(key, plan);
        }
        for (key, plan) in plans.parts.into_iter().flatten() {
            self.sync_service(key, plan, existing, recorder, effects);
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
            for key in held.chain(state.checks.iter().copied()) {
                affected.extend(self.claims.remove(key, service));
            }
        }
        let in_force = plan.frontends.iter().map(|frontend| (frontend.key, frontend.class));
        let checks = plan.checks.iter().map(|key| (*key, Class::HealthCheck));
        for (key, class) in in_force.chain(plan.withheld.iter().copied()).chain(checks) {
            let claim = Claim { class, created: created.unwrap_or(i64::MAX), service: service.clone() };
            affected.extend(self.claims.add(key, claim));
        }
    }

    fn sync_service(
        &mut self,
        key: ObjectKey,
        plan: ServicePlan,
        existing: Option<&ExistingLayout<'_>>,
        recorder: &mut OpRecorder,
        effects: &mut Effects,
    ) {
        let old = self.services.remove(&key);
        recorder.in_successors(self.successors.have(old.is_none(), || Owner::Service(key.clone())));
        let old = old.unwrap_or_default();
        let mut old_frontends: HashMap<FrontendKey, &Frontend> =
            old.frontends.iter().map(|frontend| (frontend.key, frontend)).collect();
        let shared = shared(&plan).collect();
        let mut lost: Vec<FrontendKey> = plan.withheld.into_iter().map(|(key, _)| key).collect();
        let mut frontends = plan.frontends;
        frontends.retain(|frontend| match self.claims.check(frontend.key, &key) {
            Ok(()) => true,
            Err(conflict) => {
                lost.push(frontend.key);
                effects.objections.push(Objection::Contested(conflict));
                false
            }
        });
        for check in &plan.checks {
            let conflict = self.claims.check(*check, &key).err();
            effects.objections.extend(conflict.map(Objection::Contested));
        }
        for (frontend, winner) in plan.refused {
            lost.push(frontend);
            effects.objections.push(Objection::Contested(Conflict { frontend, winner, loser: key.clone() }));
        }
        let checks = plan.checks.into();
        let mut state = ServiceState { frontends: frontends.into(), lost: lost.into(), checks, shared };
        self.numbers.assign(&old.frontends, &mut state.frontends, existing.map(|existing| &existing.numbers));
        for frontend in &mut state.frontends {
            let previous = old_frontends.remove(&frontend.key);
            self.place(frontend, previous, existing);
            if previous != Some(frontend) {
                self.replace_frontend(previous, Some(frontend), recorder);
            }
        }
        // In the order in which they came: the kernel looks for an element of source ranges from the first one on.
        for gone in old.frontends.iter().filter(|frontend| old_frontends.contains_key(&frontend.key)) {
            self.replace_frontend(Some(gone), None, recorder);
        }
        effects.stale.extend(affinity::stale(&old.frontends, &state.frontends));
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

    fn replace_frontend(&mut self, old: Option<&Frontend>, new: Option<&Frontend>, recorder: &mut OpRecorder) {
        let old_members = old.map(Frontend::members).unwrap_or_default();
        let new_members = new.map(Frontend::members).unwrap_or_default();
        new_members.iter().filter_map(dynamic_chain).for_each(|chain| self.chains.add(chain));
        old_members.iter().filter_map(dynamic_chain).for_each(|chain| self.chains.remove(chain));
        replace_members(&old_members, &new_members, recorder);
        replace_endpoints(old, new, recorder);
    }
}

pub(super) fn replace_members(old: &[Member], new: &[Member], recorder: &mut OpRecorder) {
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

fn replace_endpoints<'f>(old: Option<&'f Frontend>, new: Option<&'f Frontend>, recorder: &mut OpRecorder) {
    let Some(key) = new.or(old).map(|frontend| frontend.key.bytes()) else {
        return;
    };
    let slots = |frontend: Option<&'f Frontend>| -> Vec<(EndpointMap, Cow<'f, [Target]>)> {
        let Some(frontend) = frontend else { return Vec::new() };
        let lists = frontend.endpoint_lists().into_iter();
        lists.map(|(map, _, targets)| (map, frontend.slots(targets))).collect()
    };
    let (old, new) = (slots(old), slots(new));
    for map in EndpointMap::ALL {
        let (old, new) = (slots_of(map, &old), slots_of(map, &new));
        for (slot, target) in old.iter().enumerate().filter(|(slot, target)| new.get(*slot) != Some(target)) {
            recorder.delete(map.set(), endpoint_element(&key, slot, target));
        }
        for (slot, target) in new.iter().enumerate().filter(|(slot, target)| old.get(*slot) != Some(target)) {
            recorder.add(map.set(), endpoint_element(&key, slot, target));
        }
    }
}

fn slots_of<'a>(map: EndpointMap, all: &'a [(EndpointMap, Cow<'_, [Target]>)]) -> &'a [Target] {
    all.iter().find(|(of, _)| *of == map).map_or(&[], |(_, slots)| slots)
}

fn shared(plan: &ServicePlan) -> impl Iterator<Item = SharedElement> {
    let cluster_ip = plan.cluster_ip.map(SharedElement::ClusterIp);
    let hairpins = plan.hairpins.iter().copied().map(SharedElement::Hairpin);
    let endpoints = plan.after_dnat_endpoints().into_iter().map(SharedElement::AfterDnatEndpoint);
    let pingable = plan.pingable.iter().copied().map(SharedElement::Pingable);
    let unpingable = plan.unpingable.iter().copied().map(SharedElement::Unpingable);
    cluster_ip.into_iter().chain(hairpins).chain(endpoints).chain(pingable).chain(unpingable)
}

/// The chain a verdict leads to, when it is one that comes and goes.
fn dynamic_chain(member: &Member) -> Option<ChainId> {
    match member.element.value {
        Value::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) if !ChainId::FIXED.contains(&chain) => Some(chain),
        _ => None,
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
