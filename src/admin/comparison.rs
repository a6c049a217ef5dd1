//! Desired against kernel.

use std::time::Duration;

use super::AdminError;
use crate::controller::Snapshots;
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::render;
use crate::ruleset::{Kernel, Transaction};

/// How long the sync loop may keep us waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The nft commands that would make the kernel equal to what is desired; empty when it is.
///
/// The sync loop goes on while the tables are read, so what is read and what is desired may be of different moments. What
/// seems to differ, which is little, is therefore looked at again by the loop itself, between two syncs.
pub(super) fn differences(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Vec<String>, AdminError> {
    let suspected = suspected(kernel, snapshots)?;
    if suspected.is_empty() {
        return Ok(Vec::new());
    }
    Ok(render::commands(&snapshots.confirm(suspected, PATIENCE)??))
}

fn suspected(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Transaction, AdminError> {
    let tables = Family::ALL.map(|family| kernel.read(family).map(|table| (family, table)));
    let mirror = snapshots.take(PATIENCE)?.mirror.ok_or(AdminError::NotSynced)?;
    let mut all = Transaction::default();
    for table in tables {
        let (family, table) = table?;
        if mirror.settings().family(family).is_some() && !mirror.families().any(|known| known == family) {
            return Err(AdminError::FamilyNotSynced(family));
        }
        let steps = mirror.rebase(family, table.as_ref());
        steps.transactions().into_iter().for_each(|part| all.extend(part.clone()));
    }
    Ok(all)
}
