//! Maps replaced by larger ones, step by step, with changes in between.

use tracing::debug;

use super::{Failure, Programmer, apply, send_slice};
use crate::diff::Mirror;
use crate::model::Family;
use crate::ruleset::{Kernel, Op};

impl<K: Kernel> Programmer<K> {
    /// The families that have maps being replaced by larger ones: there [`Programmer::grow`] goes on.
    pub fn growing(&self) -> impl Iterator<Item = Family> + use<K> {
        let is_growing = |family: &Family| self.mirror.as_ref().is_some_and(|mirror| mirror.is_growing(*family));
        self.known().filter(is_growing).collect::<Vec<_>>().into_iter()
    }

    /// Takes the next step in replacing maps of a family by larger ones. These get a part of their elements; when they have
    /// all, the rules use them; when no packet uses the old ones any more, these lose a part of theirs; in the end they go.
    pub fn grow(&mut self, family: Family) -> Result<(), Failure> {
        let Some(mut mirror) = self.mirror.take() else { return Ok(()) };
        let result = self.next_step(&mut mirror, family);
        self.mirror = Some(mirror);
        self.note_result(family, result)
    }

    fn next_step(&mut self, mirror: &mut Mirror, family: Family) -> Result<(), Failure> {
        if self.unsettled.remove(&family) {
            return Ok(self.kernel.settle()?);
        }
        for prepare in [Mirror::begin_successors, Mirror::bind_successors] {
            let part = prepare(mirror, family);
            if !part.is_empty() {
                return apply(&mut self.kernel, mirror, &part);
            }
        }
        let size = self.successor_slices.size();
        let part = mirror.fill_successors(family, size);
        if !part.is_empty() {
            send_slice(&mut self.kernel, mirror, &part, &mut self.successor_slices)?;
            return Ok(());
        }
        if let Some(steps) = mirror.switch_to_successors(family) {
            self.unsettled.insert(family);
            return self.commit(mirror, family, steps).map(drop);
        }
        let part = mirror.empty_predecessors(family, size);
        match apply(&mut self.kernel, mirror, &part) {
            Err(failure) if !failure.cause.is_uncertain() => {
                debug!(cause = %failure.cause, %family, "a map that was replaced cannot be emptied, so it is deleted as it is");
                let mut deletes = mirror.abandon_unused(family);
                // The last part deletes the maps itself.
                deletes.ops.extend(part.ops.into_iter().filter(|(_, op)| matches!(op, Op::DeleteSet(_))));
                apply(&mut self.kernel, mirror, &deletes)
            }
            result => result,
        }
    }
}
