//! Records of session affinity whose endpoint is gone. Packets write records, so they are read and deleted after a commit.
//!
//! A packet that took its endpoint from a record just before this was deleted writes it anew behind that. So wherever
//! records were deleted, they are looked at again a little later, until none is found.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Failure, Programmer};
use crate::diff::{Mirror, StaleAffinity, stale_records};
use crate::model::Family;
use crate::ruleset::{Element, Kernel, KernelError, SetId};

/// How long after a deletion the records are looked at again: longer than a packet takes.
const AGAIN: Duration = Duration::from_millis(100);
/// While records keep coming back, reading them takes at most one part in so many of the time.
const SHARE: u32 = 10;

/// When the records of each family are looked at again.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<Family, Instant>);

impl<K: Kernel> Programmer<K> {
    /// Deletes affinity records that belong to no frontend with session affinity, or whose endpoint this does not have.
    pub fn forget_orphans(&mut self, family: Family) -> Result<(), Failure> {
        let Some(mirror) = self.mirror.take() else { return Ok(()) };
        let result = self.forget_orphans_of(&mirror, family).map_err(Failure::from);
        self.mirror = Some(mirror);
        self.note_result(family, result)
    }

    /// When [`Programmer::look_again`] has something to do; `None` while it has not.
    pub fn looks_again_at(&self) -> Option<Instant> {
        self.suspects.0.values().min().copied()
    }

    /// Deletes records that packets may have written anew while they were deleted, where it is time for it.
    pub fn look_again(&mut self, now: Instant) -> Vec<(Family, Result<(), Failure>)> {
        let due: Vec<Family> =
            self.suspects.0.iter().filter(|(_, at)| **at <= now).map(|(family, _)| *family).collect();
        due.into_iter()
            .map(|family| {
                self.suspects.0.remove(&family);
                // A table that is not known is made equal anyhow, and its records are looked at then.
                let result = if self.knows(family) { self.forget_orphans(family) } else { Ok(()) };
                (family, result)
            })
            .collect()
    }

    pub(super) fn forget_orphans_of(&mut self, mirror: &Mirror, family: Family) -> Result<(), KernelError> {
        if !mirror.families().any(|served| served == family) {
            return Ok(());
        }
        let start = Instant::now();
        let records = self.kernel.read_set(family, SetId::Affinity.into())?;
        self.forget(family, &mirror.orphans(family, &records), start)
    }

    /// Deletes the records that a change has made stale.
    pub(super) fn forget_stale(&mut self, family: Family, stale: &[StaleAffinity]) -> Result<(), KernelError> {
        if stale.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let records = self.kernel.read_set(family, SetId::Affinity.into())?;
        self.forget(family, &stale_records(&records, stale), start)
    }

    /// Deletes records; `start` is when they began to be read.
    fn forget(&mut self, family: Family, records: &[Element], start: Instant) -> Result<(), KernelError> {
        if records.is_empty() {
            return Ok(());
        }
        tracing::debug!(%family, records = records.len(), "forgetting affinity records");
        self.kernel.forget(family, SetId::Affinity, records)?;
        let wait = AGAIN.max(start.elapsed() * SHARE);
        self.suspects.0.entry(family).or_insert_with(|| Instant::now() + wait);
        Ok(())
    }
}
