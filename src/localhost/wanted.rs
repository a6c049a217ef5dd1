//! Which ports are to be relayed, and where to.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedSender;

use super::stats::Stats;
use crate::controller::{FollowedClaims, Observer, Synced};
use crate::diff::Mirror;
use crate::model::{Family, ObjectKey, Protocol};
use crate::plan::{Action, FrontendKey, Target};

/// A NodePort on a loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LocalPort {
    pub(super) ip: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl LocalPort {
    /// Where it listens.
    pub(super) fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    pub(super) fn family(self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.protocol)
    }
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalTarget {
    pub(super) service: ObjectKey,
    /// Not empty: a port without endpoints is closed, so the kernel refuses.
    pub(super) targets: Arc<[Target]>,
    /// How long a client stays with its endpoint.
    pub(super) affinity: Option<Duration>,
}

/// What a sync changed: ports that are new, different, or (`None`) gone.
pub(super) type PortChanges = Vec<(LocalPort, Option<LocalTarget>)>;

/// Follows the sync loop and tells the relay what changed.
#[derive(Debug)]
pub struct LocalhostObserver {
    families: Vec<Family>,
    known: HashMap<LocalPort, LocalTarget>,
    claims: FollowedClaims<LocalPort>,
    stats: Arc<Stats>,
    sender: UnboundedSender<PortChanges>,
    /// Where the relay runs.
    threads: Option<Runtime>,
}

impl LocalhostObserver {
    /// Sends what happens; the threads end with it.
    pub(super) fn new(stats: Arc<Stats>, sender: UnboundedSender<PortChanges>, threads: Option<Runtime>) -> Self {
        let families = stats.families().to_vec();
        Self { families, known: HashMap::new(), claims: FollowedClaims::default(), stats, sender, threads }
    }

    fn changes(&mut self, sync: &Synced<'_>) -> PortChanges {
        let families = &self.families;
        let touched =
            self.claims.follow(sync, |service| claimed_by(sync.mirror, families, service).collect()).frontends;
        if !touched.is_empty() {
            let unrelayed = self.claims.all().filter(|port| port.protocol == Protocol::Sctp);
            self.stats.set_unrelayed(unrelayed.count());
        }
        let mut changes = PortChanges::new();
        for port in touched {
            let wanted = wanted(sync.mirror, port);
            if wanted.as_ref() != self.known.get(&port) {
                match &wanted {
                    Some(wanted) => drop(self.known.insert(port, wanted.clone())),
                    None => drop(self.known.remove(&port)),
                }
                changes.push((port, wanted));
            }
        }
        changes
    }
}

impl Observer for LocalhostObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        let changes = self.changes(sync);
        if !changes.is_empty() && self.sender.send(changes).is_err() {
            tracing::warn!("the relay of NodePorts on localhost has died");
        }
    }
}

impl Drop for LocalhostObserver {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

fn claimed_by<'a>(
    mirror: &'a Mirror,
    families: &'a [Family],
    service: &'a ObjectKey,
) -> impl Iterator<Item = LocalPort> + use<'a> {
    families.iter().flat_map(move |family| {
        let has = mirror.frontends_of(*family, service).iter().map(|frontend| &frontend.key);
        has.chain(mirror.lost_by(*family, service)).filter_map(|key| match *key {
            FrontendKey::Address { ip, protocol, port } if ip.is_loopback() => Some(LocalPort { ip, protocol, port }),
            _ => None,
        })
    })
}

/// Where a port leads; `None` when nobody is to listen.
fn wanted(mirror: &Mirror, port: LocalPort) -> Option<LocalTarget> {
    let key = FrontendKey::Address { ip: port.ip, protocol: port.protocol, port: port.port };
    let service = mirror.owner(port.family(), key)?;
    let frontend = mirror.frontends_of(port.family(), service).iter().find(|frontend| frontend.key == key)?;
    let Action::Relay(targets) = &frontend.action else { return None };
    if targets.is_empty() {
        return None;
    }
    let affinity = frontend.affinity.map(|affinity| Duration::from_secs(affinity.seconds.into()));
    let targets = frontend.slots_for(port.ip, targets);
    Some(LocalTarget { service: service.clone(), targets: targets.into(), affinity })
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
