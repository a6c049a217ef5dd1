//! From the kernel's instructions back to rules: the inverse of [`super::encode_rule`].

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::code::{IPV4_PROTOCOL, TCP_SYN};
use super::{Expr, Field, Listing, Register, Rule, Table, Term};
use crate::model::Family;

/// The rule some code stands for; `None` when it is not code that [`super::encode_rule`] makes.
pub fn decode_rule(family: Family, code: &[Expr]) -> Option<Rule> {
    let mut rule = Rule::new();
    let mut rest = code;
    while !rest.is_empty() {
        let (term, used) = decode_term(family, rest)?;
        rule.push(term);
        rest = &rest[used..];
    }
    // What was read must be exactly what would be written.
    (super::encode_rule(family, &rule) == code).then_some(rule)
}

impl Table {
    /// The table in the words of `nft`, and what of it cannot be said so: chains with rules that are not ours, and
    /// everything foreign.
    pub fn listing(&self, family: Family) -> (Listing, Vec<String>) {
        let mut listing = Listing::new(family, &self.names);
        let mut unknown: Vec<String> = self.foreign.iter().map(ToString::to_string).collect();
        for (chain, code) in &self.chains {
            let rules: Vec<Rule> = code.iter().filter_map(|rule| decode_rule(family, rule)).collect();
            if rules.len() != code.len() {
                unknown.push(format!("chain {chain}"));
            }
            listing.chains.push((*chain, rules));
        }
        for (set, elements) in &self.sets {
            listing.sets.insert(self.names.of(*set), elements.values().map(|element| (element.key, element)).collect());
        }
        listing.sizes = self.sizes.iter().map(|(set, size)| (self.names.of(*set), *size)).collect();
        (listing, unknown)
    }
}

/// The first term of some code, and how many instructions it takes.
fn decode_term(family: Family, code: &[Expr]) -> Option<(Term, usize)> {
    match code {
        [Expr::Immediate(verdict), ..] => return Some((Term::Verdict(*verdict), 1)),
        [Expr::MasqueradeFullyRandom, ..] => return Some((Term::Masquerade, 1)),
        [Expr::RejectPortUnreachable, ..] => return Some((Term::Reject, 1)),
        [Expr::RejectTcpReset, ..] => return Some((Term::RejectWithReset, 1)),
        [Expr::L4Proto { .. }, Expr::Compare { .. }, Expr::TransportHeader { .. }, Expr::Mask { mask, .. }, ..] => {
            return Some((if *mask == [TCP_SYN] { Term::NoSyn } else { Term::NoReset }, 5));
        }
        [Expr::CtStatus { .. }, Expr::Mask { .. }, Expr::Compare { .. }, ..] => return Some((Term::Translated, 3)),
        [Expr::InterfaceIndex { .. }, Expr::Compare { negate, .. }, ..] => {
            return Some((Term::Arrived { negate: !negate }, 2));
        }
        [Expr::Value { .. }, Expr::SetPriority { .. }, ..] => return Some((Term::ClearPriority, 2)),
        [Expr::Value { data, .. }, Expr::DnatAddress { .. }, ..] => {
            return Some((Term::TranslateTo(address(data)?), 2));
        }
        [
            Expr::L4Proto { .. },
            Expr::Compare { .. },
            Expr::TransportHeader { offset: 0, .. },
            Expr::Compare { .. },
            ..,
        ] => {
            return Some((Term::EchoRequest, 4));
        }
        [Expr::AddressType { source, .. }, Expr::Compare { negate, .. }, ..] => {
            let field = if *source { Field::SourceAddress } else { Field::DestinationAddress };
            return Some((Term::Local { field, negate: *negate }, 2));
        }
        [Expr::InterfaceName { .. }, Expr::Compare { negate, data, .. }, ..] => {
            let prefix = data.last() != Some(&0);
            let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8(name.to_vec()).ok()?;
            return Some((Term::Interface { negate: *negate, name, prefix }, 2));
        }
        _ => {}
    }
    let (mut loads, mut used) = (Vec::<(Register, Field)>::new(), 0);
    for expr in code {
        match (load(family, expr), expr) {
            (Some(loaded), _) => loads.push(loaded),
            (None, Expr::Hash { from, modulus, to, .. }) => {
                // Stands for what it hashes.
                let hashed = loads.iter().position(|(register, _)| register == from)?;
                let with_port = loads.len() - hashed == 2;
                loads.truncate(hashed);
                loads.push((*to, Field::HashedSlot { with_port, modulus: *modulus }));
            }
            (None, _) => break,
        }
        used += 1;
    }
    let key: Vec<Field> = loads.iter().map(|(_, field)| *field).collect();
    match (&code[used..], key.as_slice()) {
        ([Expr::Mask { mask, .. }, Expr::Compare { negate, data, .. }, ..], [field]) => {
            let net = net(data, mask)?;
            Some((Term::Prefix { field: *field, negate: *negate, net }, used + 2))
        }
        ([Expr::Compare { negate, data, .. }, ..], [field]) => {
            // Whole bytes of the address are compared without a mask.
            let (mut address, mut mask) = (data.clone(), vec![0xff; data.len()]);
            address.resize(family.address_len(), 0);
            mask.resize(family.address_len(), 0);
            let net = net(&address, &mask)?;
            Some((Term::Prefix { field: *field, negate: *negate, net }, used + 1))
        }
        ([Expr::Lookup { set, negate, .. }, ..], _) => {
            Some((Term::Member { key, negate: *negate, set: *set }, used + 1))
        }
        ([Expr::VerdictMap { map, .. }, ..], _) => Some((Term::VerdictMap { key, map: *map }, used + 1)),
        ([Expr::Map { map, .. }, Expr::SetPriority { .. }, ..], _) => {
            Some((Term::SetPriority { key, map: *map }, used + 2))
        }
        ([Expr::Map { map, .. }, Expr::Dnat { .. }, ..], _) => Some((Term::Translate { key, map: *map }, used + 2)),
        ([Expr::Update { map, value, timeout_seconds, .. }, ..], _) => {
            let split = loads.iter().position(|(register, _)| register == value)?;
            let (key, value) = key.split_at(split);
            let (key, value) = (key.to_vec(), value.to_vec());
            Some((Term::Update { map: *map, key, timeout_seconds: *timeout_seconds, value }, used + 1))
        }
        _ => None,
    }
}

