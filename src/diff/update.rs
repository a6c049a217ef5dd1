//! From changes of the model to changes of the tables.

use std::collections::BTreeSet;

use super::change::Change;
use super::mirror::{FamilyMirror, Mirror};
use super::numbers::Numbers;
use super::recorder::OpRecorder;
use super::services::{Effects, replace_members};
use super::successors::Owner;
use super::{ExistingLayout, Objection, StaleAffinity, Steps};
use crate::model::{Changes, Family, Model, ObjectKey};
use crate::plan::{Settings, Target, globals};
use crate::ruleset::{ChainId, SetId};

/// What a sync has to do.
#[derive(Debug, Default)]
pub struct Update {
    /// What to do in each family whose table is known.
    pub families: Vec<FamilyUpdate>,
}

/// What a sync has to do in one family.
#[derive(Debug)]
pub struct FamilyUpdate {
    /// The family.
    pub family: Family,
    /// Changes of its table.
    pub steps: Steps,
    /// Affinity records to look for after the commit.
    pub stale: Vec<StaleAffinity>,
    /// What Services of this update do not get.
    pub objections: Vec<Objection>,
}

impl Mirror {
    /// The tables for all Services of a model, where no table exists yet.
    pub fn build(settings: Settings, model: &Model) -> (Self, Vec<Objection>) {
        let mut this = Self::new(settings);
        let objections = Family::ALL.into_iter().flat_map(|family| this.compile(family, model, None)).collect();
        (this, objections)
    }

    /// Makes the table of one family anew from all Services; none of a family that is not served. Where a table exists,
    /// endpoints stay in its slots, affinity records stay with their Service ports, and maps keep sizes that suffice.
    pub fn compile(&mut self, family: Family, model: &Model, existing: Option<&ExistingLayout<'_>>) -> Vec<Objection> {
        self.lose(family);
        if self.settings.family(family).is_none() {
            return Vec::new();
        }
        let mut mirror = FamilyMirror::new(family, &self.settings);
        let mut all: Vec<&ObjectKey> = model.services().map(|service| &service.key).collect();
        all.sort_unstable();
        let (mut recorder, mut effects) = (OpRecorder::counting(), Effects::default());
        mirror.numbers = Numbers::after(existing.map(|existing| &existing.numbers));
        replace_members(&[], &mirror.globals, &mut recorder);
        mirror.sync_services(&self.settings, model, &all, existing, &mut recorder, &mut effects);
        mirror.record_shared(&mut recorder);
        mirror.update_gone(self.gone.of_family(family), &mut recorder);
        mirror.chains.take_changes();
        mirror.optional = mirror.optional_of(&self.settings, mirror.all_chains());
        mirror.sizes.count(recorder.counts());
        mirror.sizes.choose(existing.and_then(|existing| existing.sizes.as_ref()), &mirror.optional);
        self.families.push(mirror);
        self.families.sort_unstable_by_key(|mirror| mirror.family);
        effects.objections
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
        let dirty: Vec<&ObjectKey> = dirty.iter().collect();
        for mirror in &mut self.families {
            let gone = self.gone.of_family(mirror.family);
            update.families.push(mirror.update(&old, settings, model, &dirty, gone));
        }
        update
    }
}

/// Whether a change of settings concerns what Services compile to, and not just rules or global elements.
fn recompiles_everything(old: &Settings, new: &Settings) -> bool {
    let node_ips = |settings: &Settings| settings.families().map(|(_, f)| (f.node_ip, f.pings_to)).collect::<Vec<_>>();
    old.node_name != new.node_name
        || old.listeners != new.listeners
        || old.zone != new.zone
        || old.external_ips != new.external_ips
        || node_ips(old) != node_ips(new)
}

