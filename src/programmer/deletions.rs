//! Chains that nothing leads to any more, deleted when it is quiet: the kernel first waits for the packets that are on their
//! way there, some 16 ms, and no change should wait with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Failure, Programmer, apply};
use crate::diff::{Mirror, Steps};
use crate::model::Family;
use crate::ruleset::{Kernel, KernelError, Transaction};

/// How long nothing has changed when it is quiet.
const QUIET: Duration = Duration::from_millis(100);
/// The most chains that stay until it is quiet. More are deleted with the change that makes them that many.
const CHAINS_MAX: usize = 128;

/// When the chains of each family that are to go are deleted.
#[derive(Debug, Default)]
pub(super) struct Deletions(BTreeMap<Family, Instant>);

impl Deletions {
    /// Takes the deletions out of the steps of a change, if they can wait.
    pub(super) fn postpone(&mut self, family: Family, steps: &mut Steps, now: Instant) -> Transaction {
        self.0.remove(&family);
        if steps.after.is_empty() || steps.after.ops.len() > CHAINS_MAX || !steps.may_keep_chains() {
            return Transaction::default();
        }
        self.0.insert(family, now + QUIET);
        std::mem::take(&mut steps.after)
    }

    /// Nothing is postponed any more in a family.
    pub(super) fn forget(&mut self, family: Family) {
        self.0.remove(&family);
    }
}

impl<K: Kernel> Programmer<K> {
    /// When [`Programmer::delete_chains`] has something to do; `None` while it has not.
    pub fn deletes_at(&self) -> Option<Instant> {
        self.deletions.0.values().min().copied()
    }

    /// Deletes the chains that updates have left for this moment. Those that the kernel refuses to delete do no harm: the
    /// next update names them again.
    pub fn delete_chains(&mut self, now: Instant) -> Vec<(Family, Result<Option<KernelError>, Failure>)> {
        let Some(mut mirror) = self.mirror.take() else { return Vec::new() };
        let due: Vec<Family> =
            self.deletions.0.iter().filter(|(_, at)| **at <= now).map(|(family, _)| *family).collect();
        let mut results = Vec::new();
        for family in due {
            let result = self.delete_postponed(&mut mirror, family);
            results.push((family, result));
        }
        self.mirror = Some(mirror);
        results.into_iter().map(|(family, result)| (family, self.note_result(family, result))).collect()
    }

    /// Deletes the chains of a family now, if any are to go.
    pub(super) fn delete_postponed(
        &mut self,
        mirror: &mut Mirror,
        family: Family,
    ) -> Result<Option<KernelError>, Failure> {
        if self.deletions.0.remove(&family).is_none() {
            return Ok(None);
        }
        self.delete(mirror, family, &mirror.deletions(family))
    }

    /// Makes these deletions, and notes in the mirror whether they were made; why not, if the kernel refuses them.
    pub(super) fn delete(
        &mut self,
        mirror: &mut Mirror,
        family: Family,
        deletions: &Transaction,
    ) -> Result<Option<KernelError>, Failure> {
        match apply(&mut self.kernel, mirror, deletions) {
            Ok(()) => {
                mirror.set_undeleted(family, &Transaction::default());
                Ok(None)
            }
            // The chains may be gone, or not.
            Err(failure) if failure.cause.is_uncertain() => Err(failure),
            Err(Failure { cause, .. }) => {
                tracing::debug!(%cause, %family, "unused chains stay for now");
                mirror.set_undeleted(family, deletions);
                Ok(Some(cause))
            }
        }
    }
}
