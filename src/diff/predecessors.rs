//! What is still in maps that were replaced.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::service_state::ServiceState;
use crate::plan::Member;
use crate::ruleset::SetId;

/// Maps that no rule uses any more, under the other names of those in force, with what is still in them.
#[derive(Debug, Clone, Default)]
pub(super) struct Predecessors {
    sets: BTreeSet<SetId>,
    members: Vec<Member>,
    services: Vec<Arc<ServiceState>>,
}

/// Something that has elements there.
#[derive(Debug)]
pub(super) enum Predecessor {
    /// An element that belongs to no Service alone.
    Member(Member),
    /// A Service, as it was in force when the maps were replaced.
    Service(Arc<ServiceState>),
}

impl Predecessors {
    /// Ones in which all this still is.
    pub(super) fn new(sets: BTreeSet<SetId>, members: Vec<Member>, services: Vec<Arc<ServiceState>>) -> Self {
        Self { sets, members, services }
    }

    /// What is to go next.
    pub(super) fn next(&mut self) -> Option<Predecessor> {
        let service = self.services.pop().map(Predecessor::Service);
        service.or_else(|| self.members.pop().map(Predecessor::Member))
    }

    /// Which maps were replaced.
    pub(super) fn sets(&self) -> &BTreeSet<SetId> {
        &self.sets
    }

    /// Whether a map is one of them.
    pub(super) fn have(&self, set: SetId) -> bool {
        self.sets.contains(&set)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether nothing is left in them.
    pub(super) fn are_emptied(&self) -> bool {
        self.services.is_empty() && self.members.is_empty()
    }
}
