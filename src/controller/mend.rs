//! Putting right what others touched, and nothing else.

use std::collections::BTreeMap;

use crate::diff::{Mirror, Steps};
use crate::model::Family;
use crate::ruleset::{Kernel, KernelError, Part, Transaction};

/// Reads these parts of the tables and makes them equal to the mirror; what was changed. `None` when that takes a comparison
/// of everything. After an error, too, nothing is known.
pub(super) fn mend<K: Kernel>(
    kernel: &mut K,
    mirror: &Mirror,
    parts: &BTreeMap<Family, Part>,
) -> Result<Option<Transaction>, KernelError> {
    let mut all = Steps::default();
    for (family, part) in parts {
        let table = kernel.read_part(*family, part)?;
        let Some(steps) = table.and_then(|table| mirror.mend(*family, part, table)) else { return Ok(None) };
        all.extend(steps);
    }
    for transaction in all.transactions() {
        if !transaction.is_empty() {
            kernel.apply(transaction)?;
        }
    }
    all.main.extend(all.after);
    Ok(Some(all.main))
}
