//! What the servers behind `healthCheckNodePort` answer (specification 5.6).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::controller::{Observer, Synced};
use crate::model::{EndpointSlice, Family, ObjectKey, Service, ServiceType};
use crate::plan::{NodePortAddresses, Settings, candidates, is_exposed};

/// A server: a Service, and the family of the addresses it listens on.
pub type CheckId = (Family, ObjectKey);

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckServer {
    /// Its port.
    pub port: u16,
    /// Distinct addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

impl CheckServer {
    /// The server a Service needs on addresses of a family. Where the Service does not have that family, the endpoints of
    /// the other one count: a load balancer that comes by IPv6 may ask for a Service of IPv4.
    pub fn of<'a, I>(service: &Service, slices: impl Fn() -> I, family: Family, settings: &Settings) -> Option<Self>
    where
        I: Iterator<Item = &'a Arc<EndpointSlice>>,
    {
        let port = service.health_check_node_port?;
        let is_served = service.service_type != ServiceType::ExternalName && settings.family(family).is_some();
        if !is_served || !is_exposed(service, settings) {
            return None;
        }
        let family = Self::serving(service, family, settings)?;
        let of_port = |port| candidates(slices(), family, port, &settings.node_name);
        let ready = service.ports.iter().flat_map(of_port).filter(|c| c.local && c.ready);
        let addresses: BTreeSet<_> = ready.map(|candidate| candidate.target.ip).collect();
        Some(Self { port, local_endpoints: addresses.len() })
    }

    /// The family whose endpoints count for a server that listens on addresses of a family; `None` when the Service is not
    /// served at all.
    fn serving(service: &Service, listening: Family, settings: &Settings) -> Option<Family> {
        let serves = |family: &Family| service.cluster_ip(*family).is_some() && settings.family(*family).is_some();
        [listening].into_iter().chain(Family::ALL).find(serves)
    }
}

/// Where the servers of a family listen: on the addresses that answer NodePorts and, where those are the Node's own, on all
/// of its InternalIPs that this host has. Load balancers may ask any of them, but NodePorts answer on the first only.
fn listen_on(family: Family, sync: &Synced<'_>, on_internal_ips: bool) -> Option<NodePortAddresses> {
    let node_ports = sync.mirror.settings().family(family)?.node_ports.clone();
    let NodePortAddresses::Listed(mut listed) = node_ports else { return Some(node_ports) };
    if let (true, Some(node), Some(local)) = (on_internal_ips, sync.model.node(), sync.model.local_addresses()) {
        let here = |ip: &&IpAddr| Family::of(**ip) == family && !ip.is_loopback() && local.contains(*ip);
        listed.extend(node.internal_ips.iter().filter(here));
        listed.sort_unstable();
        listed.dedup();
    }
    Some(NodePortAddresses::Listed(listed))
}

/// What a sync changed. Sent after every sync, also without any change: servers that could not open try again.
#[derive(Debug, Default)]
pub struct CheckChanges {
    /// Servers that are new, different, or (`None`) gone.
    pub checks: Vec<(CheckId, Option<CheckServer>)>,
    /// Where the servers of each family listen, when that changed.
    pub addresses: Option<Vec<(Family, NodePortAddresses)>>,
}

/// The changes of several syncs as one: the last one of each server counts.
#[derive(Debug, Default)]
struct Waiting {
    checks: HashMap<CheckId, Option<CheckServer>>,
    addresses: Option<Vec<(Family, NodePortAddresses)>>,
}

impl Waiting {
    fn merge(&mut self, later: CheckChanges) {
        self.checks.extend(later.checks);
        self.addresses = later.addresses.or(self.addresses.take());
    }
}

/// A channel of changes to the task that opens the servers. Changes that it has not taken yet are merged, so never more
/// wait than there are servers.
pub fn check_channel() -> (CheckSender, CheckReceiver) {
    let (wake, woken) = mpsc::channel(1);
    let waiting = Arc::<Mutex<Waiting>>::default();
    (CheckSender { waiting: waiting.clone(), wake }, CheckReceiver { waiting, woken })
}

/// The sync loop's end of [`check_channel`].
#[derive(Debug)]
pub struct CheckSender {
    waiting: Arc<Mutex<Waiting>>,
    wake: mpsc::Sender<()>,
}

/// The servers' end of [`check_channel`].
#[derive(Debug)]
pub struct CheckReceiver {
    waiting: Arc<Mutex<Waiting>>,
    woken: mpsc::Receiver<()>,
}

impl CheckSender {
    /// Hands over changes without waiting.
    pub fn send(&self, changes: CheckChanges) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).merge(changes);
        if let Err(mpsc::error::TrySendError::Closed(())) = self.wake.try_send(()) {
            tracing::debug!("nobody serves health check ports");
        }
    }
}

impl CheckReceiver {
    /// What has changed since the last time; `None` when the sender is gone.
    pub async fn recv(&mut self) -> Option<CheckChanges> {
        self.woken.recv().await?;
        Some(self.take())
    }

    fn take(&self) -> CheckChanges {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        CheckChanges { checks: waiting.checks.into_iter().collect(), addresses: waiting.addresses }
    }
}

/// Follows the sync loop and sends what the servers need.
#[derive(Debug)]
pub struct CheckObserver {
    on_internal_ips: bool,
    known: HashMap<CheckId, CheckServer>,
    addresses: Vec<(Family, NodePortAddresses)>,
    sender: CheckSender,
}

impl CheckObserver {
    /// An observer that sends here. `on_internal_ips`: NodePorts answer on the Node's own addresses.
    pub fn new(sender: CheckSender, on_internal_ips: bool) -> Self {
        Self { on_internal_ips, known: HashMap::new(), addresses: Vec::new(), sender }
    }

    fn changes(&mut self, sync: &Synced<'_>) -> CheckChanges {
        let mut changes = CheckChanges::default();
        let addresses = |family| Some((family, listen_on(family, sync, self.on_internal_ips)?));
        let addresses: Vec<_> = Family::ALL.into_iter().filter_map(addresses).collect();
        if addresses != self.addresses {
            self.addresses.clone_from(&addresses);
            changes.addresses = Some(addresses);
        }
        if sync.full {
            let has_check = |service: &&Arc<Service>| service.health_check_node_port.is_some();
            let present = sync.model.services().filter(has_check).map(|service| &service.key);
            let all: BTreeSet<ObjectKey> = present.chain(self.known.keys().map(|(_, key)| key)).cloned().collect();
            all.iter().for_each(|key| self.update(key, sync, &mut changes));
        } else {
            sync.changes.services.iter().for_each(|key| self.update(key, sync, &mut changes));
        }
        changes
    }

    fn update(&mut self, key: &ObjectKey, sync: &Synced<'_>, changes: &mut CheckChanges) {
        let settings = sync.mirror.settings();
        for listening in Family::ALL {
            let service = sync.model.service(key);
            // The count follows the syncs of the family whose endpoints it counts.
            let serving = service.and_then(|service| CheckServer::serving(service, listening, settings));
            if serving.is_some_and(|serving| serving != sync.family) {
                continue;
            }
            let service = service.filter(|_| !serving.is_some_and(|serving| sync.model.is_set_aside(key, serving)));
            let check =
                service.and_then(|service| CheckServer::of(service, || sync.model.slices(key), listening, settings));
            let id = (listening, key.clone());
            let before = match check {
                Some(check) => self.known.insert(id.clone(), check),
                None => self.known.remove(&id),
            };
            if before != check {
                changes.checks.push((id, check));
            }
        }
    }
}

impl Observer for CheckObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        let changes = self.changes(sync);
        self.sender.send(changes);
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
