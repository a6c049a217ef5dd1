//! The set elements a frontend consists of, except the slots of its endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Action, Class, EndpointSet, Frontend, NodePortAddresses, Settings, Target};
use crate::model::{Balance, Family};
use crate::ruleset::{
    Bytes, ChainId, Element, EndpointMap, Masquerades, Pick, PickBy, Remember, SetId, Value, Verdict,
};

/// An element and the set it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

    fn affinity_id(set: SetId, key: Bytes, id: u32, comment: Option<Arc<str>>) -> Self {
        Member { set, element: Element { key, end: None, value: Value::Data(Bytes::new().u32_host(id)), comment } }
    }

    /// The pair in [`SetId::Hairpin`] for an endpoint address on this node.
    pub fn hairpin(ip: IpAddr) -> Self {
        Self::plain(SetId::Hairpin, Bytes::new().ip(ip).ip(ip), None, None)
    }

    /// The entry in [`SetId::AfterDnatEndpoints`].
    pub fn after_dnat_endpoint(ip: IpAddr) -> Self {
        Self::plain(SetId::AfterDnatEndpoints, Bytes::new().ip(ip), None, None)
    }

    /// The entry in [`SetId::Gone`].
    pub fn gone(target: Target) -> Self {
        Self::plain(SetId::Gone, Bytes::new().ip(target.ip).u16(target.port), None, None)
    }

    /// The entry in [`SetId::Pingable`].
    pub fn pingable(ip: IpAddr) -> Self {
        Self::plain(SetId::Pingable, Bytes::new().ip(ip), None, None)
    }

    /// The entry in [`SetId::Unpingable`].
    pub fn unpingable(ip: IpAddr) -> Self {
        Self::plain(SetId::Unpingable, Bytes::new().ip(ip), None, None)
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
    /// The frontend's elements in the verdict maps, the set of allowed sources and the maps of affinity IDs.
    pub fn members(&self) -> Vec<Member> {
        let maps = Maps::of(self);
        let key = self.key.bytes();
        let comment = || Some(self.label.clone());
        let mut members = Vec::with_capacity(4);

        let verdict = self.first_verdict();
        if let Some(sources) = &self.sources {
            members.push(Member::verdict(maps.first, key, Verdict::Goto(maps.source_ranges), comment()));
            members.push(Member::verdict(maps.allowed_services, key, verdict, comment()));
            // Networks, not ranges: see [`SetSpec::parts`].
            members.extend(sources.iter().flat_map(|range| range.networks()).map(|net| {
                let (first, last) = (key.ip(net.network()), key.ip(net.broadcast()));
                Member::plain(maps.allowed_sources, first, Some(last), comment())
            }));
        } else {
            members.push(Member::verdict(maps.first, key, verdict, comment()));
        }
        if let Action::ExternalLocal { cluster, local } = &self.action {
            let inside = self.balance(maps.endpoints, cluster);
            let outside = self.balance(maps.local_endpoints, local);
            members.push(Member::verdict(maps.short_circuit, key, inside, comment()));
            members.push(Member::verdict(maps.external_local, key, outside, comment()));
        }
        if let Some(verdict) = self.after_dnat() {
            members.push(Member::verdict(maps.after_dnat, key, verdict, comment()));
        }
        if let (Some(chain), true) = (self.remember(Masquerades::Nobody), self.targets().next().is_some()) {
            members.push(Member::verdict(maps.remember, key, Verdict::Goto(chain), comment()));
        }
        if let Some(affinity) = self.affinity {
            let lists = self.endpoint_lists().into_iter().filter(|(_, _, targets)| !targets.is_empty());
            members.extend(
                lists.map(|(map, set, _)| Member::affinity_id(map.affinity_ids(), key, affinity.id(set), comment())),
            );
        }
        members
    }

    /// The maps of endpoints the frontend fills, with what it puts there.
    pub fn endpoint_lists(&self) -> Vec<(EndpointMap, EndpointSet, &[Target])> {
        let maps = Maps::of(self);
        match &self.action {
            Action::Refuse | Action::Drop | Action::Relay(_) => Vec::new(),
            Action::Balance(set, targets) => vec![(maps.endpoints, *set, targets)],
            Action::ExternalLocal { cluster, local } => {
                vec![(maps.endpoints, EndpointSet::Cluster, cluster), (maps.local_endpoints, EndpointSet::Local, local)]
            }
        }
    }

    fn first_verdict(&self) -> Verdict {
        match &self.action {
            Action::Refuse => Verdict::Goto(ChainId::Refuse),
            Action::Drop => Verdict::Drop,
            Action::Relay(_) => Verdict::Return,
            Action::Balance(_, targets) => self.balance(Maps::of(self).endpoints, targets),
            Action::ExternalLocal { .. } if self.key.is_node_port() => Verdict::Goto(ChainId::NodeportExternalLocal),
            Action::ExternalLocal { .. } => Verdict::Goto(ChainId::ExternalLocal),
        }
    }

    fn balance(&self, map: EndpointMap, targets: &[Target]) -> Verdict {
        self.pick(map, targets).map_or(Verdict::Drop, |pick| Verdict::Goto(ChainId::Pick(pick)))
    }

    /// The chain that picks one of the endpoints in a map; `None` where there are none.
    pub fn pick_from(&self, map: EndpointMap) -> Option<Pick> {
        let lists = self.endpoint_lists().into_iter();
        lists.filter(|(of, ..)| *of == map).find_map(|(.., targets)| self.pick(map, targets))
    }

    fn pick(&self, map: EndpointMap, targets: &[Target]) -> Option<Pick> {
        if targets.is_empty() {
            return None;
        }
        let balance = self.spread.as_ref().map_or(Balance::Random, |spread| spread.balance_of(targets));
        let count = match &self.spread {
            Some(spread) => spread.slot_count(targets),
            None => targets.len() as u32 + u32::from(self.spare.get(map)),
        };
        let by = match balance {
            Balance::SourceIp => PickBy::SourceIp,
            Balance::SourceIpPort => PickBy::SourceIpPort,
            Balance::Random if self.affinity.is_some() => PickBy::Sticky,
            Balance::Random => PickBy::Random,
        };
        Some(Pick { map, by, count })
    }

    /// The chain that remembers clients, if any, with or without what masquerades them behind it.
    fn remember(&self, masquerades: Masquerades) -> Option<ChainId> {
        let seconds = self.affinity?.seconds;
        let external_local = matches!(self.action, Action::ExternalLocal { .. });
        Some(ChainId::Remember(Remember { nodeport: self.key.is_node_port(), external_local, masquerades, seconds }))
    }

    /// What is due after translation (specification 6.4). ClusterIPs are masqueraded by a rule for all of them.
    pub(super) fn after_dnat(&self) -> Option<Verdict> {
        let masquerade = match (&self.action, self.class) {
            (Action::Refuse | Action::Drop | Action::Relay(_), _) => return None,
            (_, Class::ClusterIp) => None,
            (Action::Balance(EndpointSet::Cluster, _), _) if self.direct => Some(Masquerades::Remote),
            (Action::Balance(EndpointSet::Cluster, _), _) => Some(Masquerades::Everybody),
            (Action::Balance(EndpointSet::Local, _) | Action::ExternalLocal { .. }, _) => Some(Masquerades::Own),
        };
        match masquerade {
            // A jump: the rule for all ClusterIPs comes behind it.
            None => self.remember(Masquerades::Nobody).map(Verdict::Jump),
            Some(masquerades) => Some(Verdict::Goto(self.remember(masquerades).or(masquerades.chain())?)),
        }
    }
}

