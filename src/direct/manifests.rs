//! The table for a folder of manifests, without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::slots::all_wanted;
use super::table::{Network, table};
use crate::diff::Mirror;
use crate::host::links::Way;
use crate::model::Model;
use crate::ruleset::DirectTable;

/// The table `netdev portway` of a node on which all these interfaces are up, and all InternalIPs of Nodes are on the layer-2
/// network of the first; and what it does not hold although it should: a sentence each.
pub fn of_manifests(model: &Model, mirror: &Mirror, devices: &[Arc<str>]) -> (DirectTable, Vec<String>) {
    let wanted = all_wanted(model, mirror);
    let addresses: BTreeSet<IpAddr> = wanted.nodes.values().flatten().copied().collect();
    let way = Way { device: 1, gateway: None };
    let network = Network {
        devices: (1..).zip(devices.iter().cloned()).collect(),
        strict: BTreeSet::new(),
        ways: addresses.into_iter().map(|address| (address, Some(way))).collect::<BTreeMap<_, _>>(),
    };
    let (table, troubles) = table(&wanted, &network, devices);
    (if table.is_empty() { DirectTable::default() } else { table }, troubles)
}
