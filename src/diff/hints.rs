//! What is free to choose, as a table read back from the kernel has it: a restart leaves it so.

use super::growth::SizeHints;
use super::numbers::NumberHints;
use super::slots::SlotHints;
use crate::ruleset::Table;

/// The choices of a table.
#[derive(Debug)]
pub struct Hints<'a> {
    pub(super) slots: SlotHints<'a>,
    pub(super) numbers: NumberHints,
    /// None where the table is going to be made anew.
    pub(super) sizes: Option<SizeHints>,
}

impl<'a> Hints<'a> {
    /// Collects the choices of a table.
    pub fn of(table: &'a Table) -> Self {
        let stays = table.is_in_force() && table.is_usable();
        let sizes = stays.then(|| SizeHints::of(table));
        Self { slots: SlotHints(table), numbers: NumberHints::of(table), sizes }
    }
}
