//! Repairs the part of a table that others touched, and nothing else.

use crate::diff::Mirror;
use crate::model::Family;
use crate::ruleset::{Kernel, KernelError, Part, Transaction};

/// Reads this part of a table, makes it equal to the mirror, and returns what was changed. `None` when that takes a
/// comparison of the whole table, which is also to follow an error.
pub(super) fn repair_part<K: Kernel>(
    kernel: &mut K,
    mirror: &Mirror,
    family: Family,
    part: &Part,
) -> Result<Option<Transaction>, KernelError> {
    let table = kernel.read_part(family, part)?;
    let Some(steps) = table.and_then(|table| mirror.repair_part(family, part, table)) else { return Ok(None) };
    for transaction in steps.transactions() {
        if !transaction.is_empty() {
            kernel.apply(transaction)?;
        }
    }
    let mut changes = steps.first;
    changes.extend(steps.main);
    changes.extend(steps.after);
    Ok(Some(changes))
}
