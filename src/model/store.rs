//! The model itself: applies events to indexed objects and says which Services they concern.

mod lists;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use self::targets::TargetCounts;
use super::keyed::Keyed;
use super::{EndpointSlice, Family, Node, ObjectKey, Service, ServiceCidr};

/// The kinds of object a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Node, only our own.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
    /// core/v1 Node, of all nodes; only their addresses, and only where direct return needs them.
    NodeAddresses,
}

/// One message of a source.
///
/// A list (first or repeated) is `ListStarted`, an applied event for each object, `ListDone`: objects of that kind not
/// applied in between are gone. Outside a list, applied and deleted events stand for themselves.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A complete list of this kind begins.
    ListStarted(Kind),
    /// The list is complete.
    ListDone(Kind),
    /// A Service was added or changed.
    Service(Arc<Service>),
    /// A Service is gone (or is no longer ours: label, headless).
    ServiceDeleted(ObjectKey),
    /// The object is there but its present version cannot be read: what is known of it stays in force, also when a
    /// list comes to its end.
    Unreadable(Kind, ObjectKey),
    /// An EndpointSlice was added or changed.
    Slice(Arc<EndpointSlice>),
    /// An EndpointSlice is gone, or can no longer be used.
    SliceDeleted(ObjectKey),
    /// Our Node was added or changed.
    Node(Box<Node>),
    /// Our Node is gone: the last one seen stays in use (specification 2.4).
    NodeDeleted,
    /// A ServiceCIDR was added or changed.
    ServiceCidr(ServiceCidr),
    /// The ServiceCIDR of this name is gone.
    ServiceCidrDeleted(Arc<str>),
    /// InternalIPs of some node of the cluster, by its name.
    NodeAddresses(Arc<str>, Vec<IpAddr>),
    /// The Node of this name is gone.
    NodeAddressesDeleted(Arc<str>),
    /// All addresses configured on this host's interfaces, whenever they change.
    LocalAddresses(BTreeSet<IpAddr>),
}

/// What changed since the last [`Model::take_changes`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Services whose own object or whose slices changed, in order.
    pub services: BTreeSet<ObjectKey>,
    /// The Node or the addresses of this host changed.
    pub node: bool,
    /// The ServiceCIDR ranges changed.
    pub service_cidrs: bool,
    /// Addresses of nodes of the cluster changed.
    pub node_addresses: bool,
    /// TCP endpoints that have left a slice, with its Service; perhaps another slice has them ([`Model::departed`]).
    pub departed: BTreeMap<(IpAddr, u16), ObjectKey>,
    /// When what led to the changes of slices happened, by Service (specification 10.3). Says nothing about rules.
    pub triggers: HashMap<(ObjectKey, Family), Vec<SystemTime>>,
}

impl Changes {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node && !self.service_cidrs && !self.node_addresses
    }
}

/// All objects, indexed by key, and slices by Service. A clone shares the objects.
#[derive(Debug, Clone, Default)]
pub struct Model {
    services: HashSet<Keyed<Service>>,
    slices: HashSet<Keyed<EndpointSlice>>,
    /// By Service, sorted by their keys. Most have one, for which a tree would take ten times the memory.
    slices_of: HashMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
    node: Option<Node>,
    is_node_gone: bool,
    local_addresses: Option<BTreeSet<IpAddr>>,
    service_cidrs: HashMap<Arc<str>, Vec<IpNet>>,
    node_addresses: HashMap<Arc<str>, Vec<IpAddr>>,
    listed: HashSet<Kind>,
    unseen_services: Option<HashSet<ObjectKey>>,
    unseen_slices: Option<HashSet<ObjectKey>>,
    unseen_cidrs: Option<HashSet<Arc<str>>>,
    unseen_nodes: Option<HashSet<Arc<str>>>,
    is_node_unseen: bool,
    /// With the reason, by family: a Service that the kernel refuses in one is served in the other.
    set_aside: BTreeMap<ObjectKey, BTreeMap<Family, Arc<str>>>,
    /// Only where [`Changes::departed`] is wanted.
    targets: Option<TargetCounts>,
    /// Of [`Changes::triggers`], only those after this time are wanted.
    triggers_after: Option<SystemTime>,
    changes: Changes,
}

impl Model {
    /// Has changes say which endpoints leave slices from now on.
    pub fn watch_departures(&mut self) {
        let mut targets = TargetCounts::default();
        self.all_slices().for_each(|slice| targets.add(slice));
        self.targets = Some(targets);
    }

    /// Leaves out of [`Changes::triggers`] what happened before this process: a first list has one for each slice.
    pub fn ignore_triggers_before(&mut self, start: SystemTime) {
        self.triggers_after = Some(start);
    }

