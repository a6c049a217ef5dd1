//! What the servers behind `healthCheckNodePort` have to say (specification 5.6).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::controller::{Observer, Synced};
use crate::model::{EndpointSlice, Family, ObjectKey, Service, ServiceType};
use crate::plan::{NodePortAddresses, Settings, candidates};

/// A server: a Service in one family.
pub type CheckId = (Family, ObjectKey);

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Its port.
    pub port: u16,
    /// Distinct addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

impl Check {
    /// The server a Service needs in a family.
    pub fn of<'a, I>(service: &Service, slices: impl Fn() -> I, family: Family, settings: &Settings) -> Option<Self>
    where
        I: Iterator<Item = &'a Arc<EndpointSlice>>,
    {
        let port = service.health_check_node_port?;
        if service.service_type == ServiceType::ExternalName || service.cluster_ip(family).is_none() {
            return None;
        }
        let of_port = |port| candidates(slices(), family, port, &settings.node_name);
        let ready = service.ports.iter().flat_map(of_port).filter(|c| c.local && c.ready);
        let addresses: BTreeSet<_> = ready.map(|candidate| candidate.target.ip).collect();
        Some(Self { port, local_endpoints: addresses.len() })
    }
}

/// What a sync changed. Sent after every sync, also without any change: servers that could not open try again.
#[derive(Debug, Default)]
pub struct CheckChanges {
    /// Servers that are new, different, or (`None`) gone.
    pub checks: Vec<(CheckId, Option<Check>)>,
    /// Where the servers of each family listen, when that changed.
    pub addresses: Option<Vec<(Family, NodePortAddresses)>>,
}

/// The changes of several syncs as one: the last one of each server counts.
#[derive(Debug, Default)]
struct Waiting {
    checks: HashMap<CheckId, Option<Check>>,
    addresses: Option<Vec<(Family, NodePortAddresses)>>,
}

impl Waiting {
    fn merge(&mut self, later: CheckChanges) {
        self.checks.extend(later.checks);
        self.addresses = later.addresses.or(self.addresses.take());
    }
}

/// A way for changes to those who open the servers. What they have not taken yet becomes one: however slow they are, no more
/// waits than there are servers.
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
    known: HashMap<CheckId, Check>,
    addresses: Vec<(Family, NodePortAddresses)>,
    sender: CheckSender,
}

impl CheckObserver {
    /// An observer that sends here.
    pub fn new(sender: CheckSender) -> Self {
        Self { known: HashMap::new(), addresses: Vec::new(), sender }
    }

    fn changes(&mut self, sync: &Synced<'_>) -> CheckChanges {
        let mut changes = CheckChanges::default();
        let settings = sync.mirror.settings();
        let addresses: Vec<_> = settings.families().map(|(family, f)| (family, f.node_ports.clone())).collect();
        if addresses != self.addresses {
            self.addresses.clone_from(&addresses);
            changes.addresses = Some(addresses);
        }
        if sync.full {
            let has_check = |service: &&Arc<Service>| service.health_check_node_port.is_some();
            let present = sync.model.services().filter(has_check).map(|service| &service.key);
            let all: BTreeSet<ObjectKey> = present
                .chain(self.known.keys().filter(|(family, _)| *family == sync.family).map(|(_, key)| key))
                .cloned()
                .collect();
            all.iter().for_each(|key| self.update(key, sync, &mut changes));
        } else {
            sync.changes.services.iter().for_each(|key| self.update(key, sync, &mut changes));
        }
        changes
    }

    fn update(&mut self, key: &ObjectKey, sync: &Synced<'_>, changes: &mut CheckChanges) {
        let Synced { family, model, .. } = *sync;
        let service = model.service(key).filter(|_| !model.is_set_aside(key, family));
        let check = service.and_then(|s| Check::of(s, || model.slices(key), family, sync.mirror.settings()));
        let id = (family, key.clone());
        let before = match check {
            Some(check) => self.known.insert(id.clone(), check),
            None => self.known.remove(&id),
        };
        if before != check {
            changes.checks.push((id, check));
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
