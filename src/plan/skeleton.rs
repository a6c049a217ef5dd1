//! The rules. Their number depends on the settings and on how many different endpoint counts and affinity timeouts there
//! are, never on the number of Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{FamilySettings, NodePortAddresses, PodDetection};
use crate::model::Family;
use crate::ruleset::{ChainId, EndpointMap, Field, Masquerades, Pick, PickBy, Remember, Rule, SetId, Term, Verdict};

/// Key of an address frontend, before translation.
const FRONTEND: &[Field] = &[Field::DestinationAddress, Field::Protocol, Field::DestinationPort];
/// Key of a NodePort frontend, before translation.
const NODEPORT: &[Field] = &[Field::Protocol, Field::DestinationPort];
/// Key of an address frontend, after translation.
const ORIGINAL_FRONTEND: &[Field] = &[Field::OriginalAddress, Field::Protocol, Field::OriginalPort];
/// Key of a NodePort frontend, after translation.
const ORIGINAL_NODEPORT: &[Field] = &[Field::Protocol, Field::OriginalPort];

/// Key of an affinity record: the client, and the ID of Service port and endpoint set. `nft` wants to see the protocol where a
/// port is translated.
const RECORD: &[Field] = &[Field::SourceAddress, Field::Protocol, Field::Priority];

/// The rules of a chain.
pub fn rules(family: Family, settings: &FamilySettings, masquerade_all: bool, chain: ChainId) -> Vec<Rule> {
    match chain {
        // Nearly all connections come this way: they are spared the jump (benches/README.md).
        ChainId::Prerouting | ChainId::Dispatch => dispatch(family, settings),
        ChainId::Output => vec![vec![Term::Verdict(Verdict::Jump(ChainId::Dispatch))]],
        ChainId::Postrouting => postrouting(settings, masquerade_all),
        ChainId::Input => input(settings),
        ChainId::AfterDnat => after_dnat(settings, masquerade_all),
        ChainId::Refuse => refuse(settings),
        ChainId::SourceRanges => source_ranges(FRONTEND, SetId::AllowedSources, SetId::AllowedServices),
        ChainId::NodeportSourceRanges => {
            source_ranges(NODEPORT, SetId::NodeportAllowedSources, SetId::NodeportAllowedServices)
        }
        ChainId::ExternalLocal => external_local(settings, FRONTEND, SetId::ShortCircuit, SetId::ExternalLocal),
        ChainId::NodeportExternalLocal => {
            external_local(settings, NODEPORT, SetId::NodeportShortCircuit, SetId::NodeportExternalLocal)
        }
        ChainId::MasqueradeIt => vec![vec![Term::Masquerade]],
        ChainId::MasqueradeOwn => {
            let mut own = not_pod(settings);
            own.extend([local(Field::SourceAddress), Term::Masquerade]);
            vec![own, hairpin()]
        }
        ChainId::MasqueradeRemote => {
            let mut own = hairpin_of(Field::DestinationAddress);
            own.push(Term::Verdict(Verdict::Goto(ChainId::MasqueradeOwn)));
            vec![own, vec![Term::Masquerade]]
        }
        ChainId::Pick(pick) => pick_one(pick),
        ChainId::Remember(chain) => remember(settings, chain),
        ChainId::ResetArriving => vec![reset(&[Field::DestinationAddress, Field::DestinationPort])],
        ChainId::ResetOwn => vec![reset(&[Field::ReplyAddress, Field::ReplyPort])],
    }
}

/// Frontends by address go before NodePorts (specification 5); then come Service addresses nobody serves (6.5), unless
/// they are this node's own: no Service may close the node's other ports.
fn dispatch(family: Family, settings: &FamilySettings) -> Vec<Rule> {
    let daddr = Field::DestinationAddress;
    let mut nodeports = match &settings.node_ports {
        NodePortAddresses::Listed(_) => vec![member(daddr, false, SetId::NodeIps)],
        NodePortAddresses::AllLocal => {
            vec![Term::Prefix { field: daddr, negate: true, net: loopback(family) }, local(daddr)]
        }
    };
    nodeports.push(vmap(NODEPORT, SetId::Nodeports));
    let mut rules = vec![vec![vmap(FRONTEND, SetId::Services)], nodeports];
    rules.extend(settings.pings_to.into_iter().flat_map(pings));
    rules.extend([
        vec![member(daddr, false, SetId::ClusterIps), not_local(daddr), Term::Verdict(Verdict::Goto(ChainId::Refuse))],
        vec![member(daddr, false, SetId::ServiceCidrs), not_local(daddr), Term::Verdict(Verdict::Drop)],
    ]);
    rules
}

