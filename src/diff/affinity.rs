//! Affinity records that must not be used any more.
//!
//! The packet path writes them, so the mirror does not know them; after a commit they are read and the stale ones deleted.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::slots;
use crate::plan::{Frontend, Target};
use crate::ruleset::{Element, Elements, Value};

/// A Service port and endpoint set some of whose records became invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleAffinity {
    /// The ID of the records.
    pub id: u32,
    /// Records to these stay valid; all others go.
    pub keep: HashSet<Target>,
}

/// What a change of a Service makes stale.
pub(super) fn stale(old: &[Frontend], new: &[Frontend]) -> Vec<StaleAffinity> {
    let mut kept = valid(new);
    let judge = |(id, targets): (u32, HashSet<Target>)| {
        let keep = kept.remove(&id).unwrap_or_default();
        (!targets.is_subset(&keep)).then_some(StaleAffinity { id, keep })
    };
    valid(old).into_iter().filter_map(judge).collect()
}

/// Where records may point to, by their ID. Frontends with the same ID have the same endpoints, so any of them will do.
fn valid<'a>(frontends: impl IntoIterator<Item = &'a Frontend>) -> BTreeMap<u32, HashSet<Target>> {
    let mut valid = BTreeMap::new();
    for frontend in frontends {
        let Some(affinity) = frontend.affinity else { continue };
        for (_, set, targets) in frontend.endpoint_lists() {
            valid.entry(affinity.id(set)).or_insert_with(|| targets.iter().copied().collect());
        }
    }
    valid
}

/// Picks the stale ones out of all records of a family.
pub fn stale_records(records: &Elements, stale: &[StaleAffinity]) -> Vec<Element> {
    let by_id: HashMap<u32, &StaleAffinity> = stale.iter().map(|stale| (stale.id, stale)).collect();
    let is_stale = |element: &Element| {
        let Some((id, target)) = parse(element) else { return false };
        by_id.get(&id).is_some_and(|stale| !stale.keep.contains(&target))
    };
    records.values().filter(is_stale).collect()
}

/// The records of a family that belong to none of these frontends, or whose endpoint their frontend does not have.
pub(super) fn orphans<'a>(frontends: impl Iterator<Item = &'a Frontend>, records: &Elements) -> Vec<Element> {
    if records.is_empty() {
        return Vec::new();
    }
    let valid = valid(frontends);
    let is_valid = |element: &Element| {
        let record = parse(element);
        record.is_some_and(|(id, target)| valid.get(&id).is_some_and(|targets| targets.contains(&target)))
    };
    records.values().filter(|element| !is_valid(element)).collect()
}

/// A record's ID and its endpoint.
pub(super) fn parse(record: &Element) -> Option<(u32, Target)> {
    let Value::Data(data) = &record.value else { return None };
    let at = record.key.as_slice().len().checked_sub(4)?;
    Some((record.key.u32_host_at(at)?, slots::target(data)?))
}

/// The ID in an element of a map of IDs.
pub(super) fn id_of(element: &Element) -> Option<u32> {
    let Value::Data(data) = &element.value else { return None };
    data.u32_host_at(0)
}
