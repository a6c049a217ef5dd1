//! Desired against kernel.

use std::sync::Arc;
use std::time::Duration;

use super::AdminError;
use crate::controller::Snapshots;
use crate::diff::{DIRECT_SLICE, direct_growth, direct_shrinkage, direct_slices};
use crate::direct::DirectStatusHandle;
use crate::fast::FastStatusHandle;
use crate::model::Family;
use crate::nftables::{DirectKernel, FastKernel, KernelOptions, NftKernel};
use crate::render;
use crate::ruleset::{
    DIRECT_FAMILY, DirectElement, DirectFound, DirectMap, DirectTable, FAST_FAMILY, Kernel, TABLE_NAME, Transaction,
};

/// How long the sync loop may keep us waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// What seems to differ of direct return, or of the fast path, is looked at again so often.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

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

/// The same for the table of direct return; without a status there should be none.
pub(super) fn direct_differences(direct: Option<&DirectStatusHandle>) -> Result<Vec<String>, AdminError> {
    let mut kernel = DirectKernel::open(KernelOptions::new(false))?;
    until_equal(|| {
        let wanted = match direct.map(DirectStatusHandle::get) {
            Some(None) => return Ok(Vec::new()),
            Some(Some(status)) => status.table,
            None => Arc::default(),
        };
        Ok(direct_commands(&kernel.read()?, &wanted))
    })
}

/// The same for the table of the fast path.
pub(super) fn fast_differences(fast: Option<&FastStatusHandle>) -> Result<Vec<String>, AdminError> {
    let mut kernel = FastKernel::open(KernelOptions::new(false))?;
    until_equal(|| {
        let wanted = match fast.map(FastStatusHandle::get) {
            Some(None) => return Ok(Vec::new()),
            Some(Some(status)) => status.devices,
            None => None,
        };
        let found = kernel.read()?;
        Ok(match wanted {
            Some(devices) => render::fast_commands(found.is_there, &found.change_to(&devices)),
            None => found.is_there.then(|| format!("delete table {FAST_FAMILY} {TABLE_NAME}")).into_iter().collect(),
        })
    })
}

/// Its thread may be about to change a table: what differs is looked at again.
fn until_equal(mut differences: impl FnMut() -> Result<Vec<String>, AdminError>) -> Result<Vec<String>, AdminError> {
    for _ in 1..TRIES {
        if differences()?.is_empty() {
            return Ok(Vec::new());
        }
        std::thread::sleep(PAUSE);
    }
    differences()
}

/// What makes a table the one that is wanted, as commands of nft, one element each.
fn direct_commands(found: &DirectFound, wanted: &DirectTable) -> Vec<String> {
    let table = format!("{DIRECT_FAMILY} {TABLE_NAME}");
    let mut out = Vec::new();
    if found.is_there && (wanted.is_empty() || found.broken.is_some()) {
        out.push(format!("delete table {table}"));
        out.extend(direct_commands(&DirectFound::default(), wanted));
        return out;
    }
    if wanted.is_empty() {
        return out;
    }
    let growth = direct_growth(found, wanted);
    out.extend(growth.is_new.then(|| format!("add table {table}")));
    out.extend(growth.maps.iter().map(|map| render::make_direct_map(wanted, *map)));
    out.extend(growth.chains.iter().map(|chain| render::make_direct_chain(wanted, *chain)));
    out.extend(growth.rewritten.iter().map(|chain| format!("flush chain {table} {}", wanted.chain_name(*chain))));
    for chain in growth.chains.iter().chain(&growth.rewritten) {
        let rules = wanted.rules(*chain).into_iter().map(|rule| render::direct_rule_text(wanted, rule));
        out.extend(rules.map(|rule| format!("add rule {table} {} {rule}", wanted.chain_name(*chain))));
    }
    for slice in direct_slices(found, wanted, DIRECT_SLICE) {
        let element = |verb: &str, of: &DirectTable, (map, element): (DirectMap, &DirectElement)| {
            let text = render::direct_element_text(map, element);
            format!("{verb} element {table} {} {{ {text} }}", of.name(map))
        };
        out.extend(slice.gone().into_iter().map(|one| element("delete", &found.table, one)));
        out.extend(slice.added().into_iter().map(|one| element("add", wanted, one)));
    }
    let shrinkage = direct_shrinkage(found, wanted);
    out.extend(shrinkage.chains.iter().map(|chain| format!("flush chain {table} {chain}")));
    out.extend(shrinkage.maps.iter().map(|map| format!("delete map {table} {map}")));
    out.extend(shrinkage.chains.iter().map(|chain| format!("delete chain {table} {chain}")));
    out
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
