//! The interpreter.

use std::net::IpAddr;

use super::{End, Host, Packet, Request, StepChain, Trace, TraceStep};
use crate::model::Protocol;
use crate::plan::Target;
use crate::render::{element_text, rule_text};
use crate::ruleset::{
    Bytes, ChainId, Element, Field, Listing, Rule, SetId, SetName, SlotHash, Term, Value, Verdict, hashed_slot,
};

/// A packet on its way, with what conntrack remembers of it.
#[derive(Debug, Clone)]
struct PacketState {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    translated: bool,
}

/// What a chain, or a rule, did with a packet.
enum Outcome {
    /// The next rule is up.
    Next,
    /// Back to the calling chain.
    Return,
    /// A part of such packets has an endpoint.
    Translated(Shares),
    /// An echo request, to this node.
    Answered,
    Reset,
    Rejected,
    Dropped,
    Masqueraded,
}

/// Endpoints that packets are sent to, each with its share of them.
struct Shares {
    targets: Vec<(Target, f64)>,
    /// The share that has no endpoint.
    rest: f64,
    /// What happens with these, if not the next rule decides it.
    end_of_rest: Option<End>,
}

impl Shares {
    /// Has the rest take part in what another rule did with it.
    fn divide_rest(&mut self, of_rest: Shares) {
        for (target, share) in of_rest.targets {
            self.add(target, share * self.rest);
        }
        self.rest *= of_rest.rest;
        self.end_of_rest = of_rest.end_of_rest;
    }

    fn add(&mut self, target: Target, share: f64) {
        match self.targets.iter_mut().find(|(known, _)| *known == target) {
            Some((_, sum)) => *sum += share,
            None => self.targets.push((target, share)),
        }
    }
}

/// The slots that are left to the ordinary path.
#[derive(Debug)]
pub(super) struct Rest {
    /// What finds them.
    pub(super) hash: SlotHash,
    /// They are equally likely.
    pub(super) slots: Vec<u32>,
}

impl Rest {
    /// Whether they are found by this hash.
    fn is_of(&self, with_port: bool, modulus: u32) -> bool {
        self.hash == SlotHash { modulus, ports: with_port }
    }
}

