//! What to clean, and the decision about an entry. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{DumpFilter, FlowEntry};
use crate::model::{Family, Protocol};
use crate::plan::{FrontendKey, Target};

/// With more ports than this, one walk over all entries of the protocol is cheaper than a filtered walk for each.
const FILTERS_MAX: usize = 4;

/// The frontends and endpoints to clean in one family. What is not mentioned is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FamilySweep {
    /// Frontends with the endpoints their flows may go to, sorted; none means that all their flows go.
    addresses: HashMap<Target, Arc<[Target]>>,
    node_ports: HashMap<u16, Arc<[Target]>>,
    /// The addresses NodePorts answer on, or did until a moment ago.
    node_addresses: BTreeSet<IpAddr>,
    /// TCP endpoints, and whether they are (again) in a slice: flows to the others go.
    endpoints: HashMap<Target, bool>,
}

impl FamilySweep {
    /// Asks for a frontend to be cleaned. `valid` is sorted. Frontends of other protocols than UDP are ignored.
    pub fn ask(&mut self, frontend: FrontendKey, valid: Arc<[Target]>) {
        match frontend {
            FrontendKey::Address { ip, protocol: Protocol::Udp, port } => {
                self.addresses.insert(Target { ip, port }, valid);
            }
            FrontendKey::NodePort { protocol: Protocol::Udp, port } => {
                self.node_ports.insert(port, valid);
            }
            _ => {}
        }
    }

    /// Asks for the TCP flows to an endpoint to be deleted, or takes that back because it is there.
    pub fn ask_endpoint(&mut self, endpoint: Target, is_there: bool) {
        self.endpoints.insert(endpoint, is_there);
    }

    /// Adds addresses of this node: only there are flows to a NodePort's number its flows.
    pub fn add_node_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.node_addresses.extend(addresses);
    }

    /// The NodePorts asked for.
    pub(super) fn node_ports(&self) -> impl Iterator<Item = u16> {
        self.node_ports.keys().copied()
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.node_ports.is_empty() && self.endpoints.is_empty()
    }

    /// Number of frontends and endpoints asked for.
    pub fn len(&self) -> usize {
        self.addresses.len() + self.node_ports.len() + self.endpoints.len()
    }

    /// Whether an entry has to go. Of UDP only entries of frontends that were asked for ever do; then those whose answers
    /// would come from elsewhere than a valid endpoint, which includes those that were never translated. Of TCP only those
    /// that were translated to an endpoint that has gone.
    pub fn is_stale(&self, entry: &FlowEntry) -> bool {
        self.allows(entry) == Some(false)
    }

    /// Whether an entry may stay; `None` when it is none of our business.
    pub(super) fn allows(&self, entry: &FlowEntry) -> Option<bool> {
        let destination = entry.destination;
        if entry.protocol == Protocol::Tcp.number() {
            let is_translated = entry.answers_from != destination;
            return self.endpoints.get(&entry.answers_from).copied().filter(|_| is_translated);
        }
        if entry.protocol != Protocol::Udp.number() {
            return None;
        }
        // A frontend with an address of its own is looked up before NodePorts, as in the packet path.
        let valid = self.addresses.get(&destination).or_else(|| {
            let node_port = self.node_ports.get(&destination.port)?;
            self.node_addresses.contains(&destination.ip).then_some(node_port)
        })?;
        Some(valid.binary_search(&entry.answers_from).is_ok())
    }

    /// Takes over an earlier sweep: where both speak of a frontend, this one is right.
    pub(super) fn merge_earlier(&mut self, mut earlier: FamilySweep) {
        earlier.merge(std::mem::take(self));
        *self = earlier;
    }

    /// Takes over a later sweep: where both speak of a frontend, the later one is right.
    pub fn merge(&mut self, later: FamilySweep) {
        self.addresses.extend(later.addresses);
        self.node_ports.extend(later.node_ports);
        self.node_addresses.extend(later.node_addresses);
        self.endpoints.extend(later.endpoints);
    }

    /// What to ask the kernel for, so that it tells of few entries besides those in question. No entry comes twice.
    pub fn filters(&self, family: Family) -> Vec<DumpFilter> {
        let mut filters = self.udp_filters(family);
        filters.extend(self.tcp_filters(family));
        filters
    }

    fn udp_filters(&self, family: Family) -> Vec<DumpFilter> {
        let mut by_port: HashMap<u16, BTreeSet<IpAddr>> = HashMap::new();
        for target in self.addresses.keys() {
            by_port.entry(target.port).or_default().insert(target.ip);
        }
        for port in self.node_ports.keys() {
            by_port.entry(*port).or_default().extend(&self.node_addresses);
        }
        if by_port.len() > FILTERS_MAX {
            return vec![DumpFilter::all(family, Protocol::Udp)];
        }
        let mut filters: Vec<DumpFilter> = by_port
            .into_iter()
            .filter(|(_, ips)| !ips.is_empty())
            .map(|(port, ips)| DumpFilter::to_any(family, Protocol::Udp, port, ips.iter()))
            .collect();
        filters.sort_unstable_by_key(|filter| filter.port);
        filters
    }

    fn tcp_filters(&self, family: Family) -> Vec<DumpFilter> {
        let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
        for (endpoint, _) in self.endpoints.iter().filter(|(_, is_there)| !**is_there) {
            by_port.entry(endpoint.port).or_default().insert(endpoint.ip);
        }
        if by_port.len() > FILTERS_MAX {
            return vec![DumpFilter::all(family, Protocol::Tcp)];
        }
        let from = |(port, ips): (u16, BTreeSet<IpAddr>)| DumpFilter {
            answers: true,
            ..DumpFilter::to_any(family, Protocol::Tcp, port, ips.iter())
        };
        by_port.into_iter().map(from).collect()
    }
}

/// The frontends to clean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    families: [FamilySweep; 2],
}

impl Sweep {
    /// The part of a family.
    pub fn family(&self, family: Family) -> &FamilySweep {
        &self.families[index(family)]
    }

    /// The part of a family.
    pub fn family_mut(&mut self, family: Family) -> &mut FamilySweep {
        &mut self.families[index(family)]
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(FamilySweep::is_empty)
    }

    /// Takes over a later sweep.
    pub fn merge(&mut self, later: Sweep) {
        for (mine, theirs) in self.families.iter_mut().zip(later.families) {
            mine.merge(theirs);
        }
    }
}

fn index(family: Family) -> usize {
    usize::from(family == Family::Ipv6)
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
