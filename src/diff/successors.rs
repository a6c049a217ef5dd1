//! What successors of maps have already, and what they lack.

use std::collections::{BTreeMap, HashSet};

use super::shared::SharedElement;
use crate::model::ObjectKey;
use crate::ruleset::SetId;

/// Whose elements they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// Settings.
    Settings,
    /// Several Services.
    Shared(SharedElement),
    /// A Service.
    Service(ObjectKey),
}

/// Maps that exist beside those in force, under their other names, and are being filled.
#[derive(Debug, Clone, Default)]
pub(super) struct Successors {
    /// How many elements they have room for.
    sizes: BTreeMap<SetId, u32>,
    /// Those whose elements are missing, the next one last.
    order: Vec<Owner>,
    /// The same.
    waiting: HashSet<Owner>,
}

impl Successors {
    /// Ones of these sizes, that lack all these elements.
    pub(super) fn new(sizes: BTreeMap<SetId, u32>, owners: Vec<Owner>) -> Self {
        Self { sizes, waiting: owners.iter().cloned().collect(), order: owners }
    }

    /// Whose turn it is; from now on they have its elements.
    pub(super) fn next(&mut self) -> Option<Owner> {
        let owner = self.order.pop()?;
        self.waiting.remove(&owner);
        Some(owner)
    }

    /// Whether there are some, and all elements are in them.
    pub(super) fn are_filled(&self) -> bool {
        !self.is_empty() && self.order.is_empty()
    }

    /// Their sizes.
    pub(super) fn sizes(&self) -> &BTreeMap<SetId, u32> {
        &self.sizes
    }

    /// Their sizes.
    pub(super) fn into_sizes(self) -> BTreeMap<SetId, u32> {
        self.sizes
    }

    /// Whether a map has one.
    pub(super) fn replace(&self, set: SetId) -> bool {
        self.sizes.contains_key(&set)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Which maps they will replace.
    pub(super) fn sets(&self) -> impl Iterator<Item = SetId> {
        self.sizes.keys().copied()
    }

    /// Whether they have what belongs to an owner.
    pub(super) fn have(&self, owner: impl FnOnce() -> Owner) -> bool {
        !self.is_empty() && !self.waiting.contains(&owner())
    }
}
