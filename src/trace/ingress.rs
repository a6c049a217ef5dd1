//! What comes before the tables of `ip` and `ip6`: packets that are handed on to the node of their endpoint.

use std::net::IpAddr;

use super::walk::{Rest, Walk};
use super::{End, Host, Packet, Request, StepChain, Trace, TraceStep};
use crate::model::Family;
use crate::render::{direct_element_text, direct_rule_text};
use crate::ruleset::{
    Bytes, DirectChain, DirectElement, DirectFrontend, DirectMap, DirectRule, DirectTable, Hop, Listing, SlotHash,
    hashed_slot,
};

/// Where a packet comes in.
#[derive(Debug, Clone, Copy)]
pub struct Ingress<'a> {
    /// The table `netdev portway`.
    pub table: &'a DirectTable,
    /// The index of the interface by which this host would answer the sender itself; only a strict `rp_filter` makes it matter.
    pub way_back: Option<u32>,
}

/// Follows a packet from the interface it comes in on.
pub fn trace_at_ingress(ingress: Ingress<'_>, listing: &Listing, host: &Host, packet: &Packet) -> Trace {
    let mut trace = Trace::default();
    let Some(found) = find(ingress, listing.family, packet, &mut trace) else {
        return Walk::new(listing, host, packet, None).run();
    };
    let slots = possible_slots(found.frontend.hash, packet);
    let share = 1.0 / slots.len() as f64;
    let mut rest = Rest { hash: found.frontend.hash, slots: Vec::new() };
    for slot in slots {
        match found.hop(ingress, listing.family, slot, &mut trace) {
            Some(node) => add(&mut trace, End::HandedOn { node }, share),
            None => rest.slots.push(slot),
        }
    }
    if !rest.slots.is_empty() {
        let others = Walk::new(listing, host, packet, Some(&rest)).run();
        let left = share * rest.slots.len() as f64;
        others.ends.into_iter().for_each(|(end, part)| add(&mut trace, end, part * left));
        trace.steps.extend(others.steps);
    }
    trace.ends.sort_by_key(|(end, _)| *end);
    trace
}

fn add(trace: &mut Trace, end: End, share: f64) {
    match trace.ends.iter_mut().find(|(known, _)| *known == end) {
        Some((_, sum)) => *sum += share,
        None => trace.ends.push((end, share)),
    }
}

/// A frontend whose packets leave the ordinary way.
struct Found<'a> {
    key: Bytes,
    frontend: &'a DirectFrontend,
    chain: DirectChain,
}

fn find<'a>(ingress: Ingress<'a>, family: Family, packet: &Packet, trace: &mut Trace) -> Option<Found<'a>> {
    let Request::Connect { protocol, port } = packet.request else { return None };
    let arrived = packet.interface.as_deref()?;
    let (device, _) = ingress.table.devices.iter().find(|(_, name)| &***name == arrived)?;
    let key = Bytes::new().ip(packet.destination).u8(protocol.number()).u16(port);
    let chain = DirectChain::Ingress(*device);
    let rule = *ingress.table.rules(chain).iter().find(|rule| **rule == DirectRule::Leave(family))?;
    let frontend = ingress.table.frontends.get(&(family, key))?;
    let (map, element) = frontend.entry(family, &key);
    step(trace, ingress.table, chain, rule, Some((map, &element)));
    let forward =
        ingress.table.chains().into_iter().find(|chain| (chain.family, chain.hash) == (family, frontend.hash))?;
    Some(Found { key, frontend, chain: DirectChain::Forward(forward) })
}

fn possible_slots(hash: SlotHash, packet: &Packet) -> Vec<u32> {
    let client = Bytes::new().ip(packet.source);
    let hashed = match (hash.ports, packet.source_port) {
        (false, _) => client,
        (true, Some(port)) => client.u16(port),
        (true, None) => return (0..hash.modulus).collect(),
    };
    vec![hashed_slot(hashed.as_slice(), hash.modulus)]
}

impl Found<'_> {
    /// The node that a slot's packets are handed on to.
    fn hop(&self, ingress: Ingress<'_>, family: Family, slot: u32, trace: &mut Trace) -> Option<IpAddr> {
        let hop: Hop = (*self.frontend.slots.get(slot as usize)?)?;
        let takes = |rule: &DirectRule| match rule {
            DirectRule::HandOn { device, strict, .. } => {
                *device == hop.device && (!strict || ingress.way_back == Some(*device))
            }
            // The packet is whole, and for this host.
            _ => false,
        };
        let rule = ingress.table.rules(self.chain).into_iter().find(takes)?;
        let (map, element) = hop.element(family, &self.key, slot as usize);
        // Of the slots that lead to a node the first stands for all.
        if !trace.ends.iter().any(|(end, _)| *end == End::HandedOn { node: hop.address }) {
            step(trace, ingress.table, self.chain, rule, Some((map, &element)));
        }
        Some(hop.address)
    }
}

fn step(
    trace: &mut Trace,
    table: &DirectTable,
    chain: DirectChain,
    rule: DirectRule,
    element: Option<(DirectMap, &DirectElement)>,
) {
    trace.steps.push(TraceStep {
        chain: StepChain::Direct(table.chain_name(chain)),
        rule: direct_rule_text(table, rule),
        element: element.map(|(map, element)| direct_element_text(map, element)),
    });
}
