//! Desired against kernel.

use std::collections::HashSet;
use std::time::Duration;

use super::AdminError;
use crate::controller::Snapshots;
use crate::model::Family;
use crate::netlink::NftKernel;
use crate::render;
use crate::ruleset::{Kernel, Transaction};

/// How long the sync loop may keep us waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The nft commands that would make the kernel equal to what is desired; empty when it is.
///
/// The sync loop goes on meanwhile, so what is read and what is desired may be of different moments. That makes differences
/// that are none, but not the same ones twice: only what two looks have found counts.
pub(super) fn differences(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Vec<String>, AdminError> {
    let first = look(kernel, snapshots)?;
    if first.is_empty() {
        return Ok(first);
    }
    let second: HashSet<String> = look(kernel, snapshots)?.into_iter().collect();
    Ok(first.into_iter().filter(|command| second.contains(command)).collect())
}

fn look(kernel: &mut NftKernel, snapshots: &Snapshots) -> Result<Vec<String>, AdminError> {
    let tables = Family::ALL.map(|family| kernel.read(family).map(|table| (family, table)));
    let mirror = snapshots.take(PATIENCE)?.mirror.ok_or(AdminError::NotSynced)?;
    let mut all = Transaction::default();
    for table in tables {
        let (family, table) = table?;
        let steps = mirror.rebase(family, table.as_ref());
        steps.transactions().into_iter().for_each(|part| all.extend(part.clone()));
    }
    Ok(render::commands(&all))
}
