//! Which endpoints a Service port uses (specification 4).

use std::fmt;
use std::sync::Arc;

use super::{EndpointSet, Target};
use crate::model::{EndpointSlice, Family, Placement, ServicePort};

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
    /// Its hints.
    pub placement: Arc<Placement>,
    /// How many slots it gets, compared with others.
    pub weight: u8,
}

impl Candidate {
    /// Not ready any more, but still answering while it shuts down: the second choice.
    pub fn is_draining(&self) -> bool {
        !self.ready && self.serving && self.terminating
    }

    /// What decides between duplicates; the largest counts. Ties go to the endpoint on this node, and then to whatever makes
    /// the order in which slices come irrelevant.
    fn usability(&self) -> (impl Ord + '_, bool, &Placement, u8) {
        let conditions = (self.ready, self.is_draining(), self.serving, !self.terminating);
        (conditions, self.local, &self.placement, self.weight)
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
    /// Ready endpoints on this node, sorted, whatever hints say; empty unless [`Selection::find_ready_here`] was asked.
    pub ready_here: Vec<Target>,
    /// Any usable endpoint exists anywhere.
    pub has_endpoints: bool,
    /// How the cluster set was narrowed.
    pub topology: Topology,
}

impl Selection {
    /// Finds the ready endpoints on this node among the candidates it was made of.
    pub(super) fn find_ready_here(&mut self, candidates: &[Candidate]) {
        self.ready_here = candidates.iter().filter(|c| c.local && c.ready).map(|c| c.target).collect();
    }

    /// What a frontend that prefers this node uses: ready endpoints here, else the cluster set.
    pub(super) fn local_first(&self) -> (EndpointSet, &Vec<Target>) {
        if self.ready_here.is_empty() {
            (EndpointSet::Cluster, &self.cluster)
        } else {
            (EndpointSet::Local, &self.ready_here)
        }
    }

    /// All of its sets.
    pub(super) fn sets(&self) -> [&Vec<Target>; 3] {
        [&self.cluster, &self.local, &self.ready_here]
    }
}

/// All endpoints of a Service port in one family (specification 3.4): unique by address and port. Of duplicates the most
/// usable one counts, wherever it stands: an address that is usable in any slice is used.
pub fn candidates<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    family: Family,
    port: &ServicePort,
    node_name: &str,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for slice in slices.filter(|slice| slice.family == family) {
        for number in slice.numbers_of(&port.name, port.protocol) {
            for endpoint in &slice.endpoints {
                let target = Target { ip: endpoint.address, port: number };
                found.push(Candidate {
                    target,
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                    local: endpoint.placement.node.as_deref() == Some(node_name),
                    placement: endpoint.placement.clone(),
                    weight: slice.weight(&endpoint.address),
                });
            }
        }
    }
    // Of duplicates the most usable one comes first, and stays.
    found.sort_unstable_by(|a, b| a.target.cmp(&b.target).then_with(|| b.usability().cmp(&a.usability())));
    found.dedup_by_key(|candidate| candidate.target);
    found
}

/// Narrows candidates to the sets a Service port needs. `candidates` are sorted, so the sets are too.
pub fn select(candidates: &[Candidate], node: &str, zone: &str, need_cluster: bool, need_local: bool) -> Selection {
    let rules = EndpointRules::new(candidates, node, zone);
    let set = |needed: bool, use_of: &dyn Fn(&Candidate) -> EndpointUse| {
        candidates.iter().filter(|c| needed && use_of(c).is_taken()).map(|c| c.target).collect()
    };
    Selection {
        cluster: set(need_cluster, &|c| rules.cluster(c)),
        local: set(need_local, &|c| rules.local(c)),
        ready_here: Vec::new(),
        has_endpoints: candidates.iter().any(|c| c.ready || c.is_draining()),
        topology: rules.topology,
    }
}

/// Why a candidate is in a set, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointUse {
    /// In: ready, and hints do not speak against it.
    Ready,
    /// In: it shuts down but still answers, and there is no better one.
    Draining,
    /// Out: it shuts down, and there are better ones.
    Unneeded,
    /// Out: not ready, or no longer serving.
    NotReady,
    /// Out: hinted for other zones.
    OtherZone,
    /// Out: hinted for other nodes.
    OtherNode,
    /// Out: the policy is Local, and it is on another node.
    Remote,
}

impl EndpointUse {
    /// It is in the set.
    pub fn is_taken(self) -> bool {
        matches!(self, EndpointUse::Ready | EndpointUse::Draining)
    }
}

