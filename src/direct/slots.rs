//! Which slot of which frontend leads to which node. Follows the sync loop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::controller::{FollowedClaims, Observer, Synced};
use crate::diff::Mirror;
use crate::model::{Balance, Family, Kind, Model, ObjectKey};
use crate::plan::{Action, EndpointSet, Frontend, FrontendKey, Target};
use crate::ruleset::{Bytes, SlotHash};

/// What is to be handed on, as far as the cluster goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// By family and key.
    pub(super) frontends: BTreeMap<(Family, Bytes), WantedFrontend>,
    /// InternalIPs of the nodes that these lead to.
    pub(super) nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

/// A frontend that hands packets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedFrontend {
    pub(super) hash: SlotHash,
    pub(super) label: Arc<str>,
    /// The node of the endpoint in each slot; `None` where it is on this node, or no Node is named.
    pub(super) slots: Arc<[Option<Arc<str>>]>,
}

/// Follows the sync loop and tells what is to be handed on.
#[derive(Debug)]
pub struct DirectObserver {
    frontends: BTreeMap<(Family, Bytes), WantedFrontend>,
    claims: FollowedClaims<(Family, FrontendKey)>,
    /// Something may have changed that was not told yet.
    unsent: bool,
    sender: watch::Sender<Option<Arc<Wanted>>>,
}

impl DirectObserver {
    pub(super) fn new(sender: watch::Sender<Option<Arc<Wanted>>>) -> Self {
        Self { frontends: BTreeMap::new(), claims: FollowedClaims::default(), unsent: false, sender }
    }

    /// Takes over what a sync changed; whether that may concern a frontend.
    fn follow(&mut self, sync: &Synced<'_>) -> bool {
        let families: Vec<Family> = sync.mirror.families().collect();
        let touched = self.claims.follow(sync, |service| claimed_by(sync.mirror, &families, service));
        let concerns = touched.all || !touched.frontends.is_empty();
        for (family, key) in touched.frontends {
            let at = (family, key.bytes());
            match wanted(sync.model, sync.mirror, family, key) {
                Some(frontend) => drop(self.frontends.insert(at, frontend)),
                None => drop(self.frontends.remove(&at)),
            }
        }
        concerns
    }
}

/// With the addresses of the nodes that frontends lead to.
fn with_nodes(frontends: BTreeMap<(Family, Bytes), WantedFrontend>, model: &Model) -> Wanted {
    let names = frontends.values().flat_map(|frontend| frontend.slots.iter().flatten());
    let names: BTreeSet<&Arc<str>> = names.collect();
    let nodes = names.into_iter().map(|name| (name.clone(), model.addresses_of(name).to_vec())).collect();
    Wanted { frontends, nodes }
}

/// All that is to be handed on at some moment.
pub(super) fn all_wanted(model: &Model, mirror: &Mirror) -> Wanted {
    let mut frontends = BTreeMap::new();
    for family in mirror.families() {
        for frontend in model.services().flat_map(|service| mirror.frontends_of(family, &service.key)) {
            if let Some(found) = wanted(model, mirror, family, frontend.key) {
                frontends.insert((family, frontend.key.bytes()), found);
            }
        }
    }
    with_nodes(frontends, model)
}

impl Observer for DirectObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        self.unsent |= self.follow(sync) || sync.changes.node_addresses;
        // After a restart a table is in force, which must not lose its nodes until they are known again.
        if !self.unsent || !sync.model.has_listed(Kind::NodeAddresses) {
            return;
        }
        self.unsent = false;
        let wanted = with_nodes(self.frontends.clone(), sync.model);
        self.sender.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&wanted);
            if is_new {
                *known = Some(Arc::new(wanted));
            }
            is_new
        });
    }
}

fn claimed_by(mirror: &Mirror, families: &[Family], service: &ObjectKey) -> BTreeSet<(Family, FrontendKey)> {
    let of = |family: &Family| {
        let has = mirror.frontends_of(*family, service).iter().filter(|frontend| frontend.direct);
        let lost = mirror.lost_by(*family, service).iter().copied();
        has.map(|frontend| frontend.key).chain(lost).map(|key| (*family, key)).collect::<Vec<_>>()
    };
    families.iter().flat_map(of).collect()
}

/// What is to be handed on of the packets to a frontend; `None` when that is nothing.
fn wanted(model: &Model, mirror: &Mirror, family: Family, key: FrontendKey) -> Option<WantedFrontend> {
    let service = mirror.owner(family, key)?;
    let frontend = mirror.frontends_of(family, service).iter().find(|frontend| frontend.key == key)?;
    let targets = direct_targets(frontend)?;
    let spread = frontend.spread.as_ref()?;
    if !spread.is_alike_everywhere(targets) {
        return None;
    }
    let ports = spread.balance == Balance::SourceIpPort;
    let nodes = nodes_of(model, service, &mirror.settings().node_name, targets);
    let slots: Arc<[Option<Arc<str>>]> =
        frontend.slots(targets).iter().map(|target| nodes.get(&target.ip).cloned().flatten()).collect();
    let hash = SlotHash { modulus: slots.len() as u32, ports };
    slots.iter().any(Option::is_some).then(|| WantedFrontend { hash, label: frontend.label.clone(), slots })
}

fn direct_targets(frontend: &Frontend) -> Option<&[Target]> {
    match &frontend.action {
        Action::Balance(EndpointSet::Cluster, targets) if frontend.direct => Some(targets),
        _ => None,
    }
}

/// The nodes of endpoints by their addresses; `None` for those on this node. An address that is said to be on several nodes, one
/// of which is this one, is here: as when the endpoints of a Service are selected.
fn nodes_of(model: &Model, service: &ObjectKey, own: &str, targets: &[Target]) -> HashMap<IpAddr, Option<Arc<str>>> {
    let wanted: BTreeSet<IpAddr> = targets.iter().map(|target| target.ip).collect();
    let mut nodes: HashMap<IpAddr, Option<Arc<str>>> = HashMap::new();
    let endpoints = model.slices(service).flat_map(|slice| &slice.endpoints);
    for endpoint in endpoints.filter(|endpoint| wanted.contains(&endpoint.address)) {
        let node = endpoint.placement.node.clone();
        let is_own = node.as_deref() == Some(own);
        let entry = nodes.entry(endpoint.address).or_insert_with(|| node.clone());
        if is_own {
            *entry = None;
        }
    }
    nodes
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