/// A packet of a translated connection to an endpoint that is gone. A client's own reset goes on: the endpoint may live.
fn reset(endpoint: &[Field]) -> Rule {
    let is_gone = Term::Member { key: endpoint.to_vec(), negate: false, set: SetId::Gone.into() };
    vec![Term::Translated, is_gone, Term::NoReset, Term::RejectWithReset]
}

/// A client does not give up an open connection because of an ICMP error.
fn refuse(settings: &FamilySettings) -> Vec<Rule> {
    let mut rules = vec![vec![Term::Reject]];
    if settings.cuts_flows {
        rules.insert(0, vec![Term::NoSyn, Term::RejectWithReset]);
    }
    rules
}

/// Service addresses answer echo requests. Those with an endpoint by way of this node's own address: `redirect` would take
/// the address of the interface that the packet came in by, and drop it where that has none, as pods' interfaces of Calico. The
/// ClusterIPs of the others are refused by the rule for all ClusterIPs, which follows.
fn pings(node_ip: IpAddr) -> [Rule; 2] {
    let daddr = Field::DestinationAddress;
    let sent_to = |set, verdict| vec![Term::EchoRequest, member(daddr, false, set), not_local(daddr), verdict];
    [
        sent_to(SetId::Pingable, Term::TranslateTo(node_ip)),
        sent_to(SetId::Unpingable, Term::Verdict(Verdict::Goto(ChainId::Refuse))),
    ]
}

/// Most connections need nothing more here: those of a pod to an endpoint that is neither on this node nor behind a
/// frontend whose connections are masqueraded or remembered. The packet's own addresses are enough to see that. The
/// original destination, which the next chain needs, is expensive to look up. Connections that need nothing match no
/// rule: a verdict for them would cost time (benches/README.md).
fn postrouting(settings: &FamilySettings, masquerade_all: bool) -> Vec<Rule> {
    let endpoint = member(Field::DestinationAddress, false, SetId::AfterDnatEndpoints);
    let who: Vec<Rule> = match masquerade_all {
        true => vec![Vec::new()],
        false => not_pod(settings).into_iter().chain([endpoint]).map(|condition| vec![condition]).collect(),
    };
    let go = [Term::Translated, Term::Verdict(Verdict::Goto(ChainId::AfterDnat))];
    who.into_iter().map(|condition| [condition, go.to_vec()].concat()).collect()
}

/// The original destination is still known from connection tracking, so no packet marks are needed (specification 6.4).
fn after_dnat(settings: &FamilySettings, masquerade_all: bool) -> Vec<Rule> {
    let mut rules = vec![vec![vmap(ORIGINAL_FRONTEND, SetId::AfterDnat)]];
    for mut others in masqueraded_clients(settings, masquerade_all) {
        others.extend([member(Field::OriginalAddress, false, SetId::ClusterIps), Term::Masquerade]);
        rules.push(others);
    }
    rules.push(vec![original_is_nodeport(settings), vmap(ORIGINAL_NODEPORT, SetId::NodeportAfterDnat)]);
    rules.push(hairpin());
    rules
}

/// Connections that end on this host never pass postrouting; their affinity records are written here. `masquerade` is
/// not allowed below this hook, hence maps of its own.
fn input(settings: &FamilySettings) -> Vec<Rule> {
    vec![
        vec![Term::Translated, vmap(ORIGINAL_FRONTEND, SetId::Remember)],
        vec![Term::Translated, original_is_nodeport(settings), vmap(ORIGINAL_NODEPORT, SetId::NodeportRemember)],
    ]
}

