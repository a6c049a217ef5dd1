//! One Service in one family: its frontends and what else it contributes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};

use super::label::label;
use super::sources::AllowedSources;
use super::{
    Action, Affinity, Candidate, Class, EndpointSet, Frontend, FrontendKey, FrontendOwner, Selection, Settings,
    SpareSlots, Spread, Target, Topology, candidates, select,
};
use crate::model::{Balance, EndpointSlice, Family, Protocol, Service, ServicePort, ServiceType};

/// Elements one Service can have in a family. Kubernetes sets no bound to the product of ports, addresses, source ranges
/// and endpoints: without one, a single tenant could use up the memory of all nodes.
const ELEMENTS_MAX: usize = 1 << 20;

/// What a Service contributes to the table of one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePlan {
    /// Its ClusterIP; ports it does not serve are refused.
    pub cluster_ip: Option<IpAddr>,
    /// Its frontends; no key comes twice.
    pub frontends: Vec<Frontend>,
    /// Addresses of its reachable endpoints on this node: connections from there to there need a masquerade.
    pub hairpins: Vec<IpAddr>,
    /// Its addresses that answer echo requests, because a port has a usable endpoint.
    pub pingable: BTreeSet<IpAddr>,
    /// Its other load balancer and external addresses: these refuse echo requests.
    pub unpingable: BTreeSet<IpAddr>,
    /// Frontends it has a claim to although none of it is in force: nobody else shall get them meanwhile.
    pub withheld: Vec<(FrontendKey, Class)>,
    /// Where its health check server answers: nobody else may have these.
    pub checks: Vec<FrontendKey>,
    /// Frontends it does not get because servers of this process have them.
    pub refused: Vec<(FrontendKey, FrontendOwner)>,
    /// It would take this many elements or more, which is too many: nothing of it is in force.
    pub oversized: Option<usize>,
}

impl ServicePlan {
    /// Nothing in this family.
    pub fn is_empty(&self) -> bool {
        self.cluster_ip.is_none() && self.frontends.is_empty() && self.withheld.is_empty()
    }

    /// The plan of a Service none of which is to be in force: it keeps its claims.
    pub fn withheld(self) -> Self {
        let claims = self.frontends.into_iter().map(|frontend| (frontend.key, frontend.class));
        let withheld = self.withheld.into_iter().chain(claims).collect();
        Self { withheld, checks: self.checks, refused: self.refused, ..Self::default() }
    }

    /// Finds out which addresses answer echo requests. Those with source ranges do not: whoever may not connect shall not
    /// learn that somebody is there.
    fn find_pings(&mut self) {
        for frontend in self.frontends.iter().filter(|frontend| frontend.sources.is_none() && !frontend.is_relayed()) {
            let FrontendKey::Address { ip, .. } = frontend.key else { continue };
            if frontend.action != Action::Refuse {
                self.pingable.insert(ip);
            } else if frontend.class != Class::ClusterIp {
                self.unpingable.insert(ip);
            }
        }
    }

    /// Addresses of its endpoints whose connections may need something after translation, whoever the client is: those
    /// behind frontends that masquerade or remember, and those on this node.
    pub fn after_dnat_endpoints(&self) -> BTreeSet<IpAddr> {
        let frontends = self.frontends.iter().filter(|frontend| frontend.after_dnat().is_some());
        let targets = frontends.flat_map(Frontend::targets).map(|target| target.ip);
        targets.chain(self.hairpins.iter().copied()).collect()
    }
}

