//! A compact memory of UDP frontends and the endpoints their flows may go to, to find out what a sync changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::{FamilySweep, Sweep};
use crate::controller::Synced;
use crate::diff::Mirror;
use crate::model::{Changes, Family, Model, ObjectKey, Protocol, Service, ServicePort};
use crate::plan::{FrontendKey, NodePortAddresses, Target, candidates};
use crate::ruleset::{Op, SetId, Transaction};

/// The UDP frontends of the last sync.
#[derive(Debug, Default)]
pub struct UdpFrontends {
    families: HashMap<Family, FamilyFrontends>,
}

#[derive(Debug, Default)]
struct FamilyFrontends {
    /// What each Service had, so that what it has lost is found.
    of_service: HashMap<ObjectKey, Vec<FrontendKey>>,
    /// Sorted.
    valid: HashMap<FrontendKey, Arc<[Target]>>,
    node_addresses: BTreeSet<IpAddr>,
}

impl UdpFrontends {
    /// What has to be cleaned after a sync. Work is in proportion to the changed Services; after a full sync all UDP
    /// frontends are asked for.
    pub fn follow(&mut self, sync: &Synced<'_>) -> Sweep {
        let Synced { model, mirror, family, changes, full, .. } = *sync;
        let mut sweep = Sweep::default();
        let now = Now { model, mirror, family, endpoints: HashMap::new() };
        let known = self.families.entry(family).or_default();
        if full {
            known.recall(Gone::of(family, sync.transaction));
        }
        known.update(now, changes, full, sweep.family_mut(family));
        sweep
    }
}

/// What a full sync took out of the table of a family: frontends of an earlier process, which we never knew.
#[derive(Debug, Default)]
struct Gone {
    frontends: Vec<FrontendKey>,
    node_addresses: Vec<IpAddr>,
}

impl Gone {
    fn of(family: Family, transaction: &Transaction) -> Self {
        let mut gone = Self::default();
        for (_, op) in transaction.ops.iter().filter(|(of, _)| *of == family) {
            let Op::DeleteElements(set, elements) = op else { continue };
            match set.set {
                SetId::Services | SetId::Nodeports => {
                    let keys = elements.iter().filter_map(|element| FrontendKey::from_bytes(&element.key));
                    gone.frontends.extend(keys.filter(|key| protocol(key) == Protocol::Udp));
                }
                SetId::NodeIps => gone.node_addresses.extend(elements.iter().filter_map(|element| match family {
                    Family::Ipv4 => element.key.ipv4_at(0),
                    Family::Ipv6 => element.key.ipv6_at(0),
                })),
                _ => {}
            }
        }
        gone
    }
}

impl FamilyFrontends {
    /// Makes what an earlier process had ours, so that the update that follows finds it gone.
    fn recall(&mut self, gone: Gone) {
        for key in gone.frontends {
            self.valid.entry(key).or_insert_with(|| [].into());
        }
        self.node_addresses.extend(gone.node_addresses);
    }

    fn update(&mut self, mut now: Now<'_>, changes: &Changes, full: bool, sweep: &mut FamilySweep) {
        let touched = self.touched(&now, changes, full);
        for key in touched {
            let valid = now.valid(key);
            let old = match &valid {
                Some(valid) => self.valid.insert(key, valid.clone()),
                None => self.valid.remove(&key),
            };
            if full || old != valid {
                sweep.ask(key, valid.unwrap_or_default());
            }
        }
        if full || changes.node || (self.node_addresses.is_empty() && self.has_node_ports()) {
            self.update_node_addresses(&now, sweep);
        }
        self.surround_node_ports(sweep);
    }

    /// The frontends that may have changed; also keeps the list of what each Service has.
    fn touched(&mut self, now: &Now<'_>, changes: &Changes, full: bool) -> HashSet<FrontendKey> {
        let mut touched: HashSet<FrontendKey> = HashSet::new();
        let mut services: HashSet<&ObjectKey> = changes.services.iter().collect();
        if full {
            touched.extend(self.valid.keys());
            self.of_service.clear();
            services.extend(now.mirror.frontends().filter(|(f, _, _)| *f == now.family).map(|(_, service, _)| service));
        }
        for service in services {
            touched.extend(self.of_service.remove(service).unwrap_or_default());
            let present: Vec<FrontendKey> = now.udp_frontends(service).collect();
            touched.extend(&present);
            if !present.is_empty() {
                self.of_service.insert(service.clone(), present);
            }
        }
        // What one Service has lost may belong to another one now, which need not have changed itself.
        for key in &touched {
            if let Some(owner) = now.mirror.owner(now.family, *key) {
                if self.of_service.get(owner).is_some_and(|held| held.contains(key)) {
                    continue;
                }
                self.of_service.entry(owner.clone()).or_default().push(*key);
            }
        }
        touched
    }

