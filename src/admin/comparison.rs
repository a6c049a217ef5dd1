//! Desired against kernel.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::AdminError;
use crate::controller::Snapshots;
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::render;
use crate::ruleset::{Kernel, Keys, Op, Touched, Transaction};

/// How long the sync loop may keep us waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often what differs is looked at again.
const LOOKS: usize = 20;

/// The nft commands that would make the kernel equal to what is desired; empty when it is.
///
/// The sync loop goes on meanwhile, so what is read and what is desired may be of different moments. So what seems to differ
/// is looked at again, and that alone. It does differ when no sync came between reading it and knowing what is desired, or
/// when every look has found the same.
pub(super) fn differences(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Vec<String>, AdminError> {
    let mut found = look(kernel, snapshots)?;
    for _ in 0..LOOKS {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let seen: HashSet<String> = render::commands(&found).into_iter().collect();
        let Some((again, certain)) = look_again(kernel, snapshots, &touched(&found))? else {
            // It takes more than elements and chains: of everything, what two looks have found counts.
            let second = render::commands(&look(kernel, snapshots)?);
            return Ok(second.into_iter().filter(|command| seen.contains(command)).collect());
        };
        if certain {
            return Ok(render::commands(&again));
        }
        found = again;
    }
    Ok(render::commands(&found))
}

/// Everything, which takes so long that syncs may come meanwhile.
fn look(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Transaction, AdminError> {
    let tables = Family::ALL.map(|family| kernel.read(family).map(|table| (family, table)));
    let mirror = snapshots.take(PATIENCE)?.mirror.ok_or(AdminError::NotSynced)?;
    let mut all = Transaction::default();
    for table in tables {
        let (family, table) = table?;
        let steps = mirror.rebase(family, table.as_ref());
        steps.transactions().into_iter().for_each(|part| all.extend(part.clone()));
    }
    Ok(all)
}

/// These parts only, and whether no sync came meanwhile. `None` when looking at parts is not enough.
fn look_again(
    kernel: &mut NftKernel,
    snapshots: &Snapshots,
    touched: &Touched,
) -> Result<Option<(Transaction, bool)>, AdminError> {
    let Touched::Parts(parts) = touched else { return Ok(None) };
    let before = snapshots.take(PATIENCE)?;
    let tables: Result<Vec<_>, _> = parts.iter().map(|(family, part)| kernel.read_part(*family, part)).collect();
    let tables = tables?;
    let after = snapshots.take(PATIENCE)?;
    let mirror = after.mirror.ok_or(AdminError::NotSynced)?;
    let mut all = Transaction::default();
    for ((family, part), table) in parts.iter().zip(tables) {
        let Some(steps) = table.and_then(|table| mirror.mend(*family, part, table)) else { return Ok(None) };
        steps.transactions().into_iter().for_each(|part| all.extend(part.clone()));
    }
    Ok(Some((all, before.report.syncs == after.report.syncs)))
}

/// What a transaction is about.
fn touched(transaction: &Transaction) -> Touched {
    let mut touched = Touched::default();
    for (family, op) in &transaction.ops {
        match op {
            Op::AddTable | Op::DeleteTable | Op::AddSet(..) | Op::DeleteSet(_) => return Touched::Everything,
            // Ranges cannot be asked for by key.
            Op::AddElements(set, _) | Op::DeleteElements(set, _) if set.set.spec().interval => {
                touched.elements(*family, *set, Keys::All);
            }
            Op::AddElements(set, list) | Op::DeleteElements(set, list) => {
                let keys: BTreeSet<_> = list.iter().map(|element| element.key).collect();
                touched.elements(*family, *set, Keys::These(keys));
            }
            Op::AddChain(_)
            | Op::DeleteChain(_)
            | Op::AddRule(..)
            | Op::FlushChain(_)
            | Op::FlushForeign(_)
            | Op::DeleteForeign(..) => touched.structure(*family),
        }
    }
    touched
}