    /// Applies one event. Objects equal to the stored ones are no change.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::ListStarted(kind) => self.start_list(kind),
            Event::ListDone(kind) => self.finish_list(kind),
            Event::Service(service) => self.put_service(service),
            Event::ServiceDeleted(key) => self.remove_service(&key),
            Event::Unreadable(kind, key) => self.keep(kind, &key),
            Event::Slice(slice) => self.put_slice(slice),
            Event::SliceDeleted(key) => self.remove_slice(&key),
            Event::Node(node) => {
                (self.is_node_gone, self.is_node_unseen) = (false, false);
                if self.node.as_ref() != Some(&*node) {
                    if self.node.as_ref().is_none_or(|old| old.labels != node.labels) {
                        self.note_selecting_services();
                    }
                    self.node = Some(*node);
                    self.changes.node = true;
                }
            }
            Event::NodeDeleted => self.is_node_gone = true,
            Event::ServiceCidr(cidr) => {
                if let Some(unseen) = &mut self.unseen_cidrs {
                    unseen.remove(&cidr.name);
                }
                if self.service_cidrs.get(&cidr.name) != Some(&cidr.cidrs) {
                    self.service_cidrs.insert(cidr.name, cidr.cidrs);
                    self.changes.service_cidrs = true;
                }
            }
            Event::ServiceCidrDeleted(name) => {
                self.changes.service_cidrs |= self.service_cidrs.remove(&name).is_some();
            }
            Event::NodeAddresses(name, addresses) => {
                if let Some(unseen) = &mut self.unseen_nodes {
                    unseen.remove(&name);
                }
                if self.node_addresses.get(&name) != Some(&addresses) {
                    self.node_addresses.insert(name, addresses);
                    self.changes.node_addresses = true;
                }
            }
            Event::NodeAddressesDeleted(name) => {
                self.changes.node_addresses |= self.node_addresses.remove(&name).is_some();
            }
            Event::LocalAddresses(addresses) => {
                if self.local_addresses.as_ref() != Some(&addresses) {
                    self.local_addresses = Some(addresses);
                    self.changes.node = true;
                }
            }
        }
    }

    /// Whether a complete list of this kind was seen.
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Services and EndpointSlices were both listed: rules may be programmed (specification 2.1).
    pub fn is_ready(&self) -> bool {
        self.has_listed(Kind::Service) && self.has_listed(Kind::EndpointSlice)
    }

    /// Hands out and clears what has changed.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// What has changed, not cleared.
    pub fn pending(&self) -> &Changes {
        &self.changes
    }

    /// A Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        self.services.get(key).map(|service| &service.0)
    }

    /// What of the annotations of a Service and its slices cannot be used.
    pub fn annotation_faults(&self, service: &Service) -> Vec<String> {
        let mut faults: Vec<String> = service.options().faults.iter().map(|fault| fault.to_string()).collect();
        for slice in self.slices(&service.key) {
            let of_slice = slice.weights.iter().flat_map(|weights| &weights.faults);
            faults.extend(of_slice.map(|fault| format!("EndpointSlice {}: {fault}", slice.key)));
        }
        faults
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().map(|service| &service.0)
    }

    /// Whether a Service is left out of the rules of a family.
    pub fn is_set_aside(&self, key: &ObjectKey, family: Family) -> bool {
        self.set_aside.get(key).is_some_and(|reasons| reasons.contains_key(&family))
    }

    /// Leaves a Service out of the rules of a family until it changes or [`Model::release`] is called, and says why.
    pub fn set_aside(&mut self, key: ObjectKey, family: Family, reason: impl Into<Arc<str>>) {
        self.set_aside.entry(key).or_default().insert(family, reason.into());
    }

    /// The Services that are set aside in some family, in order, and why.
    pub fn all_set_aside(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &str)> {
        self.set_aside.iter().map(|(key, reasons)| (key, reasons.values().next().map_or("", |reason| &**reason)))
    }

    /// Gives all Services that are set aside another chance: they count as changed.
    pub fn release(&mut self) {
        self.changes.services.extend(std::mem::take(&mut self.set_aside).into_keys());
    }

    /// The slices of a Service, ordered by their keys.
    pub fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of.get(service).into_iter().flatten()
    }

    /// All slices, in no order.
    pub fn all_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.iter().map(|slice| &slice.0)
    }

    /// The TCP endpoints that have left the slices of a Service that is still there, and that no slice has any more.
    pub fn departed(&self, changes: &Changes) -> BTreeSet<(IpAddr, u16)> {
        let Some(targets) = &self.targets else { return BTreeSet::new() };
        let of_services = changes.departed.iter().filter(|(_, service)| self.service(service).is_some());
        of_services.map(|(target, _)| *target).filter(|target| !targets.has(target)).collect()
    }

    /// Whether some slice has a TCP endpoint. Quick where departures are watched.
    pub fn has_tcp_target(&self, target: (IpAddr, u16)) -> bool {
        match &self.targets {
            Some(targets) => targets.has(&target),
            None => self.all_slices().any(|slice| slice.tcp_targets().any(|other| other == target)),
        }
    }

    /// Number of Services held.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Number of EndpointSlices held.
    pub fn slice_count(&self) -> usize {
        self.slices.len()
    }

    /// Our Node, as last seen.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Our Node has been deleted: what is in use is what was last seen.
    pub fn is_node_gone(&self) -> bool {
        self.node.is_some() && self.is_node_gone
    }

    /// The addresses of this host's interfaces; `None` until they are reported.
    pub fn local_addresses(&self) -> Option<&BTreeSet<IpAddr>> {
        self.local_addresses.as_ref()
    }

    /// InternalIPs of a node of the cluster; none where they are not known.
    pub fn addresses_of(&self, node: &str) -> &[IpAddr] {
        self.node_addresses.get(node).map_or(&[], Vec::as_slice)
    }

    /// All ServiceCIDR ranges, sorted, without duplicates.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let ranges: BTreeSet<IpNet> = self.service_cidrs.values().flatten().copied().collect();
        ranges.into_iter().collect()
    }

    fn put_service(&mut self, service: Arc<Service>) {
        if let Some(unseen) = &mut self.unseen_services {
            unseen.remove(&service.key);
        }
        if self.service(&service.key) == Some(&service) {
            return;
        }
        self.set_aside.remove(&service.key);
        self.changes.services.insert(service.key.clone());
        self.services.replace(Keyed(service));
    }

    fn remove_service(&mut self, key: &ObjectKey) {
        if self.services.remove(key) {
            self.set_aside.remove(key);
            self.changes.services.insert(key.clone());
        }
    }

    fn put_slice(&mut self, mut slice: Arc<EndpointSlice>) {
        if !slice.ports.is_sorted() {
            Arc::make_mut(&mut slice).ports.sort_unstable();
        }
        if let Some(unseen) = &mut self.unseen_slices {
            unseen.remove(&slice.key);
        }
        match self.slices.get(&slice.key).map(|old| &old.0) {
            Some(old) if old.is_equivalent(&slice) => return,
            // A relabelled slice leaves its old Service at once (specification 3.4, ADVICE).
            Some(old) if old.service != slice.service => self.remove_slice(&slice.key),
            Some(old) => self.note_departures(old.clone(), Some(&slice)),
            None => {}
        }
        if let Some(at) = slice.changed_at.filter(|at| self.triggers_after.is_none_or(|start| *at > start)) {
            self.changes.triggers.entry((slice.service.clone(), slice.family)).or_default().push(at);
        }
        self.changes.services.insert(slice.service.clone());
        let slices = self.slices_of.entry(slice.service.clone()).or_insert_with(|| Vec::with_capacity(1));
        match slices.binary_search_by(|other| other.key.cmp(&slice.key)) {
            Ok(at) => slices[at] = slice.clone(),
            Err(at) => slices.insert(at, slice.clone()),
        }
        if let Some(targets) = &mut self.targets {
            targets.add(&slice);
        }
        if let (Some(Keyed(old)), Some(targets)) = (self.slices.replace(Keyed(slice)), &mut self.targets) {
            targets.remove(&old);
        }
    }

    /// The Services that choose nodes by their labels count as changed.
    fn note_selecting_services(&mut self) {
        let chooses = |service: &&Arc<Service>| service.options().expose_on.is_some();
        let keys: Vec<ObjectKey> = self.services().filter(chooses).map(|service| service.key.clone()).collect();
        self.changes.services.extend(keys);
    }

    fn note_departures(&mut self, old: Arc<EndpointSlice>, new: Option<&EndpointSlice>) {
        if self.targets.is_some() {
            let stay: HashSet<(IpAddr, u16)> = new.into_iter().flat_map(|new| new.tcp_targets()).collect();
            let gone = old.tcp_targets().filter(|target| !stay.contains(target));
            self.changes.departed.extend(gone.map(|target| (target, old.service.clone())));
        }
    }

    fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(Keyed(old)) = self.slices.take(key) else {
            return;
        };
        self.note_departures(old.clone(), None);
        if let Some(targets) = &mut self.targets {
            targets.remove(&old);
        }
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.retain(|other| other.key != *key);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.changes.services.insert(old.service.clone());
        self.changes.triggers.remove(&(old.service.clone(), old.family));
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
