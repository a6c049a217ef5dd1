//! Which ports are to be relayed, and where to.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedSender;

use crate::controller::{Observer, Synced};
use crate::diff::Mirror;
use crate::model::{Family, ObjectKey, Protocol};
use crate::plan::{Action, FrontendKey, Settings, Target};

/// A NodePort on the loopback address of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PortKey {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl PortKey {
    /// Where it listens.
    pub(super) fn address(self) -> SocketAddr {
        let ip: IpAddr = match self.family {
            Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
            Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, self.port)
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.protocol)
    }
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) service: ObjectKey,
    /// Not empty: a port without endpoints is closed, so the kernel refuses.
    pub(super) targets: Arc<[Target]>,
    /// How long a client stays with its endpoint.
    pub(super) affinity: Option<Duration>,
}

/// What a sync changed: ports that are new, different, or (`None`) gone.
pub(super) type Changes = Vec<(PortKey, Option<Wanted>)>;

/// Follows the sync loop and tells the relay what changed.
#[derive(Debug)]
pub struct LocalhostObserver {
    families: Vec<Family>,
    known: HashMap<PortKey, Wanted>,
    /// The ports each Service claims, with or without getting them.
    claims: HashMap<ObjectKey, BTreeSet<PortKey>>,
    settings: Option<Settings>,
    sender: UnboundedSender<Changes>,
    /// Where the relay runs.
    threads: Option<Runtime>,
}

impl LocalhostObserver {
    /// Sends what happens in these families; the threads end with it.
    pub(super) fn new(families: &[Family], sender: UnboundedSender<Changes>, threads: Option<Runtime>) -> Self {
        let (known, claims) = (HashMap::new(), HashMap::new());
        Self { families: families.to_vec(), known, claims, settings: None, sender, threads }
    }

    fn changes(&mut self, sync: &Synced<'_>) -> Changes {
        let settings = sync.mirror.settings();
        // Another zone makes other endpoints the near ones, of all Services.
        let all = sync.full || self.settings.as_ref() != Some(settings);
        if all {
            self.settings = Some(settings.clone());
        }
        let services: BTreeSet<ObjectKey> = if all {
            let present = sync.model.services().map(|service| &service.key);
            present.chain(self.claims.keys()).cloned().collect()
        } else {
            sync.changes.services.clone()
        };
        let mut touched = BTreeSet::new();
        for service in services {
            touched.extend(self.claims.remove(&service).into_iter().flatten());
            let claimed: BTreeSet<PortKey> = claimed_by(sync.mirror, &self.families, &service).collect();
            touched.extend(&claimed);
            if !claimed.is_empty() {
                self.claims.insert(service, claimed);
            }
        }
        // A port may have come from one Service to another that did not change.
        let mut changes = Changes::new();
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
) -> impl Iterator<Item = PortKey> + use<'a> {
    families.iter().flat_map(move |family| {
        let has = mirror.frontends_of(*family, service).iter().map(|frontend| &frontend.key);
        let keys = has.chain(mirror.lost_by(*family, service));
        keys.filter_map(move |key| match *key {
            // Nothing here can relay SCTP.
            FrontendKey::NodePort { protocol: Protocol::Sctp, .. } | FrontendKey::Address { .. } => None,
            FrontendKey::NodePort { protocol, port } => Some(PortKey { family: *family, protocol, port }),
        })
    })
}

/// Where a port leads, as in KEP-6032: with policy Local to endpoints of this node only.
fn wanted(mirror: &Mirror, port: PortKey) -> Option<Wanted> {
    let key = FrontendKey::NodePort { protocol: port.protocol, port: port.port };
    let service = mirror.owner(port.family, key)?;
    let frontend = mirror.frontends_of(port.family, service).iter().find(|frontend| frontend.key == key)?;
    let targets = match &frontend.action {
        Action::Refuse | Action::Drop => return None,
        Action::Balance(_, targets) => targets,
        Action::ExternalLocal { local, .. } => local,
    };
    if targets.is_empty() {
        return None;
    }
    let affinity = frontend.affinity.map(|affinity| Duration::from_secs(affinity.seconds.into()));
    Some(Wanted { service: service.clone(), targets: targets.as_slice().into(), affinity })
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
