//! What is free to choose, as a table read back from the kernel has it: a restart leaves it so.

use super::numbers::NumberHints;
use super::slots::SlotHints;
use crate::ruleset::Table;

/// The choices of a table.
#[derive(Debug, Default)]
pub struct Hints {
    pub(super) slots: SlotHints,
    pub(super) numbers: NumberHints,
}

impl Hints {
    /// Collects the choices of a table.
    pub fn of(table: &Table) -> Self {
        Self { slots: SlotHints::of(table), numbers: NumberHints::of(table) }
    }
}