/// The source ranges are checked before anything else is decided (specification 5.5).
fn source_ranges(frontend: &[Field], sources: SetId, services: SetId) -> Vec<Rule> {
    let mut key = frontend.to_vec();
    key.push(Field::SourceAddress);
    vec![
        vec![Term::Member { key, negate: false, set: sources.into() }, vmap(frontend, services)],
        vec![Term::Verdict(Verdict::Drop)],
    ]
}

/// Specification 6.3: pods, then this node, then everybody else.
fn external_local(settings: &FamilySettings, key: &[Field], inside: SetId, outside: SetId) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(3);
    if let Some(pod) = pod(settings, false) {
        rules.push(vec![pod, vmap(key, inside)]);
    }
    rules.push(vec![local(Field::SourceAddress), vmap(key, inside)]);
    rules.push(vec![vmap(key, outside)]);
    rules
}

fn pick_one(pick: Pick) -> Vec<Rule> {
    let frontend = if pick.map.is_nodeport() { NODEPORT } else { FRONTEND };
    let mut rules = Vec::with_capacity(5);
    if pick.by == PickBy::Sticky {
        let record = Term::Translate { key: RECORD.to_vec(), map: SetId::Affinity.into() };
        rules.push(vec![whose_records(frontend, pick.map), record]);
    }
    // Where no endpoint has the slot the rule ends, and the next one tries.
    rules.extend(pick.tries().map(|modulus| {
        let slot = match pick.by {
            PickBy::Random | PickBy::Sticky => Field::RandomSlot(modulus),
            PickBy::SourceIp => Field::HashedSlot { with_port: false, modulus },
            PickBy::SourceIpPort => Field::HashedSlot { with_port: true, modulus },
        };
        vec![Term::Translate { key: [frontend, &[slot]].concat(), map: pick.map.set().into() }]
    }));
    // The endpoint is not in the map yet, while a table that was deleted is loaded anew: the client asks again.
    rules.push(vec![Term::Verdict(Verdict::Drop)]);
    rules
}

/// Runs after translation and before any masquerade statement: the source is still the client's.
fn remember(settings: &FamilySettings, chain: Remember) -> Vec<Rule> {
    let (asked, all, local) = match chain.nodeport {
        false => (ORIGINAL_FRONTEND, EndpointMap::Address, EndpointMap::AddressLocal),
        true => (ORIGINAL_NODEPORT, EndpointMap::Nodeport, EndpointMap::NodeportLocal),
    };
    let write = |mut conditions: Rule, map| {
        let value = vec![Field::DestinationAddress, Field::DestinationPort];
        conditions.extend([
            whose_records(asked, map),
            Term::Update { map: SetId::Affinity.into(), key: RECORD.to_vec(), timeout_seconds: chain.seconds, value },
        ]);
        conditions
    };
    let mut rules = if chain.external_local {
        let mut rules: Vec<Rule> = internal_clients(settings).into_iter().map(|client| write(client, all)).collect();
        rules.push(write(external_clients(settings), local));
        rules
    } else {
        vec![write(Vec::new(), all)]
    };
    // A rule of its own: the ones above end early where the map is full.
    rules.push(vec![Term::ClearPriority]);
    match chain.masquerades {
        Masquerades::Nobody => {}
        Masquerades::Everybody => rules.push(vec![Term::Masquerade]),
        Masquerades::Own => rules.push(vec![Term::Verdict(Verdict::Goto(ChainId::MasqueradeOwn))]),
        Masquerades::Remote => rules.push(vec![Term::Verdict(Verdict::Goto(ChainId::MasqueradeRemote))]),
    }
    rules
}

/// Puts the ID of Service port and endpoint set into the priority, or ends the rule: so a stale one is never used. The
/// priority is the one place of a packet where `nft` can keep 32 bits that come from a map. Routing sets it anew where a
/// packet is forwarded (IPv4), and the chain that remembers the client clears it.
fn whose_records(frontend: &[Field], map: EndpointMap) -> Term {
    Term::SetPriority { key: frontend.to_vec(), map: map.affinity_ids().into() }
}

