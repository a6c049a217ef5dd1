//! Makes the kernel's tables what the model says: claims, reads, loads, commits, forgets, and reads again.
//!
//! The [`Programmer`] owns the kernel and the mirror. Each family has a table and transactions of its own, so what the kernel
//! refuses in one family does not hold up the other. When to do what is for the [`crate::controller`] to decide.

mod ahead;
mod deletions;
mod grow;
mod records;
mod repair;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::diff::{ExistingLayout, FamilyUpdate, Load, Mirror, Objection, Steps};
use crate::model::{Changes, Family, Model, ObjectKey};
use crate::plan::Settings;
use crate::ruleset::{Kernel, KernelError, Part, Table, Transaction};
use deletions::Deletions;
use records::Suspects;
use repair::repair_part;
use slices::{Slices, halves};

/// What was sent to the kernel for one family.
#[derive(Debug, Default)]
pub struct Sent {
    /// Elements added.
    pub added: usize,
    /// Elements deleted.
    pub deleted: usize,
    /// A table was made.
    pub loaded: bool,
    /// Changes of a table that was in force, without the elements of maps that were replaced by larger ones.
    pub changes: Transaction,
    /// Why chains nobody uses any more could not be deleted. They do no harm, and the next update tries again.
    pub not_deleted: Option<KernelError>,
}

impl Sent {
    fn new(changes: Transaction) -> Self {
        let (added, deleted) = changes.element_counts();
        Self { added, deleted, loaded: false, changes, not_deleted: None }
    }

    /// Nothing had to be changed.
    pub fn is_nothing(&self) -> bool {
        !self.loaded && self.changes.is_empty()
    }
}

/// Why the table of a family is not as it should be.
#[derive(Debug)]
pub struct Failure {
    /// What the kernel said.
    pub cause: KernelError,
    /// The Services whose element was refused, where that is known.
    pub blamed: Vec<ObjectKey>,
}

impl From<KernelError> for Failure {
    fn from(cause: KernelError) -> Self {
        Self { cause, blamed: Vec::new() }
    }
}

/// Programs the tables of both families.
#[derive(Debug)]
pub struct Programmer<K> {
    kernel: K,
    /// The tables that are known to be in force. Before the first one: none at all.
    mirror: Option<Mirror>,
    /// The families whose table is what the mirror says, or rightly not there.
    known: BTreeSet<Family>,
    slices: Slices,
    successor_slices: Slices,
    /// Tables that were read before it was known what they should be.
    ahead: BTreeMap<Family, Table>,
    /// Families whose rules used other maps until just now: a packet may still.
    unsettled: BTreeSet<Family>,
    deletions: Deletions,
    suspects: Suspects,
    /// How long connections to endpoints that are gone are reset; zero for not at all.
    reset_for: Duration,
    /// What Services do not get, collected for [`Programmer::take_objections`].
    objections: Vec<(Family, Vec<Objection>)>,
}

impl<K: Kernel> Programmer<K> {
    /// One that knows nothing of the tables yet, and has connections to endpoints that are gone reset for so long.
    pub fn new(kernel: K, reset_for: Duration) -> Self {
        let (known, objections) = (BTreeSet::new(), Vec::new());
        let (slices, successor_slices) = (Slices::of_loads(), Slices::of_successors());
        let (ahead, unsettled) = (BTreeMap::new(), BTreeSet::new());
        let (deletions, suspects) = (Deletions::default(), Suspects::default());
        Self {
            kernel,
            mirror: None,
            known,
            slices,
            successor_slices,
            ahead,
            unsettled,
            deletions,
            suspects,
            reset_for,
            objections,
        }
    }

