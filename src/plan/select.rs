//! Which endpoints a Service port uses (specification 4).

use std::collections::HashMap;
use std::sync::Arc;

use super::Target;
use crate::model::{EndpointSlice, Family, ServicePort};

/// An endpoint of one Service port, after duplicates were resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Address and port.
    pub target: Target,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// Zone hints.
    pub zone_hints: Arc<[Arc<str>]>,
    /// Node hints.
    pub node_hints: Arc<[Arc<str>]>,
}

impl Candidate {
    /// Not ready any more, but still answering while it shuts down: the second choice.
    pub fn is_draining(&self) -> bool {
        !self.ready && self.serving && self.terminating
    }
}

/// How hints narrow the cluster set (specification 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Hints are not used.
    None,
    /// Only endpoints hinted for this zone.
    SameZone,
    /// Only endpoints hinted for this node.
    SameNode,
}

/// The endpoints of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The cluster set, sorted; empty also when it is not needed.
    pub cluster: Vec<Target>,
    /// The local set, sorted; empty also when it is not needed.
    pub local: Vec<Target>,
    /// Any usable endpoint exists anywhere.
    pub has_endpoints: bool,
    /// How the cluster set was narrowed.
    pub topology: Topology,
}

/// All endpoints of a Service port in one family (specification 3.4): unique by address and port. A later duplicate
/// replaces an earlier one unless it is terminating, so a running pod wins over a terminating one.
pub fn candidates<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    family: Family,
    port: &ServicePort,
    node_name: &str,
) -> Vec<Candidate> {
    let mut found: HashMap<Target, Candidate> = HashMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        for slice_port in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                let target = Target { ip: endpoint.address, port: slice_port.port };
                if endpoint.terminating && found.contains_key(&target) {
                    continue;
                }
                let candidate = Candidate {
                    target,
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                    local: endpoint.node.as_deref() == Some(node_name),
                    zone_hints: endpoint.zone_hints.clone(),
                    node_hints: endpoint.node_hints.clone(),
                };
                found.insert(target, candidate);
            }
        }
    }
    let mut all: Vec<Candidate> = found.into_values().collect();
    all.sort_unstable_by_key(|candidate| candidate.target);
    all
}

/// Narrows candidates to the sets a Service port needs. `candidates` are sorted, so the sets are too.
pub fn select(candidates: &[Candidate], node: &str, zone: &str, need_cluster: bool, need_local: bool) -> Selection {
    let ready = || candidates.iter().filter(|c| c.ready);
    let draining = || candidates.iter().filter(|c| c.is_draining());
    let topology = topology(ready, node, zone);
    let mut selection = Selection {
        cluster: Vec::new(),
        local: Vec::new(),
        has_endpoints: candidates.iter().any(|c| c.ready || c.is_draining()),
        topology,
    };
    if need_cluster {
        selection.cluster = targets(ready().filter(|c| match topology {
            Topology::None => true,
            Topology::SameZone => hinted(&c.zone_hints, zone),
            Topology::SameNode => hinted(&c.node_hints, node),
        }));
        if selection.cluster.is_empty() {
            selection.cluster = targets(draining());
        }
    }
    if need_local {
        selection.local = targets(ready().filter(|c| c.local));
        if selection.local.is_empty() {
            selection.local = targets(draining().filter(|c| c.local));
        }
    }
    selection
}

fn topology<'a, I: Iterator<Item = &'a Candidate>>(ready: impl Fn() -> I, node: &str, zone: &str) -> Topology {
    let complete = |hints: fn(&Candidate) -> &[Arc<str>], wanted: &str| {
        ready().all(|c| !hints(c).is_empty()) && ready().any(|c| hinted(hints(c), wanted))
    };
    if complete(|c| &c.node_hints, node) {
        Topology::SameNode
    } else if complete(|c| &c.zone_hints, zone) {
        Topology::SameZone
    } else {
        Topology::None
    }
}

fn hinted(hints: &[Arc<str>], wanted: &str) -> bool {
    hints.iter().any(|hint| &**hint == wanted)
}

fn targets<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Vec<Target> {
    candidates.map(|c| c.target).collect()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
