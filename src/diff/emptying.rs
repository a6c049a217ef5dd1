//! Maps that were replaced, and are emptied while changes go on.
//!
//! The kernel deletes a map with all its elements in one transaction, and frees them after it: of a million that takes it a
//! third of a second, and changes would wait. So the elements go in parts, as they came into the successor, and the map last.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::mirror::{FamilyMirror, Mirror, ServiceState};
use super::recorder::OpRecorder;
use super::shared::SharedElement;
use crate::model::Family;
use crate::plan::Member;
use crate::ruleset::{Element, Op, SetId, SetName, Transaction};

/// Maps that no rule uses any more, under the other names of those in force, with what is still in them.
#[derive(Debug, Clone, Default)]
pub(super) struct Predecessors {
    sets: BTreeSet<SetId>,
    /// What belongs to no Service alone.
    members: Vec<Member>,
    /// As they were in force when the maps were replaced.
    services: Vec<Arc<ServiceState>>,
}

impl Predecessors {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    fn are_emptied(&self) -> bool {
        self.services.is_empty() && self.members.is_empty()
    }

    fn have(&self, set: SetId) -> bool {
        self.sets.contains(&set)
    }

    /// Elements of the next owner; none when all had their turn.
    fn next(&mut self) -> Option<Vec<(SetId, Element)>> {
        if let Some(state) = self.services.pop() {
            let frontends = state.frontends.iter();
            let elements =
                frontends.flat_map(|frontend| FamilyMirror::elements_of_frontend(frontend, |s| self.have(s)));
            return Some(elements.filter(|(set, _)| self.have(*set)).collect());
        }
        let member = self.members.pop()?;
        Some(vec![(member.set, member.element)])
    }
}

impl Mirror {
    /// The next part of what is to be done to be without the maps that were replaced: it deletes elements of some owners,
    /// until these or their elements are so many, and in the end the maps.
    pub fn empty_predecessors(&mut self, family: Family, max: usize) -> Transaction {
        let mirror = self.families.iter_mut().find(|mirror| mirror.family == family);
        mirror.map(|mirror| mirror.empty_predecessors(max)).unwrap_or_default()
    }
}

impl FamilyMirror {
    /// Notes that these maps were replaced, and have what is in force now.
    pub(super) fn leave_predecessors(&mut self, sets: BTreeSet<SetId>) {
        let shared = self.shared.keys().map(SharedElement::member);
        let members = shared.chain(self.globals.iter().cloned()).filter(|member| sets.contains(&member.set)).collect();
        let services = self.services.values().cloned().collect();
        self.predecessors = Predecessors { sets, members, services };
    }

    fn empty_predecessors(&mut self, max: usize) -> Transaction {
        let (mut recorder, mut part, mut count) = (OpRecorder::default(), Transaction::default(), 0);
        for _ in 0..max {
            if count >= max {
                break;
            }
            let Some(elements) = self.predecessors.next() else { break };
            count += elements.len();
            elements.into_iter().for_each(|(set, element)| recorder.delete(set, element));
        }
        let mut names = self.sizes.names().clone();
        self.predecessors.sets.iter().for_each(|set| names.switch(*set));
        recorder.finish(self.family, &names, &mut part);
        if self.predecessors.are_emptied() {
            self.abandon_predecessors(&mut part);
        }
        part
    }

    /// Appends what deletes the maps that were replaced, whatever is in them.
    pub(super) fn abandon_predecessors(&mut self, deletes: &mut Transaction) {
        let names = self.sizes.names();
        for set in std::mem::take(&mut self.predecessors).sets {
            deletes.push(self.family, Op::DeleteSet(names.of(set).other()));
        }
    }

    /// Whether this is a map that was replaced, and is being emptied.
    pub(super) fn is_predecessor(&self, name: SetName) -> bool {
        self.predecessors.have(name.set) && name == self.sizes.names().of(name.set).other()
    }
}