fn load(family: Family, expr: &Expr) -> Option<(Register, Field)> {
    let destination_offset = if family == Family::Ipv4 { 16 } else { 24 };
    Some(match expr {
        Expr::NetworkHeader { offset: IPV4_PROTOCOL, len: 1, to } if family == Family::Ipv4 => (*to, Field::Protocol),
        Expr::NetworkHeader { offset, to, .. } if *offset == destination_offset => (*to, Field::DestinationAddress),
        Expr::NetworkHeader { to, .. } => (*to, Field::SourceAddress),
        Expr::TransportHeader { to, .. } => (*to, Field::DestinationPort),
        Expr::L4Proto { to } => (*to, Field::Protocol),
        Expr::OriginalAddress { to } => (*to, Field::OriginalAddress),
        Expr::OriginalPort { to } => (*to, Field::OriginalPort),
        Expr::ReplyAddress { to } => (*to, Field::ReplyAddress),
        Expr::ReplyPort { to } => (*to, Field::ReplyPort),
        Expr::Priority { to } => (*to, Field::Priority),
        Expr::Random { modulus, to } => (*to, Field::RandomSlot(*modulus)),
        _ => return None,
    })
}

fn net(address: &[u8], mask: &[u8]) -> Option<IpNet> {
    let len = mask.iter().map(|byte| byte.leading_ones()).sum::<u32>() as u8;
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        return Ipv4Net::new(octets.into(), len).ok().map(IpNet::V4);
    }
    let octets = <[u8; 16]>::try_from(address).ok()?;
    Ipv6Net::new(octets.into(), len).ok().map(IpNet::V6)
}

/// An address from its bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_code_is_not_a_rule() {
        assert_eq!(decode_rule(Family::Ipv4, &[Expr::L4Proto { to: 0 }]), None);
        assert_eq!(decode_rule(Family::Ipv4, &[Expr::Compare { register: 0, negate: false, data: vec![1] }]), None);
    }
}
