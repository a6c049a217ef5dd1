//! Affinity records that must not be used any more.
//!
//! The packet path writes them, so the mirror does not know them; after a commit they are read and the stale ones deleted.

use std::collections::HashMap;

use super::{Mirror, slots};
use crate::model::{Family, Protocol};
use crate::plan::{Frontend, FrontendKey, Target};
use crate::ruleset::{Bytes, Element, Value};

/// A sticky frontend some of whose records became invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleAffinity {
    /// The frontend.
    pub frontend: FrontendKey,
    /// Records to these stay valid; all others go.
    pub keep: Vec<Target>,
}

/// What a change of a frontend makes stale.
pub(super) fn stale(old: &Frontend, new: Option<&Frontend>) -> Option<StaleAffinity> {
    old.affinity_seconds?;
    let same_kind = |new: &&Frontend| {
        new.affinity_seconds.is_some() && std::mem::discriminant(&new.action) == std::mem::discriminant(&old.action)
    };
    let keep: Vec<Target> = new.filter(same_kind).map(|new| new.targets().copied().collect()).unwrap_or_default();
    old.targets().any(|target| !keep.contains(target)).then_some(StaleAffinity { frontend: old.key, keep })
}

/// Picks the stale ones out of all records of a family.
pub fn stale_records(records: &HashMap<Bytes, Element>, stale: &[StaleAffinity]) -> Vec<Element> {
    let by_frontend: HashMap<FrontendKey, &StaleAffinity> = stale.iter().map(|s| (s.frontend, s)).collect();
    let is_stale = |element: &Element| {
        let Some((by_address, by_port, target)) = parse(element) else {
            return false;
        };
        let scope = by_frontend.get(&by_address).or_else(|| by_frontend.get(&by_port));
        scope.is_some_and(|scope| !scope.keep.contains(&target))
    };
    records.values().filter(|element| is_stale(element)).cloned().collect()
}

impl Mirror {
    /// Records without a sticky frontend in force that offers their endpoint.
    pub fn orphans(&self, family: Family, records: &HashMap<Bytes, Element>) -> Vec<Element> {
        if records.is_empty() {
            return Vec::new();
        }
        let sticky = self.frontends().filter(|(f, _, frontend)| *f == family && frontend.affinity_seconds.is_some());
        let by_key: HashMap<FrontendKey, &Frontend> = sticky.map(|(_, _, frontend)| (frontend.key, frontend)).collect();
        let is_orphan = |element: &Element| {
            let Some((by_address, by_port, target)) = parse(element) else {
                return true;
            };
            let frontend = by_key.get(&by_address).or_else(|| by_key.get(&by_port));
            !frontend.is_some_and(|frontend| frontend.targets().any(|t| *t == target))
        };
        records.values().filter(|element| is_orphan(element)).cloned().collect()
    }
}

/// A record's frontend, read as address and as NodePort, and its endpoint.
fn parse(element: &Element) -> Option<(FrontendKey, FrontendKey, Target)> {
    let key = &element.key;
    let (ip, at) = match key.as_slice().len() {
        16 => (key.ipv4_at(4)?, 8),
        40 => (key.ipv6_at(16)?, 32),
        _ => return None,
    };
    let protocol = Protocol::from_number(key.u8_at(at)?)?;
    let port = key.u16_at(at + 4)?;
    let Value::Data(data) = &element.value else {
        return None;
    };
    let target = slots::target(data)?;
    Some((FrontendKey::Address { ip, protocol, port }, FrontendKey::NodePort { protocol, port }, target))
}
