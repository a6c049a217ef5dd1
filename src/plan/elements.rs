//! The set elements a frontend consists of, except the slots of its endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Action, Class, Frontend, NodePortAddresses, Settings, Target};
use crate::model::Family;
use crate::ruleset::{Bytes, ChainId, Element, EndpointMap, Pick, SetId, Value, Verdict};

/// An element and the set it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The set or map.
    pub set: SetId,
    /// The element.
    pub element: Element,
}

impl Member {
    fn verdict(set: SetId, key: Bytes, verdict: Verdict, comment: Option<Arc<str>>) -> Self {
        Member { set, element: Element { key, end: None, value: Value::Verdict(verdict), comment } }
    }

    fn plain(set: SetId, key: Bytes, end: Option<Bytes>, comment: Option<Arc<str>>) -> Self {
        Member { set, element: Element { key, end, value: Value::None, comment } }
    }

    /// The pair in [`SetId::Hairpin`] for an endpoint address on this node.
    pub fn hairpin(ip: IpAddr) -> Self {
        Self::plain(SetId::Hairpin, Bytes::new().ip(ip).ip(ip), None, None)
    }

    /// The entry in [`SetId::ClusterIps`].
    pub fn cluster_ip(ip: IpAddr) -> Self {
        Self::plain(SetId::ClusterIps, Bytes::new().ip(ip), None, None)
    }
}

/// The element of an endpoint in a slot of a frontend.
pub fn endpoint_element(frontend: &Bytes, slot: usize, target: &Target) -> Element {
    Element {
        key: frontend.u32_host(slot as u32),
        end: None,
        value: Value::Data(Bytes::new().ip(target.ip).u16(target.port)),
        comment: None,
    }
}

/// The elements that belong to no Service: node addresses and Service ranges.
pub fn globals(family: Family, settings: &Settings) -> Vec<Member> {
    let mut members = Vec::new();
    if let Some(NodePortAddresses::Listed(ips)) = settings.family(family).map(|f| &f.node_ports) {
        members.extend(ips.iter().map(|ip| Member::plain(SetId::NodeIps, Bytes::new().ip(*ip), None, None)));
    }
    let ranges: Vec<IpNet> =
        settings.service_cidrs.iter().filter(|net| Family::of_net(net) == family).copied().collect();
    members.extend(IpNet::aggregate(&ranges).iter().map(|net| {
        let (first, last) = (Bytes::new().ip(net.network()), Bytes::new().ip(net.broadcast()));
        Member::plain(SetId::ServiceCidrs, first, Some(last), None)
    }));
    members
}

impl Frontend {
    /// The frontend's elements in the verdict maps and the set of allowed sources.
    pub fn members(&self) -> Vec<Member> {
        let maps = Maps::of(self);
        let key = self.key.bytes();
        let comment = || Some(self.label.clone());
        let mut members = Vec::with_capacity(4);

        let verdict = self.first_verdict();
        if let Some(sources) = &self.sources {
            let check = Verdict::Goto(ChainId::SourceRanges);
            members.push(Member::verdict(maps.first, key, check, comment()));
            members.push(Member::verdict(SetId::AllowedServices, key, verdict, comment()));
            members.extend(sources.iter().map(|net| {
                let (first, last) = (key.ip(net.network()), key.ip(net.broadcast()));
                Member::plain(SetId::AllowedSources, first, Some(last), comment())
            }));
        } else {
            members.push(Member::verdict(maps.first, key, verdict, comment()));
        }
        if let Action::ExternalLocal { cluster, local } = &self.action {
            let inside = self.pick(EndpointKind::Cluster, cluster);
            let outside = self.pick(EndpointKind::Local, local);
            members.push(Member::verdict(maps.short_circuit, key, inside, comment()));
            members.push(Member::verdict(maps.external_local, key, outside, comment()));
        }
        if let Some(verdict) = self.after_dnat() {
            members.push(Member::verdict(maps.after_dnat, key, verdict, comment()));
        }
        if let (Some(seconds), true) = (self.affinity_seconds, self.targets().next().is_some()) {
            let verdict = Verdict::Goto(ChainId::Remember(seconds));
            members.push(Member::verdict(maps.remember, key, verdict, comment()));
        }
        members
    }