pub(super) struct Walk<'a> {
    listing: &'a Listing,
    host: &'a Host,
    packet: &'a Packet,
    trace: Trace,
    /// The packet's priority, which rules set for each other.
    priority: u32,
    /// The slots that have not been handed on to other nodes before.
    rest: Option<&'a Rest>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(listing: &'a Listing, host: &'a Host, packet: &'a Packet, rest: Option<&'a Rest>) -> Self {
        Self { listing, host, packet, trace: Trace::default(), priority: 0, rest }
    }

    pub(super) fn run(mut self) -> Trace {
        let from_host = self.host.is_local(self.packet.source);
        let hook = if from_host { ChainId::Output } else { ChainId::Prerouting };
        let state = PacketState {
            source: self.packet.source,
            destination: self.packet.destination,
            port: self.packet.request.port(),
            translated: false,
        };
        match self.chain(hook, &state) {
            Outcome::Answered => self.end(End::Answered, 1.0),
            Outcome::Reset => self.end(End::Reset, 1.0),
            Outcome::Rejected => self.end(End::Rejected, 1.0),
            Outcome::Dropped => self.end(End::Dropped, 1.0),
            Outcome::Translated(shares) => {
                for (target, share) in shares.targets {
                    let end = match self.is_reset(from_host, &state, target) {
                        true => End::Reset,
                        false => End::Translated { target, masquerade: self.leave(from_host, &state, target) },
                    };
                    self.end(end, share);
                }
                // A sound table has no rest.
                self.end(shares.end_of_rest.unwrap_or(End::Untouched), shares.rest);
            }
            Outcome::Next | Outcome::Return | Outcome::Masqueraded => self.end(End::Untouched, 1.0),
        }
        self.trace.ends.sort_by_key(|(end, _)| *end);
        self.trace
    }

    fn end(&mut self, end: End, share: f64) {
        if share <= f64::EPSILON {
            return;
        }
        match self.trace.ends.iter_mut().find(|(known, _)| *known == end) {
            Some((_, sum)) => *sum += share,
            None => self.trace.ends.push((end, share)),
        }
    }

    /// Whether a translated packet is answered with a reset, which is decided before it is routed.
    fn is_reset(&mut self, from_host: bool, before: &PacketState, target: Target) -> bool {
        let state = PacketState { destination: target.ip, port: target.port, translated: true, ..before.clone() };
        let hook = if from_host { ChainId::ResetOwn } else { ChainId::ResetArriving };
        matches!(self.chain(hook, &state), Outcome::Reset)
    }

    /// Whether a translated packet is masqueraded on its way out. One that ends on this host never passes postrouting,
    /// unless it began here too (then it leaves through the loopback interface).
    fn leave(&mut self, from_host: bool, before: &PacketState, target: Target) -> bool {
        let state = PacketState { destination: target.ip, port: target.port, translated: true, ..before.clone() };
        let hook = if from_host || !self.host.is_local(target.ip) { ChainId::Postrouting } else { ChainId::Input };
        matches!(self.chain(hook, &state), Outcome::Masqueraded)
    }

    fn chain(&mut self, chain: ChainId, state: &PacketState) -> Outcome {
        let Some(rules) = self.listing.rules(chain) else { return Outcome::Next };
        let mut shares = Shares { targets: Vec::new(), rest: 1.0, end_of_rest: None };
        for rule in rules {
            match self.rule(chain, rule, state) {
                Outcome::Next => {}
                Outcome::Return => break,
                Outcome::Translated(of_rest) => shares.divide_rest(of_rest),
                outcome if shares.targets.is_empty() => return outcome,
                Outcome::Answered => shares.end_of_rest = Some(End::Answered),
                Outcome::Reset => shares.end_of_rest = Some(End::Reset),
                Outcome::Rejected => shares.end_of_rest = Some(End::Rejected),
                Outcome::Dropped => shares.end_of_rest = Some(End::Dropped),
                Outcome::Masqueraded => shares.end_of_rest = Some(End::Untouched),
            }
            if shares.rest <= f64::EPSILON || shares.end_of_rest.is_some() {
                break;
            }
        }
        if shares.targets.is_empty() { Outcome::Next } else { Outcome::Translated(shares) }
    }

    fn rule(&mut self, chain: ChainId, rule: &Rule, state: &PacketState) -> Outcome {
        let mut element = None;
        for term in rule {
            let holds = match term {
                Term::Prefix { field, negate, net } => {
                    let ip = if *field == Field::SourceAddress { state.source } else { state.destination };
                    net.contains(&ip) != *negate
                }
                Term::Interface { negate, name, prefix } => {
                    let arrived = self.packet.interface.as_deref().unwrap_or_default();
                    let matches = if *prefix { arrived.starts_with(name.as_str()) } else { arrived == name };
                    matches != *negate
                }
                Term::Arrived { negate } => {
                    (self.packet.interface.is_some() || !self.host.is_local(self.packet.source)) != *negate
                }
                Term::Member { key, negate, set } => {
                    let found = self.find(*set, key, 0, state);
                    let holds = found.is_some() != *negate;
                    element = found.or(element);
                    holds
                }
                Term::Local { field, negate } => {
                    let ip = if *field == Field::SourceAddress { state.source } else { state.destination };
                    self.host.is_local(ip) != *negate
                }
                Term::Translated => state.translated,
                Term::NoReset => matches!(self.packet.request, Request::Connect { protocol: Protocol::Tcp, .. }),
                // What is traced is a first packet.
                Term::NoSyn => false,
                Term::EchoRequest => self.packet.request == Request::Echo,
                Term::TranslateTo(_) => {
                    self.step(chain, rule, element);
                    return Outcome::Answered;
                }
                Term::SetPriority { key, map } => match self.find(*map, key, 0, state) {
                    Some((_, Element { value: Value::Data(id), .. })) => {
                        self.priority = id.u32_host_at(0).unwrap_or_default();
                        true
                    }
                    _ => false,
                },
                Term::ClearPriority => {
                    self.priority = 0;
                    true
                }
                Term::Update { .. } => true,
                Term::Verdict(verdict) => return self.verdict(chain, rule, element, *verdict, state),
                Term::VerdictMap { key, map } => match self.find(*map, key, 0, state) {
                    Some((set, found)) => match found.value {
                        Value::Verdict(verdict) => {
                            return self.verdict(chain, rule, Some((set, found)), verdict, state);
                        }
                        _ => false,
                    },
                    None => false,
                },
                Term::Translate { key, map } => return self.translate(chain, rule, key, *map, state),
                Term::Masquerade => {
                    self.step(chain, rule, element);
                    return Outcome::Masqueraded;
                }
                Term::RejectWithReset => {
                    self.step(chain, rule, element);
                    return Outcome::Reset;
                }
                Term::Reject => {
                    self.step(chain, rule, element);
                    return Outcome::Rejected;
                }
            };
            if !holds {
                return Outcome::Next;
            }
        }
        Outcome::Next
    }

    fn verdict(
        &mut self,
        chain: ChainId,
        rule: &Rule,
        element: Option<(SetId, Element)>,
        verdict: Verdict,
        state: &PacketState,
    ) -> Outcome {
        self.step(chain, rule, element);
        match verdict {
            Verdict::Drop => Outcome::Dropped,
            Verdict::Return => Outcome::Return,
            Verdict::Jump(to) => match self.chain(to, state) {
                Outcome::Return => Outcome::Next,
                outcome => outcome,
            },
            Verdict::Goto(to) => match self.chain(to, state) {
                Outcome::Next => Outcome::Return,
                outcome => outcome,
            },
        }
    }

    fn translate(&mut self, chain: ChainId, rule: &Rule, key: &[Field], map: SetName, state: &PacketState) -> Outcome {
        let slots = self.slots(key, state);
        let count = slots.len() as f64;
        let mut shares = Shares { targets: Vec::new(), rest: 0.0, end_of_rest: None };
        let mut missing = slots.len();
        for slot in slots {
            let Some((set, element)) = self.find(map, key, slot, state) else { continue };
            let Value::Data(data) = element.value else { continue };
            let (ip, at) = if data.as_slice().len() == 8 { (data.ipv4_at(0), 4) } else { (data.ipv6_at(0), 16) };
            let (Some(ip), Some(port)) = (ip, data.u16_at(at)) else { continue };
            missing -= 1;
            let target = Target { ip, port };
            // Of an endpoint with several slots the first stands for all.
            if shares.targets.iter().all(|(known, _)| *known != target) {
                self.step(chain, rule, Some((set, element)));
            }
            shares.add(target, 1.0 / count);
        }
        if shares.targets.is_empty() {
            return Outcome::Next;
        }
        shares.rest = missing as f64 / count;
        Outcome::Translated(shares)
    }

    /// The slots a key can have for this packet, equally likely.
    fn slots(&self, key: &[Field], state: &PacketState) -> Vec<u32> {
        let slot = key.iter().find_map(|field| match field {
            Field::RandomSlot(modulus) => Some((0..*modulus).collect()),
            Field::HashedSlot { with_port, modulus } => {
                let client = Bytes::new().ip(state.source);
                let hashed = match (with_port, self.packet.source_port) {
                    (false, _) => client,
                    (true, Some(port)) => client.u16(port),
                    (true, None) => {
                        let rest = self.rest.filter(|rest| rest.is_of(*with_port, *modulus));
                        return Some(rest.map_or_else(|| (0..*modulus).collect(), |rest| rest.slots.clone()));
                    }
                };
                Some(vec![hashed_slot(hashed.as_slice(), *modulus)])
            }
            _ => None,
        });
        slot.unwrap_or_else(|| vec![0])
    }

    fn find(&self, name: SetName, key: &[Field], slot: u32, state: &PacketState) -> Option<(SetId, Element)> {
        let key = key.iter().fold(Bytes::new(), |bytes, field| match field {
            Field::SourceAddress => bytes.ip(state.source),
            Field::DestinationAddress => bytes.ip(state.destination),
            Field::Protocol => bytes.u8(self.packet.request.number(self.listing.family)),
            Field::DestinationPort => bytes.u16(state.port),
            Field::OriginalAddress => bytes.ip(self.packet.destination),
            Field::OriginalPort => bytes.u16(self.packet.request.port()),
            Field::ReplyAddress => bytes.ip(state.destination),
            Field::ReplyPort => bytes.u16(state.port),
            Field::Priority => bytes.u32_host(self.priority),
            Field::RandomSlot(_) | Field::HashedSlot { .. } => bytes.u32_host(slot),
        });
        self.listing.find(name, &key).map(|element| (name.set, element.clone()))
    }

    fn step(&mut self, chain: ChainId, rule: &Rule, element: Option<(SetId, Element)>) {
        let family = self.listing.family;
        let chain = StepChain::Table(chain);
        let is_new = |text: &String| {
            let mut steps = self.trace.steps.iter();
            !steps.any(|step| step.chain == chain && step.element.as_ref() == Some(text))
        };
        // Rules that try one after the other find the same endpoints.
        let element = element.map(|(set, element)| element_text(family, set, &element)).filter(is_new);
        let step = TraceStep { chain, rule: rule_text(family, rule), element };
        if !self.trace.steps.contains(&step) {
            self.trace.steps.push(step);
        }
    }
}
