//! Maps that were replaced, and are emptied while changes go on.
//!
//! The kernel deletes a map with all its elements in one transaction, and frees them after it: of a million that takes it a
//! third of a second, and changes would wait. So the elements go in parts, as they came into the successor, and the map last.
//! Not those of verdict maps, which are smaller: as long as they lead to a chain it cannot be deleted.

use std::collections::BTreeSet;

use super::mirror::{FamilyMirror, Mirror};
use super::predecessors::{Predecessor, Predecessors};
use super::recorder::OpRecorder;
use super::shared::SharedElement;
use crate::model::Family;
use crate::ruleset::{Op, SetId, SetName, Transaction};

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
        if sets.is_empty() {
            return;
        }
        let shared = self.shared.keys().map(SharedElement::member);
        let members = shared.chain(self.globals.iter().cloned()).filter(|member| sets.contains(&member.set)).collect();
        let services = self.services.values().cloned().collect();
        self.predecessors = Predecessors::new(sets, members, services);
    }

    fn empty_predecessors(&mut self, max: usize) -> Transaction {
        let (mut recorder, mut part, mut count) = (OpRecorder::default(), Transaction::default(), 0);
        for _ in 0..max {
            if count >= max {
                break;
            }
            let elements: Vec<_> = match self.predecessors.next() {
                None => break,
                Some(Predecessor::Member(member)) => vec![(member.set, member.element)],
                Some(Predecessor::Service(state)) => {
                    let has = |set| self.predecessors.have(set);
                    let frontends = state.frontends.iter();
                    frontends.flat_map(|frontend| Self::elements_of_frontend(frontend, has)).collect()
                }
            };
            for (set, element) in elements.into_iter().filter(|(set, _)| self.predecessors.have(*set)) {
                recorder.delete(set, element);
                count += 1;
            }
        }
        let mut names = self.sizes.names().clone();
        self.predecessors.sets().iter().for_each(|set| names.switch(*set));
        recorder.finish(self.family, &names, &mut part);
        if self.predecessors.are_emptied() {
            self.abandon_predecessors(&mut part);
        }
        part
    }

    /// Appends what deletes the maps that were replaced, whatever is in them.
    pub(super) fn abandon_predecessors(&mut self, deletes: &mut Transaction) {
        let names = self.sizes.names();
        for set in std::mem::take(&mut self.predecessors).sets() {
            deletes.push(self.family, Op::DeleteSet(names.of(*set).other()));
        }
    }

    /// Whether this is a map that was replaced, and is being emptied.
    pub(super) fn is_predecessor(&self, name: SetName) -> bool {
        self.predecessors.have(name.set) && name == self.sizes.names().of(name.set).other()
    }
}