/// Compiles a Service for one family; empty for those that are ignored (specification 3.1).
pub fn compile<'a, I>(service: &Service, slices: impl Fn() -> I, family: Family, settings: &Settings) -> ServicePlan
where
    I: Iterator<Item = &'a Arc<EndpointSlice>>,
{
    let mut plan = ServicePlan::default();
    if service.service_type == ServiceType::ExternalName {
        return plan;
    }
    let Some(cluster_ip) = service.cluster_ip(family) else {
        return plan;
    };
    plan.cluster_ip = Some(cluster_ip);
    let frontends = ServiceFrontends::new(service, family, settings);
    plan.checks = frontends.checks();
    let (mut elements, mut keys) = (0_usize, HashSet::new());
    for port in &service.ports {
        let found = candidates(slices(), family, port, &settings.node_name);
        let Needs { cluster, local, .. } = frontends.needs(port);
        let mut selection = select(&found, &settings.node_name, &settings.zone, cluster, local);
        if frontends.prefers_local() {
            selection.find_ready_here(&found);
        }
        let spread = frontends.spread(&found);
        elements = elements.saturating_add(frontends.elements(port, &selection, spread.as_deref()));
        if elements > ELEMENTS_MAX {
            let withheld = cluster_ip_frontends(service, cluster_ip);
            return ServicePlan { oversized: Some(elements), withheld, checks: plan.checks, ..ServicePlan::default() };
        }
        let new = frontends.of_port(cluster_ip, port, &selection, spread.as_deref());
        // There are many Services: room that is given back later leaves holes that nothing fits into.
        plan.frontends.reserve_exact(new.len());
        for frontend in new {
            match frontends.own_server(&frontend, &plan.checks, settings) {
                Some(holder) => plan.refused.push((frontend.key, holder)),
                None if keys.insert(frontend.key) => plan.frontends.push(frontend),
                None => {}
            }
        }
        plan.hairpins.extend(
            found
                .iter()
                .filter(|c| c.local)
                .map(|c| c.target)
                .filter(|t| selection.sets().iter().any(|set| set.binary_search(t).is_ok()))
                .map(|t| t.ip),
        );
    }
    plan.hairpins.sort_unstable();
    plan.hairpins.dedup();
    if settings.family(family).is_some_and(|settings| settings.pings_to.is_some()) {
        plan.find_pings();
    }
    // At first those of all Services are there at the same time.
    plan.frontends.shrink_to_fit();
    plan
}

/// The frontends of a Service at its ClusterIP.
fn cluster_ip_frontends(service: &Service, ip: IpAddr) -> Vec<(FrontendKey, Class)> {
    let key = |port: &ServicePort| FrontendKey::Address { ip, protocol: port.protocol, port: port.port };
    let keys: BTreeSet<FrontendKey> = service.ports.iter().map(key).collect();
    keys.into_iter().map(|key| (key, Class::ClusterIp)).collect()
}

/// Whether this node answers on the external addresses, the NodePorts and the health check port of a Service
/// (`portway.io/expose-on-nodes`).
pub fn is_exposed(service: &Service, settings: &Settings) -> bool {
    let label = |key: &str| settings.node_labels.get(key).map(|value| &**value);
    service.options().expose_on.as_ref().is_none_or(|selector| selector.matches(label))
}

/// Which sets of endpoints the frontends of a Service port use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Endpoints anywhere.
    pub cluster: bool,
    /// Endpoints on this node.
    pub local: bool,
    /// At the ClusterIP, ready endpoints of this node before all others, unless hints narrow them.
    pub internal_first: bool,
    /// At external addresses and NodePorts, the same.
    pub external_first: bool,
}

impl Needs {
    /// Those of a port, in a family.
    pub fn of(service: &Service, port: &ServicePort, family: Family, settings: &Settings) -> Self {
        ServiceFrontends::new(service, family, settings).needs(port)
    }
}

/// What all ports of a Service share in one family.
struct ServiceFrontends<'a> {
    service: &'a Service,
    family: Family,
    node_ip: Option<IpAddr>,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    sources: AllowedSources,
    /// This node answers on external addresses and NodePorts.
    exposed: bool,
    localhost: Option<IpAddr>,
    direct_return: bool,
    balance: Balance,
}

impl<'a> ServiceFrontends<'a> {
    fn new(service: &'a Service, family: Family, settings: &Settings) -> Self {
        let of_family = |ips: &[IpAddr]| ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect::<Vec<_>>();
        let exposed = is_exposed(service, settings);
        let load_balancer_ips = if exposed { of_family(&service.load_balancer_ips) } else { Vec::new() };
        let node_ip = settings.family(family).and_then(|f| f.node_ip);
        Self {
            service,
            family,
            node_ip,
            external_ips: if settings.external_ips && exposed { of_family(&service.external_ips) } else { Vec::new() },
            sources: AllowedSources::of(service, &load_balancer_ips, family, node_ip),
            exposed,
            load_balancer_ips,
            direct_return: settings.direct_return,
            localhost: settings.family(family).and_then(|f| f.localhost),
            balance: match service.options().balance {
                _ if !settings.hashing => Balance::Random,
                // Affinity is about the address alone.
                Balance::SourceIpPort if service.affinity_seconds.is_some() => Balance::SourceIp,
                balance => balance,
            },
        }
    }

