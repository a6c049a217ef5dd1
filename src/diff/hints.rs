//! What is free to choose, as a table read back from the kernel has it: a restart leaves it so.

use std::collections::BTreeMap;

use super::numbers::NumberHints;
use super::slots::SlotHints;
use crate::ruleset::{SetId, Table};

/// The choices of a table.
#[derive(Debug)]
pub struct Hints<'a> {
    pub(super) slots: SlotHints<'a>,
    pub(super) numbers: NumberHints,
    pub(super) sizes: BTreeMap<SetId, u32>,
}

impl<'a> Hints<'a> {
    /// Collects the choices of a table.
    pub fn of(table: &'a Table) -> Self {
        Self { slots: SlotHints(table), numbers: NumberHints::of(table), sizes: table.sizes.clone() }
    }
}