    /// The kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The tables that are known to be in force; `None` when that is none.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref().filter(|_| !self.known.is_empty())
    }

    /// Whether the kernel holds the table of a family as it should be.
    pub fn knows(&self, family: Family) -> bool {
        self.known.contains(&family)
    }

    /// The families whose table is known.
    pub fn known(&self) -> impl Iterator<Item = Family> + use<K> {
        self.known.clone().into_iter()
    }

    /// Makes the tables ours to change; see [`Kernel::claim`].
    pub fn claim(&mut self) -> Result<(), KernelError> {
        self.kernel.claim()
    }

    /// Reads the table of a family back, works out anew what it should be, and sends the difference only: after a restart
    /// with nothing changed, nothing. Settings of a family that is in force stay in force until [`Programmer::update`].
    pub fn rebuild(&mut self, family: Family, settings: Settings, model: &Model) -> Result<Sent, Failure> {
        self.lose(family);
        let mut mirror = match self.mirror.take() {
            Some(mut mirror) if mirror.families().next().is_some() => {
                mirror.set_sizing(settings.sizing);
                mirror
            }
            _ => Mirror::new(settings),
        };
        let result = self.table_of(family).map_err(Failure::from).and_then(|table| {
            let existing = table.as_ref().map(ExistingLayout::of);
            if let Some(existing) = &existing {
                mirror.adopt_gone(existing, model, self.reset_for, Instant::now());
            }
            let objections = mirror.compile(family, model, existing.as_ref());
            drop(existing);
            self.objections.push((family, objections));
            self.make_equal(&mut mirror, family, table, false)
        });
        self.mirror = Some(mirror);
        self.note_result(family, result)
    }

    /// Takes over changes in all families whose table is known. Chains that nobody uses any more may stay until
    /// [`Programmer::delete_chains`].
    pub fn update(
        &mut self,
        settings: &Settings,
        model: &Model,
        changes: &Changes,
    ) -> Vec<(Family, Result<Sent, Failure>)> {
        let Some(mut mirror) = self.mirror.take() else { return Vec::new() };
        mirror.note_gone(model, changes, self.reset_for, Instant::now());
        let update = mirror.update(settings, model, changes);
        let mut results = Vec::new();
        for FamilyUpdate { family, mut steps, stale, objections } in update.families {
            self.objections.push((family, objections));
            let postponed = self.deletions.postpone(family, &mut steps, Instant::now());
            let result = self.commit(&mut mirror, family, steps);
            if result.is_ok() && !postponed.is_empty() {
                mirror.set_undeleted(family, &postponed);
            }
            results.push((family, result, stale));
        }
        self.mirror = Some(mirror);
        // Only now, as it takes a while to read many records, and the other family need not wait for that.
        let forget = |(family, result, stale): (Family, Result<Sent, Failure>, Vec<_>)| {
            let result = result.and_then(|sent| {
                self.forget_stale(family, &stale)?;
                Ok(sent)
            });
            (family, self.note_result(family, result))
        };
        results.into_iter().map(forget).collect()
    }

    /// Reads the table of a family back, or the part that others are reported to have touched, and repairs what differs
    /// from the mirror; whether the whole table was read.
    pub fn compare(&mut self, family: Family, touched: Option<&Part>) -> Result<(Sent, bool), Failure> {
        let Some(mut mirror) = self.mirror.take() else { return Ok((Sent::default(), false)) };
        // Others may have touched what is to go, too, and it is in nobody's way.
        let abandoned = mirror.abandon_unused(family);
        let cleared = apply(&mut self.kernel, &mirror, &abandoned);
        let touched = match cleared.and_then(|()| self.delete_postponed(&mut mirror, family)) {
            Ok(_) => touched,
            Err(failure) if failure.cause.is_uncertain() => {
                self.mirror = Some(mirror);
                return self.note_result(family, Err(failure));
            }
            // What was to go may be gone already, with the whole table.
            Err(Failure { cause, .. }) => {
                debug!(%cause, %family, "what is not used cannot be deleted, so the whole table is read");
                None
            }
        };
        let repaired = touched.and_then(|part| {
            repair_part(&mut self.kernel, &mirror, family, part).unwrap_or_else(|cause| {
                debug!(%cause, %family, "the touched part cannot be repaired alone, so the whole table is read");
                None
            })
        });
        let result = match repaired {
            Some(changes) => {
                if touched.is_some_and(|part| part.structure) {
                    mirror.set_undeleted(family, &Transaction::default());
                }
                Ok((Sent::new(changes), false))
            }
            None => {
                let table = self.kernel.read(family).map_err(Failure::from);
                table.and_then(|table| self.make_equal(&mut mirror, family, table, true)).map(|sent| (sent, true))
            }
        };
        self.mirror = Some(mirror);
        self.note_result(family, result)
    }

    /// Reads what these changes concern, and says what of it would make the kernel equal to the mirror; changes nothing.
    /// Where that does not tell, they are returned as they are.
    pub fn confirm(&mut self, changes: Transaction) -> Result<Transaction, KernelError> {
        let Some(mirror) = &self.mirror else { return Ok(changes) };
        let mut confirmed = Transaction::default();
        for (family, part) in mirror.concerned(&changes) {
            if !self.known.contains(&family) {
                continue;
            }
            let table = self.kernel.read_part(family, &part)?;
            match table.and_then(|table| mirror.repair_part(family, &part, table)) {
                Some(steps) => steps.transactions().into_iter().for_each(|part| confirmed.extend(part.clone())),
                None => confirmed.ops.extend(changes.ops.iter().filter(|(of, _)| *of == family).cloned()),
            }
        }
        Ok(confirmed)
    }

    /// What Services did not get in rebuilds and updates since the last time, by family.
    pub fn take_objections(&mut self) -> Vec<(Family, Vec<Objection>)> {
        std::mem::take(&mut self.objections)
    }

    /// When an endpoint that is gone is to be forgotten, by an update; `None` while there is none, or no update can be.
    pub fn forgets_at(&self) -> Option<Instant> {
        self.mirror().and_then(Mirror::forgets_at)
    }

    /// Whether nobody else can change the tables that are known.
    pub fn guards_all(&mut self) -> bool {
        self.known().all(|family| !self.serves(family) || self.kernel.guards(family))
    }

    fn serves(&self, family: Family) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.families().any(|served| served == family))
    }

    /// Notes whether the kernel's table is known: after an error it may differ from the mirror.
    fn note_result<T>(&mut self, family: Family, result: Result<T, Failure>) -> Result<T, Failure> {
        match &result {
            Ok(_) => drop(self.known.insert(family)),
            Err(_) => self.lose(family),
        }
        result
    }

    fn lose(&mut self, family: Family) {
        self.known.remove(&family);
        self.deletions.forget(family);
        if let Some(mirror) = &mut self.mirror {
            mirror.lose(family);
        }
    }

    /// Makes the kernel, which holds this table, equal to the mirror: in one transaction where the table is in force; as
    /// soon as it can be where it was in force until now.
    fn make_equal(
        &mut self,
        mirror: &mut Mirror,
        family: Family,
        table: Option<Table>,
        was_in_force: bool,
    ) -> Result<Sent, Failure> {
        let load = if was_in_force { Mirror::reload } else { Mirror::load };
        let sent = if let Some(load) = load(mirror, family, table.as_ref()) {
            drop(table);
            let mut sent = Sent { loaded: true, ..Sent::default() };
            sent.added = self.load(mirror, load)?;
            sent
        } else {
            let steps = mirror.rebase(family, table.as_ref());
            drop(table);
            self.commit(mirror, family, steps)?
        };
        if sent.loaded {
            // The chains that were to go went with their table.
            mirror.set_undeleted(family, &Transaction::default());
            self.deletions.forget(family);
        }
        self.forget_orphans_of(mirror, family)?;
        Ok(sent)
    }

    /// Sends the transactions that make the kernel equal to the mirror, in their order.
    fn commit(&mut self, mirror: &mut Mirror, family: Family, steps: Steps) -> Result<Sent, Failure> {
        let mut filled = 0;
        apply(&mut self.kernel, mirror, &steps.first)?;
        for load in mirror.fill(&steps) {
            filled += self.load(mirror, load)?;
        }
        apply(&mut self.kernel, mirror, &steps.main)?;
        apply(&mut self.kernel, mirror, &steps.replaced)?;
        let not_deleted = self.delete(mirror, family, &steps.after)?;
        let mut changes = steps.first;
        changes.extend(steps.main);
        let mut sent = Sent::new(changes);
        sent.added += filled;
        sent.not_deleted = not_deleted;
        Ok(sent)
    }

    /// Sends transactions one by one, each as large as the kernel takes it quickly; the number of their elements.
    fn load(&mut self, mirror: &Mirror, mut load: Load<'_>) -> Result<usize, Failure> {
        let mut loaded = 0;
        while let Some(part) = load.next(self.slices.size()) {
            loaded += send_slice(&mut self.kernel, mirror, &part, &mut self.slices)?;
        }
        Ok(loaded)
    }
}

/// Sends a transaction; where the kernel refuses an element, finds the Services it belongs to.
fn apply<K: Kernel>(kernel: &mut K, mirror: &Mirror, transaction: &Transaction) -> Result<(), Failure> {
    if transaction.is_empty() {
        return Ok(());
    }
    let result = kernel.apply(transaction);
    result.map_err(|cause| Failure { blamed: mirror.blamed(transaction, &cause), cause })
}

/// Sends a slice; in halves where it is too large for a message. The number of its elements.
fn send_slice<K: Kernel>(
    kernel: &mut K,
    mirror: &Mirror,
    part: &Transaction,
    slices: &mut Slices,
) -> Result<usize, Failure> {
    let (start, (added, _)) = (Instant::now(), part.element_counts());
    match apply(kernel, mirror, part) {
        Ok(()) => {
            slices.took(added, start.elapsed());
            Ok(added)
        }
        Err(failure) if failure.cause.is_too_big() => {
            let Some([first, second]) = halves(part) else { return Err(failure) };
            slices.too_large(added);
            debug!(elements = slices.size(), "slices were too large for a message");
            Ok(send_slice(kernel, mirror, &first, slices)? + send_slice(kernel, mirror, &second, slices)?)
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod faults_tests;