    /// The maps of endpoints the frontend fills, with what it puts there.
    pub fn endpoint_lists(&self) -> Vec<(EndpointMap, &[Target])> {
        match &self.action {
            Action::Refuse | Action::Drop => Vec::new(),
            Action::Balance(targets) => vec![(self.endpoint_map(EndpointKind::Cluster), targets)],
            Action::ExternalLocal { cluster, local } => vec![
                (self.endpoint_map(EndpointKind::Cluster), cluster),
                (self.endpoint_map(EndpointKind::Local), local),
            ],
        }
    }

    fn first_verdict(&self) -> Verdict {
        match &self.action {
            Action::Refuse => Verdict::Goto(ChainId::Refuse),
            Action::Drop => Verdict::Drop,
            Action::Balance(targets) => self.pick(EndpointKind::Cluster, targets),
            Action::ExternalLocal { .. } if self.key.is_node_port() => Verdict::Goto(ChainId::NodeportExternalLocal),
            Action::ExternalLocal { .. } => Verdict::Goto(ChainId::ExternalLocal),
        }
    }

    fn pick(&self, kind: EndpointKind, targets: &[Target]) -> Verdict {
        match targets.len() {
            0 => Verdict::Drop,
            count => Verdict::Goto(ChainId::Pick(Pick {
                map: self.endpoint_map(kind),
                sticky: self.affinity_seconds.is_some(),
                count: count as u32,
            })),
        }
    }

    fn endpoint_map(&self, kind: EndpointKind) -> EndpointMap {
        match (self.key.is_node_port(), kind) {
            (false, EndpointKind::Cluster) => EndpointMap::Address,
            (false, EndpointKind::Local) => EndpointMap::AddressLocal,
            (true, EndpointKind::Cluster) => EndpointMap::Nodeport,
            (true, EndpointKind::Local) => EndpointMap::NodeportLocal,
        }
    }

    /// What is due after translation (specification 6.4). ClusterIPs are masqueraded by a rule for all of them.
    fn after_dnat(&self) -> Option<Verdict> {
        let masquerade = match (&self.action, self.class) {
            (Action::Refuse | Action::Drop, _) => return None,
            (_, Class::ClusterIp) => None,
            (Action::Balance(_), _) => Some(ChainId::MasqueradeIt),
            (Action::ExternalLocal { .. }, _) => Some(ChainId::MasqueradeOwn),
        };
        Some(match (masquerade, self.affinity_seconds) {
            (None, None) => return None,
            // A jump: the rule for all ClusterIPs comes behind it.
            (None, Some(seconds)) => Verdict::Jump(ChainId::Remember(seconds)),
            (Some(chain), None) => Verdict::Goto(chain),
            (Some(ChainId::MasqueradeOwn), Some(seconds)) => Verdict::Goto(ChainId::RememberMasqueradeOwn(seconds)),
            (Some(_), Some(seconds)) => Verdict::Goto(ChainId::RememberMasquerade(seconds)),
        })
    }
}

#[derive(Clone, Copy)]
enum EndpointKind {
    Cluster,
    Local,
}

/// The verdict maps of a kind of frontend.
struct Maps {
    first: SetId,
    short_circuit: SetId,
    external_local: SetId,
    after_dnat: SetId,
    remember: SetId,
}

impl Maps {
    fn of(frontend: &Frontend) -> Self {
        if frontend.key.is_node_port() {
            Self {
                first: SetId::Nodeports,
                short_circuit: SetId::NodeportShortCircuit,
                external_local: SetId::NodeportExternalLocal,
                after_dnat: SetId::NodeportAfterDnat,
                remember: SetId::NodeportRemember,
            }
        } else {
            Self {
                first: SetId::Services,
                short_circuit: SetId::ShortCircuit,
                external_local: SetId::ExternalLocal,
                after_dnat: SetId::AfterDnat,
                remember: SetId::Remember,
            }
        }
    }
}