    /// How a port's connections are spread over these endpoints; `None` where each has a slot, taken at random.
    fn spread(&self, candidates: &[Candidate]) -> Option<Box<Spread>> {
        let weighted = candidates.iter().filter(|candidate| candidate.weight != 1);
        let weights: Vec<(Target, u8)> = weighted.map(|candidate| (candidate.target, candidate.weight)).collect();
        let is_plain = self.balance == Balance::Random && weights.is_empty();
        (!is_plain).then(|| Box::new(Spread { balance: self.balance, weights }))
    }

    /// Session affinity, where clients have to be remembered for it: not by a hash of their address.
    fn affinity(&self) -> Option<Affinity> {
        let seconds = self.service.affinity_seconds.filter(|_| self.balance == Balance::Random)?;
        Some(Affinity { seconds, number: 0 })
    }

    fn needs(&self, port: &ServicePort) -> Needs {
        let external = self.externally_accessible(port);
        let Service { internal_policy_local, .. } = *self.service;
        let options = self.service.options();
        Needs {
            cluster: !internal_policy_local || external,
            local: internal_policy_local || (self.service.external_local() && external),
            internal_first: options.internal_prefer_local && !internal_policy_local,
            external_first: options.external_prefer_local && external && !self.service.external_local(),
        }
    }

    /// Whether endpoints on this node go before others anywhere.
    fn prefers_local(&self) -> bool {
        let options = self.service.options();
        options.external_prefer_local || options.internal_prefer_local
    }

