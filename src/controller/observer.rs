//! Those who follow the sync loop, and what they are told.

use std::fmt;
use std::time::Duration;

use crate::diff::{Mirror, Objection};
use crate::model::{Changes, Event, Family, Model};
use crate::ruleset::{KernelError, Transaction};

/// What the last sync did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Number of syncs that succeeded in at least one family; 0 before the first.
    pub syncs: u64,
    /// Services known.
    pub services: usize,
    /// Elements the last sync added to sets and maps.
    pub added: usize,
    /// Elements the last sync deleted.
    pub deleted: usize,
    /// From the arrival of the oldest event to the commit in the kernel.
    pub latency: Duration,
    /// Failed attempts since the last success, in the family that has most; 0 when all tables are as they should be.
    pub failures: u32,
}

/// Is told what the sync loop does: metrics, health, conntrack clean-up, health-check ports. Called on the loop's thread,
/// so it must hand long work to somebody else.
pub trait Observer: Send {
    /// Events arrived and are about to be folded into the model.
    fn received(&mut self, _batch: &[Event]) {}
    /// Something changed that a sync has to deal with, in every family.
    fn requested(&mut self) {}
    /// The table of a family is equal to the mirror again; called after every successful sync, also one that sent nothing.
    fn synced(&mut self, _sync: &Synced<'_>) {}
    /// Which frontends Services do not get in the coming sync, in one family, and why.
    fn objected(&mut self, _objections: &[Objection]) {}
    /// The kernel refused, or what somebody else changed could not be compared or repaired; it will be tried again.
    fn failed(&mut self, _family: Family, _cause: &KernelError, _duration: Duration) {}
    /// The rules of a family are right, but chains nobody uses any more could not be deleted.
    fn cleanup_failed(&mut self, _family: Family, _cause: &KernelError) {}
    /// Another process owns the tables; the loop waits until that process ends.
    fn waiting(&mut self, _cause: &KernelError) {}
    /// A comparison with the kernel found changes by somebody else, and repaired them.
    fn repaired(&mut self, _repair: &Repair) {}
}

/// A successful sync of one family.
#[derive(Debug)]
pub struct Synced<'a> {
    /// The family.
    pub family: Family,
    /// All objects.
    pub model: &'a Model,
    /// The tables that are known to be in force, of this family and perhaps of the other; `mirror.settings()` are in force.
    pub mirror: &'a Mirror,
    /// What had changed since the last attempt. A full sync deals with everything, whatever this says.
    pub changes: &'a Changes,
    /// Everything was compared with the kernel (first sync, or after a failure), not just the changes.
    pub full: bool,
    /// Elements added and deleted.
    pub elements: (usize, usize),
    /// What was changed in a table that was in force, without the elements of maps that were replaced by larger ones;
    /// empty when nothing had to be changed.
    pub transaction: &'a Transaction,
    /// Time the sync took, without waiting for it.
    pub duration: Duration,
}

/// A repair of what somebody else had changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// Elements that were missing or wrong.
    pub added: usize,
    /// Elements that should not have been there, or were wrong.
    pub deleted: usize,
    /// Who it was, where that is known: `nft (pid 123)`.
    pub by: Option<String>,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("somebody else");
        match (self.added, self.deleted) {
            (0, 0) => write!(f, "changed by {by}; rules put right"),
            (added, deleted) => write!(f, "changed by {by}; put right: {added} elements added, {deleted} deleted"),
        }
    }
}
