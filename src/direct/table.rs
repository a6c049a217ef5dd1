//! From slots and the ways to nodes to the table. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::slots::Wanted;
use crate::host::links::Way;
use crate::model::Family;
use crate::ruleset::{DirectFrontend, DirectTable, Hop};

/// Nodes named in one sentence at most.
const NAMED: usize = 5;

/// What this host knows of its network.
#[derive(Debug, Clone, Default)]
pub(super) struct Network {
    /// The interfaces of direct return that are there and up.
    pub(super) devices: BTreeMap<u32, Arc<str>>,
    /// Those of them with a strict `rp_filter`.
    pub(super) strict: BTreeSet<u32>,
    /// The ways to addresses of nodes.
    pub(super) ways: BTreeMap<IpAddr, Option<Way>>,
}

/// What the table is to hold, and what must go the ordinary way because of the network: a sentence each.
pub(super) fn table(wanted: &Wanted, network: &Network, configured: &[Arc<str>]) -> (DirectTable, Vec<String>) {
    let mut hops: BTreeMap<(Family, &str), Result<Hop, String>> = BTreeMap::new();
    let (devices, strict) = (network.devices.clone(), network.strict.clone());
    let mut table = DirectTable { devices, strict, ..DirectTable::default() };
    for ((family, key), frontend) in &wanted.frontends {
        let mut hop_of = |node: &Option<Arc<str>>| {
            let (name, addresses) = wanted.nodes.get_key_value(node.as_ref()?)?;
            let hop = hops.entry((*family, name)).or_insert_with(|| hop(network, *family, addresses));
            hop.as_ref().ok().copied()
        };
        let slots: Arc<[Option<Hop>]> = frontend.slots.iter().map(&mut hop_of).collect();
        if slots.iter().any(Option::is_some) {
            let (hash, label) = (frontend.hash, frontend.label.clone());
            table.frontends.insert((*family, *key), DirectFrontend { hash, label, slots });
        }
    }
    let there: BTreeSet<&Arc<str>> = network.devices.values().collect();
    let missing = configured.iter().filter(|name| !there.contains(name));
    let mut troubles: Vec<String> = missing.map(|name| format!("the interface {name} is not there, or down")).collect();
    let mut causes: BTreeMap<(Family, &str), Vec<&str>> = BTreeMap::new();
    for ((family, node), hop) in &hops {
        if let Err(cause) = hop {
            causes.entry((*family, cause.as_str())).or_default().push(node);
        }
    }
    troubles.extend(causes.into_iter().map(|((family, cause), nodes)| {
        let more = if nodes.len() > NAMED { format!(" and {} more", nodes.len() - NAMED) } else { String::new() };
        let names = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        format!("{family} connections to endpoints on {names}{more} take the ordinary path: {cause}")
    }));
    (table, troubles)
}

/// The first address of a node that is on the layer-2 network of one of the interfaces; else why there is none.
fn hop(network: &Network, family: Family, addresses: &[IpAddr]) -> Result<Hop, String> {
    let mut cause = "the Node is not known, or has no InternalIP of this family".to_owned();
    for address in addresses.iter().copied().filter(|ip| Family::of(*ip) == family) {
        cause = match network.ways.get(&address).copied().flatten() {
            None => "there is no route to the node's InternalIP".to_owned(),
            Some(Way { gateway: Some(_), .. }) => {
                "the route to the node's InternalIP has a gateway, so it is on another layer-2 network".to_owned()
            }
            Some(Way { device, gateway: None }) if network.devices.contains_key(&device) => {
                return Ok(Hop { device, address });
            }
            Some(_) => "the route to the node's InternalIP leaves by an interface without direct return".to_owned(),
        };
    }
    Err(cause)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