    fn externally_accessible(&self, port: &ServicePort) -> bool {
        self.node_port(port).is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    fn node_port(&self, port: &ServicePort) -> Option<u16> {
        port.node_port.filter(|_| self.exposed)
    }

    /// Where the Service's health check server answers, as frontends would be called.
    fn checks(&self) -> Vec<FrontendKey> {
        let Some(port) = self.service.health_check_node_port.filter(|_| self.exposed) else { return Vec::new() };
        let protocol = Protocol::Tcp;
        let at_node = self.node_ip.map(|ip| FrontendKey::Address { ip, protocol, port });
        [FrontendKey::NodePort { protocol, port }].into_iter().chain(at_node).collect()
    }

    /// The server of this process that a frontend would take connections from. ClusterIPs are nobody's own.
    fn own_server(&self, frontend: &Frontend, checks: &[FrontendKey], settings: &Settings) -> Option<FrontendOwner> {
        if frontend.class == Class::ClusterIp {
            return None;
        }
        if checks.contains(&frontend.key) {
            return Some(FrontendOwner::HealthCheck(self.service.key.clone()));
        }
        let mut listeners = settings.listeners.iter();
        let listener = listeners.find(|l| l.is_hit_by(&frontend.key, self.family, self.node_ip))?;
        Some(FrontendOwner::Server(listener.name))
    }

    /// How many elements the frontends of a port will have, about.
    fn elements(&self, port: &ServicePort, selection: &Selection, spread: Option<&Spread>) -> usize {
        // What each has in verdict maps and maps of IDs.
        let own = 8;
        let balancers = self.load_balancer_ips.len();
        let others = self.external_ips.len() + usize::from(self.node_port(port).is_some());
        let addresses = 1 + balancers + others;
        let sources = balancers.saturating_mul(self.sources.balancer_networks);
        let sources = sources.saturating_add(others.saturating_mul(self.sources.other_networks));
        let slots = |targets: &[Target]| spread.map_or(targets.len(), |spread| spread.slot_count(targets) as usize);
        let endpoints = slots(&selection.cluster) + slots(&selection.local);
        addresses.saturating_mul(own + endpoints).saturating_add(sources)
    }

    /// The frontends of a port. The first of several with the same key is meant to stay: a ClusterIP that is listed as
    /// external IP too is a ClusterIP, and an address that is both load balancer and external IP keeps its source ranges.
    fn of_port(
        &self,
        cluster_ip: IpAddr,
        port: &ServicePort,
        selection: &Selection,
        spread: Option<&Spread>,
    ) -> Vec<Frontend> {
        let label = label(self.service, port);
        let mut out = Vec::with_capacity(2 + self.load_balancer_ips.len() + self.external_ips.len());
        let mut push = |key, class, action, sources| {
            let (port, label, affinity) = (port.name.clone(), label.clone(), self.affinity());
            let spread = spread.cloned().map(Box::new);
            let direct = self.is_direct(class, &action, selection, spread.as_deref());
            let spare = SpareSlots::default();
            out.push(Frontend { key, class, port, label, action, affinity, spread, spare, direct, sources });
        };
        let at = |ip| FrontendKey::Address { ip, protocol: port.protocol, port: port.port };
        push(at(cluster_ip), Class::ClusterIp, self.internal_action(selection), None);
        for ip in &self.load_balancer_ips {
            push(at(*ip), Class::LoadBalancer, self.external_action(selection), self.sources.balancers.clone());
        }
        for ip in &self.external_ips {
            push(at(*ip), Class::ExternalIp, self.external_action(selection), self.sources.others.clone());
        }
        if let Some(node_port) = self.node_port(port) {
            let (protocol, port) = (port.protocol, node_port);
            let sources = self.sources.others.clone();
            push(FrontendKey::NodePort { protocol, port }, Class::NodePort, self.external_action(selection), sources);
            if let Some(ip) = self.localhost {
                let relayed = Action::Relay(self.relayed(protocol, selection));
                push(FrontendKey::Address { ip, protocol, port }, Class::NodePort, relayed, None);
            }
        }
        out
    }

    /// Whether another node may hand connections on to this one: only where all nodes choose the same endpoint, and the
    /// endpoint's node answers at the address.
    fn is_direct(&self, class: Class, action: &Action, selection: &Selection, spread: Option<&Spread>) -> bool {
        let options = self.service.options();
        let Action::Balance(EndpointSet::Cluster, targets) = action else { return false };
        self.direct_return
            && matches!(class, Class::LoadBalancer | Class::ExternalIp)
            && selection.topology == Topology::None
            && spread.is_some_and(|spread| spread.is_alike_everywhere(targets))
            && !options.external_prefer_local
            && options.expose_on.is_none()
    }

    fn internal_action(&self, selection: &Selection) -> Action {
        // Hints say already where traffic is to stay.
        let prefers = self.service.options().internal_prefer_local && selection.topology == Topology::None;
        let (set, targets) = match self.service.internal_policy_local {
            true => (EndpointSet::Local, &selection.local),
            false if prefers => selection.local_first(),
            false => (EndpointSet::Cluster, &selection.cluster),
        };
        match (selection.has_endpoints, targets.is_empty()) {
            (false, _) => Action::Refuse,
            (true, true) => Action::Drop,
            (true, false) => Action::Balance(set, targets.clone()),
        }
    }

    /// Where the relay sends connections, as KEP-6032 has it: with policy Local to this node only, although the node's own
    /// connections to its other addresses reach all endpoints then. It cannot relay SCTP.
    fn relayed(&self, protocol: Protocol, selection: &Selection) -> Vec<Target> {
        match protocol {
            Protocol::Sctp => Vec::new(),
            _ if self.service.external_local() => selection.local.clone(),
            _ if self.service.options().external_prefer_local => selection.local_first().1.clone(),
            _ => selection.cluster.clone(),
        }
    }

    fn external_action(&self, selection: &Selection) -> Action {
        if !selection.has_endpoints {
            Action::Refuse
        } else if self.service.external_local() {
            Action::ExternalLocal { cluster: selection.cluster.clone(), local: selection.local.clone() }
        } else if self.service.options().external_prefer_local {
            let (set, targets) = selection.local_first();
            Action::Balance(set, targets.clone())
        } else {
            Action::Balance(EndpointSet::Cluster, selection.cluster.clone())
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
