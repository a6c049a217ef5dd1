//! The layout of a table that was read back from the kernel: which slots endpoints have, the numbers of affinity IDs, and
//! the sizes of maps. All of it is free to choose, so a restart keeps it.

use std::collections::BTreeSet;

use super::gone;
use super::growth::ExistingSizes;
use super::numbers::ExistingNumbers;
use super::slots::ExistingSlots;
use crate::plan::Target;
use crate::ruleset::Table;

/// The layout of a table.
#[derive(Debug)]
pub struct ExistingLayout<'a> {
    pub(super) slots: ExistingSlots<'a>,
    pub(super) numbers: ExistingNumbers,
    pub(super) gone: BTreeSet<Target>,
    /// None where the table is going to be replaced.
    pub(super) sizes: Option<ExistingSizes>,
}

impl<'a> ExistingLayout<'a> {
    /// Collects the layout of a table.
    pub fn of(table: &'a Table) -> Self {
        let stays = table.is_in_force() && table.is_usable();
        let sizes = stays.then(|| ExistingSizes::of(table));
        let gone = gone::in_table(table);
        Self { slots: ExistingSlots(table), numbers: ExistingNumbers::of(table), gone, sizes }
    }
}