impl FamilyMirror {
    fn update(
        &mut self,
        old: &Settings,
        new: &Settings,
        model: &Model,
        dirty: &[&ObjectKey],
        gone: BTreeSet<Target>,
    ) -> FamilyUpdate {
        let (mut recorder, mut effects) = (OpRecorder::with_successors(self.successors.sets()), Effects::default());
        let before = self.all_chains_if_rules_may_differ(old, new);
        self.update_globals(new, &mut recorder);
        self.sync_services(new, model, dirty, None, &mut recorder, &mut effects);
        self.record_shared(&mut recorder);
        self.update_gone(gone, &mut recorder);
        let (mut came, went) = self.chains.take_changes();
        self.sizes.count(recorder.counts());
        let fuller: Vec<SetId> =
            recorder.counts().iter().filter(|(_, change)| **change > 0).map(|(set, _)| *set).collect();
        let (mut came_sets, mut went_sets) = (BTreeSet::new(), BTreeSet::new());
        let concerned = came.iter().chain(&went).chain(&before).copied();
        if !self.optional_of(new, concerned).is_empty() || !before.is_empty() {
            (came_sets, went_sets) = self.update_optional(new);
        }
        let mut steps = Steps::default();
        if self.successors.sets().any(|set| went_sets.contains(&set)) {
            self.abandon_successors(old, &mut steps.first);
            recorder.forget_successors();
        }
        let resized = self.make_room(old, &mut recorder, &mut steps);
        let differs = |chain: &ChainId| self.rules_in_force(new, *chain) != self.rules_in_force(old, *chain);
        let mut changed: Vec<ChainId> = before.into_iter().filter(differs).collect();
        // What could not be deleted is still there: wanted again it gets its rules anew.
        let (back, new_ones): (Vec<ChainId>, _) = came.into_iter().partition(|chain| self.undeleted.contains(chain));
        came = new_ones;
        changed.retain(|chain| !back.contains(chain) && !came.contains(chain));
        came_sets.retain(|set| !self.undeleted_sets.contains(set));
        let mut change = Change {
            came,
            back,
            changed,
            went,
            came_sets,
            went_sets,
            resized,
            elements: recorder,
            ..Change::default()
        };
        self.repeat_deletions(&mut change);
        self.bind_with(new, &change);
        self.write(new, change, &mut steps);
        self.note_fuller(fuller);
        FamilyUpdate { family: self.family, steps, stale: effects.stale, objections: effects.objections }
    }

    /// Where maps have no room for this update, makes larger ones that have everything at once, and says which they are.
    /// Where successors have none, they are made anew.
    fn make_room(&mut self, old: &Settings, recorder: &mut OpRecorder, steps: &mut Steps) -> Vec<SetId> {
        let are_exceeded = self.sizes.are_exceeded();
        if are_exceeded || self.sizes.exceed(self.successors.sizes()) {
            self.abandon_successors(old, &mut steps.first);
            recorder.forget_successors();
        }
        if !are_exceeded {
            return Vec::new();
        }
        // The larger ones may take their names.
        self.abandon_predecessors(&mut steps.first);
        self.sizes.grow()
    }

    /// Records what came into force and what went out of it among the elements Services share.
    fn record_shared(&mut self, recorder: &mut OpRecorder) {
        let (came, went) = self.shared.take_changes();
        for shared in came {
            recorder.in_successors(self.successors.have(true, || Owner::Shared(shared)));
            recorder.add_member(shared.member());
        }
        for shared in went {
            recorder.in_successors(self.successors.have(false, || Owner::Shared(shared)));
            recorder.delete_member(shared.member());
        }
    }

    /// Which optional sets come and go with the chains.
    fn update_optional(&mut self, settings: &Settings) -> (BTreeSet<SetId>, BTreeSet<SetId>) {
        let wanted = self.optional_of(settings, self.all_chains());
        let before = std::mem::replace(&mut self.optional, wanted);
        let came: BTreeSet<SetId> = self.optional.difference(&before).copied().collect();
        came.iter().for_each(|set| self.sizes.choose_for(*set));
        (came, before.difference(&self.optional).copied().collect())
    }

    fn all_chains_if_rules_may_differ(&self, old: &Settings, new: &Settings) -> Vec<ChainId> {
        let same = old.family(self.family) == new.family(self.family) && old.masquerade_all == new.masquerade_all;
        if same { Vec::new() } else { self.all_chains() }
    }

    fn update_globals(&mut self, settings: &Settings, recorder: &mut OpRecorder) {
        let wanted = globals(self.family, settings);
        if wanted == self.globals {
            return;
        }
        let old = std::mem::replace(&mut self.globals, wanted);
        recorder.in_successors(self.successors.have(false, || Owner::Settings));
        replace_members(&old, &self.globals, recorder);
    }
}
