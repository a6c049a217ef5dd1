//! What successors of maps have already, and what they lack.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::{HashSet, HashSetExt as _};

use super::shared::SharedElement;
use crate::model::ObjectKey;
use crate::ruleset::{ChainId, SetId};

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
    /// Those who were there when they were made, and whose turn has not been; the next one last.
    order: Vec<Owner>,
    /// Those whose elements they have. Some may be in `order` too, because they left and came again.
    done: HashSet<Owner>,
    /// Chains that have no rules for them yet.
    unbound: Vec<ChainId>,
    /// Chains that have: behind those in force, where no packet gets.
    bound: BTreeSet<ChainId>,
}

impl Successors {
    /// Ones of these sizes, that lack all these elements, and rules in all these chains.
    pub(super) fn new(sizes: BTreeMap<SetId, u32>, owners: Vec<Owner>, chains: Vec<ChainId>) -> Self {
        Self { sizes, order: owners, done: HashSet::new(), unbound: chains, bound: BTreeSet::new() }
    }

    /// The next chain that is to get rules for them; from now on it has these.
    pub(super) fn next_chain(&mut self) -> Option<ChainId> {
        let chain = self.unbound.pop()?;
        self.bound.insert(chain);
        Some(chain)
    }

    /// Whether a chain has rules for them.
    pub(super) fn are_bound_in(&self, chain: ChainId) -> bool {
        self.bound.contains(&chain)
    }

    /// Chains that have rules for them.
    pub(super) fn bound(&self) -> impl Iterator<Item = ChainId> {
        self.bound.iter().copied()
    }

    /// A chain comes, with its rules for them.
    pub(super) fn bind(&mut self, chain: ChainId) {
        self.unbound.retain(|other| *other != chain);
        self.bound.insert(chain);
    }

    /// A chain goes, and its rules with it.
    pub(super) fn unbind(&mut self, chain: ChainId) {
        self.unbound.retain(|other| *other != chain);
        self.bound.remove(&chain);
    }

    /// Whose turn it is; from now on they have its elements.
    pub(super) fn next(&mut self) -> Option<Owner> {
        while let Some(owner) = self.order.pop() {
            if self.done.insert(owner.clone()) {
                return Some(owner);
            }
        }
        None
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

    /// Whether they have what belongs to an owner. One who had nothing in force until now has nothing to wait for.
    pub(super) fn have(&mut self, is_new: bool, owner: impl FnOnce() -> Owner) -> bool {
        match (self.is_empty(), is_new) {
            (true, _) => false,
            (false, true) => {
                self.done.insert(owner());
                true
            }
            (false, false) => self.done.contains(&owner()),
        }
    }
}