impl fmt::Display for EndpointUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointUse::Ready => "ready",
            EndpointUse::Draining => "terminating but serving, and none is ready",
            EndpointUse::Unneeded => "terminating, and others are ready",
            EndpointUse::NotReady => "not ready",
            EndpointUse::OtherZone => "hinted for other zones",
            EndpointUse::OtherNode => "hinted for other nodes",
            EndpointUse::Remote => "not on this node",
        })
    }
}

/// The rules by which each candidate of a Service port is used or not.
#[derive(Debug)]
pub struct EndpointRules<'a> {
    /// How the cluster set is narrowed.
    pub topology: Topology,
    node: &'a str,
    zone: &'a str,
    /// Nothing better than draining endpoints is left in the cluster set.
    cluster_drains: bool,
    /// The same in the local set.
    local_drains: bool,
    unused_hints: Option<UnusedHints>,
}

/// Why hints that are there narrow nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnusedHints {
    /// Zones are hinted, and the Node has no label `topology.kubernetes.io/zone`.
    NoZone,
    /// Not every ready endpoint has one.
    Incomplete,
    /// None is for this node or its zone.
    ForOthers,
}

impl fmt::Display for UnusedHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnusedHints::NoZone => "hints unused: this Node has no zone",
            UnusedHints::Incomplete => "hints unused: not every ready endpoint has one",
            UnusedHints::ForOthers => "hints unused: none is for this node or its zone",
        })
    }
}

impl<'a> EndpointRules<'a> {
    /// For these candidates, on a node in a zone.
    pub fn new(candidates: &[Candidate], node: &'a str, zone: &'a str) -> Self {
        let ready = || candidates.iter().filter(|c| c.ready);
        let topology = topology(ready, node, zone);
        let unused_hints = if topology == Topology::None { unused_hints(ready, zone) } else { None };
        let mut rules = Self { topology, node, zone, cluster_drains: false, local_drains: false, unused_hints };
        rules.cluster_drains = !ready().any(|c| rules.cluster(c).is_taken());
        rules.local_drains = !ready().any(|c| rules.local(c).is_taken());
        rules
    }

    /// How the cluster set uses a candidate.
    pub fn cluster(&self, candidate: &Candidate) -> EndpointUse {
        match self.topology {
            _ if !candidate.ready => not_ready(candidate, self.cluster_drains),
            Topology::SameZone if !hinted(&candidate.placement.zone_hints, self.zone) => EndpointUse::OtherZone,
            Topology::SameNode if !hinted(&candidate.placement.node_hints, self.node) => EndpointUse::OtherNode,
            _ => EndpointUse::Ready,
        }
    }

    /// Why hints do not narrow the cluster set; `None` where there are none, or they do.
    pub fn unused_hints(&self) -> Option<UnusedHints> {
        self.unused_hints
    }

    /// How the local set uses a candidate.
    pub fn local(&self, candidate: &Candidate) -> EndpointUse {
        match (candidate.local, candidate.ready) {
            (false, _) => EndpointUse::Remote,
            (true, true) => EndpointUse::Ready,
            (true, false) => not_ready(candidate, self.local_drains),
        }
    }
}

fn not_ready(candidate: &Candidate, drains: bool) -> EndpointUse {
    match (candidate.is_draining(), drains) {
        (true, true) => EndpointUse::Draining,
        (true, false) => EndpointUse::Unneeded,
        (false, _) => EndpointUse::NotReady,
    }
}

fn topology<'a, I: Iterator<Item = &'a Candidate>>(ready: impl Fn() -> I, node: &str, zone: &str) -> Topology {
    let complete = |hints: fn(&Candidate) -> &[Arc<str>], wanted: &str| {
        ready().all(|c| !hints(c).is_empty()) && ready().any(|c| hinted(hints(c), wanted))
    };
    if complete(|c| &c.placement.node_hints, node) {
        Topology::SameNode
    } else if complete(|c| &c.placement.zone_hints, zone) {
        Topology::SameZone
    } else {
        Topology::None
    }
}

fn unused_hints<'a, I: Iterator<Item = &'a Candidate>>(ready: impl Fn() -> I, zone: &str) -> Option<UnusedHints> {
    let has = |c: &Candidate| !c.placement.zone_hints.is_empty() || !c.placement.node_hints.is_empty();
    if !ready().any(has) {
        return None;
    }
    let zones = || ready().map(|c| !c.placement.zone_hints.is_empty());
    Some(if zone.is_empty() && zones().all(|has| has) {
        UnusedHints::NoZone
    } else if !zones().all(|has| has) && !ready().all(|c| !c.placement.node_hints.is_empty()) {
        UnusedHints::Incomplete
    } else {
        UnusedHints::ForOthers
    })
}

fn hinted(hints: &[Arc<str>], wanted: &str) -> bool {
    hints.iter().any(|hint| &**hint == wanted)
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