/// The maps of a kind of frontend.
struct Maps {
    first: SetId,
    source_ranges: ChainId,
    allowed_services: SetId,
    allowed_sources: SetId,
    short_circuit: SetId,
    external_local: SetId,
    after_dnat: SetId,
    remember: SetId,
    endpoints: EndpointMap,
    local_endpoints: EndpointMap,
}

impl Maps {
    fn of(frontend: &Frontend) -> Self {
        if frontend.key.is_node_port() {
            Self {
                first: SetId::Nodeports,
                source_ranges: ChainId::NodeportSourceRanges,
                allowed_services: SetId::NodeportAllowedServices,
                allowed_sources: SetId::NodeportAllowedSources,
                short_circuit: SetId::NodeportShortCircuit,
                external_local: SetId::NodeportExternalLocal,
                after_dnat: SetId::NodeportAfterDnat,
                remember: SetId::NodeportRemember,
                endpoints: EndpointMap::Nodeport,
                local_endpoints: EndpointMap::NodeportLocal,
            }
        } else {
            Self {
                first: SetId::Services,
                source_ranges: ChainId::SourceRanges,
                allowed_services: SetId::AllowedServices,
                allowed_sources: SetId::AllowedSources,
                short_circuit: SetId::ShortCircuit,
                external_local: SetId::ExternalLocal,
                after_dnat: SetId::AfterDnat,
                remember: SetId::Remember,
                endpoints: EndpointMap::Address,
                local_endpoints: EndpointMap::AddressLocal,
            }
        }
    }
}