    fn has_node_ports(&self) -> bool {
        self.valid.keys().any(FrontendKey::is_node_port)
    }

    /// An address that comes to the node is a new frontend of every NodePort, one that goes takes one away.
    fn update_node_addresses(&mut self, now: &Now<'_>, sweep: &mut FamilySweep) {
        let old = std::mem::replace(&mut self.node_addresses, now.node_addresses());
        // Link-local addresses come and go with every pod's interface; nobody reaches NodePorts there.
        let notable = |ips: &BTreeSet<IpAddr>| ips.iter().copied().filter(|ip| !is_link_local(ip)).collect::<Vec<_>>();
        if notable(&old) != notable(&self.node_addresses) {
            let node_ports = self.valid.iter().filter(|(key, _)| key.is_node_port());
            node_ports.for_each(|(key, valid)| sweep.ask(*key, valid.clone()));
            sweep.add_node_addresses(old);
        }
    }

    /// Adds the node's addresses, and frontends at these addresses with the number of a NodePort: their flows are not the
    /// NodePort's.
    fn surround_node_ports(&self, sweep: &mut FamilySweep) {
        let ports: Vec<u16> = sweep.node_ports().collect();
        if ports.is_empty() {
            return;
        }
        sweep.add_node_addresses(self.node_addresses.iter().copied());
        for ip in &self.node_addresses {
            for port in &ports {
                let key = FrontendKey::Address { ip: *ip, protocol: Protocol::Udp, port: *port };
                if let Some(valid) = self.valid.get(&key) {
                    sweep.ask(key, valid.clone());
                }
            }
        }
    }
}

/// The state after a sync, in one family.
struct Now<'a> {
    model: &'a Model,
    mirror: &'a Mirror,
    family: Family,
    /// Frontends of one Service port share a list.
    endpoints: HashMap<(ObjectKey, u16), Arc<[Target]>>,
}

impl Now<'_> {
    fn udp_frontends(&self, service: &ObjectKey) -> impl Iterator<Item = FrontendKey> {
        // Flows that are relayed were not translated.
        let frontends = self.mirror.frontends_of(self.family, service).iter().filter(|frontend| !frontend.is_relayed());
        frontends.map(|frontend| frontend.key).filter(|key| protocol(key) == Protocol::Udp)
    }

    /// Where flows of a frontend may go; `None` when it does not exist (any more).
    fn valid(&mut self, key: FrontendKey) -> Option<Arc<[Target]>> {
        let owner = self.mirror.owner(self.family, key)?;
        let service = self.model.service(owner)?;
        let port = port_of(service, key)?;
        let list = self.endpoints.entry((owner.clone(), port.port)).or_insert_with(|| {
            // Sorted already. A serving endpoint keeps its flows whatever readiness, termination, hints and policies
            // say of new ones; an endpoint that is ready without serving is published unready.
            let all = candidates(self.model.slices(owner), self.family, port, "");
            all.into_iter().filter(|c| c.serving || c.ready).map(|c| c.target).collect()
        });
        Some(list.clone())
    }

    fn node_addresses(&self) -> BTreeSet<IpAddr> {
        match self.mirror.settings().family(self.family).map(|family| &family.node_ports) {
            None => BTreeSet::new(),
            Some(NodePortAddresses::Listed(ips)) => ips.iter().copied().collect(),
            Some(NodePortAddresses::AllLocal) => {
                let local = self.model.local_addresses().into_iter().flatten().copied();
                let node = self.model.node().into_iter().flat_map(|node| node.ips.iter().copied());
                local.chain(node).filter(|ip| Family::of(*ip) == self.family && !ip.is_loopback()).collect()
            }
        }
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn protocol(key: &FrontendKey) -> Protocol {
    match key {
        FrontendKey::Address { protocol, .. } | FrontendKey::NodePort { protocol, .. } => *protocol,
    }
}

fn port_of(service: &Service, key: FrontendKey) -> Option<&ServicePort> {
    let mut udp = service.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    match key {
        FrontendKey::Address { port, .. } => udp.find(|p| p.port == port),
        FrontendKey::NodePort { port, .. } => udp.find(|p| p.node_port == Some(port)),
    }
}

#[cfg(test)]
#[path = "frontends_tests.rs"]
mod tests;