/// After translation: the clients [`external_local`] has given an endpoint of the cluster set, as conditions for a rule
/// each. More than one may hold.
fn internal_clients(settings: &FamilySettings) -> Vec<Rule> {
    let mut clients: Vec<Rule> = pod(settings, false).into_iter().map(|pod| vec![pod]).collect();
    clients.push(vec![local(Field::SourceAddress)]);
    if detects_by_interface(settings) {
        // As in `masqueraded_clients`.
        clients.push(vec![Term::Arrived { negate: true }]);
    }
    clients
}

/// The clients that [`external_local`] has given an endpoint of the local set, as one condition.
fn external_clients(settings: &FamilySettings) -> Rule {
    let mut client = if detects_by_interface(settings) { vec![Term::Arrived { negate: false }] } else { Vec::new() };
    client.extend(not_pod(settings));
    client.push(not_local(Field::SourceAddress));
    client
}

/// Was the connection made to an address that answers NodePorts? Where all local addresses do, the routing table can no
/// longer be asked about the original one: then everything that is not a ClusterIP may be (external and load balancer
/// addresses were handled before).
fn original_is_nodeport(settings: &FamilySettings) -> Term {
    match settings.node_ports {
        NodePortAddresses::Listed(_) => member(Field::OriginalAddress, false, SetId::NodeIps),
        NodePortAddresses::AllLocal => member(Field::OriginalAddress, true, SetId::ClusterIps),
    }
}

fn hairpin() -> Rule {
    let mut rule = hairpin_of(Field::SourceAddress);
    rule.push(Term::Masquerade);
    rule
}

/// The endpoint is on this node and has this address. With its own one that means: it is on this node.
fn hairpin_of(address: Field) -> Rule {
    let key = vec![address, Field::DestinationAddress];
    vec![Term::Member { key, negate: false, set: SetId::Hairpin.into() }]
}

fn pod(settings: &FamilySettings, negate: bool) -> Option<Term> {
    match &settings.pods {
        PodDetection::None => None,
        PodDetection::Source(net) => Some(Term::Prefix { field: Field::SourceAddress, negate, net: *net }),
        PodDetection::Interface(name) => Some(Term::Interface { negate, name: name.clone(), prefix: false }),
        PodDetection::InterfacePrefix(name) => Some(Term::Interface { negate, name: name.clone(), prefix: true }),
    }
}

/// Whose connections to ClusterIPs are masqueraded (specification 6.4), as conditions for a rule each.
fn masqueraded_clients(settings: &FamilySettings, masquerade_all: bool) -> Vec<Rule> {
    match &settings.pods {
        _ if masquerade_all => vec![Vec::new()],
        PodDetection::None => Vec::new(),
        PodDetection::Source(_) => vec![not_pod(settings)],
        // In postrouting the input interface of a frame that stays on its bridge is no longer known (br_netfilter), just
        // as for this host's own packets: tell them apart by the source.
        PodDetection::Interface(_) | PodDetection::InterfacePrefix(_) => {
            let (mut arrived, mut own) = (vec![Term::Arrived { negate: false }], not_pod(settings));
            arrived.extend(not_pod(settings));
            own.push(local(Field::SourceAddress));
            vec![arrived, own]
        }
    }
}

fn detects_by_interface(settings: &FamilySettings) -> bool {
    matches!(settings.pods, PodDetection::Interface(_) | PodDetection::InterfacePrefix(_))
}

fn not_pod(settings: &FamilySettings) -> Rule {
    pod(settings, true).into_iter().collect()
}

fn member(field: Field, negate: bool, set: SetId) -> Term {
    Term::Member { key: vec![field], negate, set: set.into() }
}

fn local(field: Field) -> Term {
    Term::Local { field, negate: false }
}

fn not_local(field: Field) -> Term {
    Term::Local { field, negate: true }
}

fn vmap(key: &[Field], map: SetId) -> Term {
    Term::VerdictMap { key: key.to_vec(), map: map.into() }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    }
}

#[cfg(test)]
#[path = "skeleton_tests.rs"]
mod tests;
