//! The order in which a table is changed.

use crate::model::Family;
use crate::ruleset::{ChainId, Op, SetId, Transaction};

/// The transactions of a sync, in this order. What packets meet changes with `main` alone, all at once.
#[derive(Debug, Default)]
pub struct Steps {
    /// Deletes maps that a replacement, which was not finished, left behind. Makes successors of maps that need another size,
    /// without elements. Makes chains: a packet that is being processed while a transaction takes effect finds its elements,
    /// but the rules from before it, and would find a chain of the same transaction empty.
    pub first: Transaction,
    /// Maps whose successors are filled next ([`super::Mirror::fill`]).
    pub(super) resized: Vec<(Family, SetId)>,
    /// Takes the table from the old state to the new one.
    pub main: Transaction,
    /// Deletes the maps that were replaced, as soon as no packet is being processed by rules that name them.
    pub replaced: Transaction,
    /// Deletes chains nobody refers to any more, as soon as no packet is being processed that was led to them.
    pub after: Transaction,
}

impl Steps {
    /// The transactions, without what fills maps.
    pub fn transactions(&self) -> [&Transaction; 4] {
        [&self.first, &self.main, &self.replaced, &self.after]
    }

    /// Whether the chains that `after` deletes can stay for a while: they have their rules, for packets that were led there,
    /// and no map is to go that these rules name.
    pub fn may_keep_chains(&self) -> bool {
        let is_flushed = |chain: &ChainId| self.main.ops.iter().any(|(_, op)| *op == Op::FlushChain(*chain));
        let may_stay = |op: &Op| matches!(op, Op::DeleteChain(chain) if !is_flushed(chain));
        self.replaced.is_empty() && self.after.ops.iter().all(|(_, op)| may_stay(op))
    }

    /// Whether there is nothing to do.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_empty(&self) -> bool {
        self.transactions().into_iter().all(Transaction::is_empty)
    }
}
