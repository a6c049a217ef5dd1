//! The rules of the table `netdev portway` as the kernel's instructions, written and read back.

use nftnl::nftnl_sys as sys;

use crate::ffi::{Expression, Rule};
use crate::model::Family;
use crate::ruleset::{DirectMap, DirectRule, DirectTable, Expr, ForwardChain, HASH_SEED, Register, Verdict};
use crate::wire::abi::{self, expr as x};
use crate::wire::attr::{Attr, Attrs};
use crate::wire::expr;

/// The kernel's `PACKET_HOST`: a packet that is addressed to this host.
const PACKET_HOST: u8 = 0;
/// More fragments follow, or it is not the first one.
const FRAGMENT: u16 = 0x3fff;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Code {
    /// One that rules of other tables have, too.
    Plain(Expr),
    /// Loads what a key of the packet's meta data says.
    Meta { key: u32, to: Register },
    /// Loads the index of the interface by which the way back to the sender leaves.
    WayBack { to: Register },
    /// Issues the verdict of the key, or ends the rule.
    VerdictMap { map: String, key: Register },
    /// Loads the value of the key, or ends the rule.
    Map { map: String, key: Register, to: Register },
    /// Hands the packet on to a neighbour behind an interface. The kernel lowers the TTL, so nothing goes in circles for ever.
    Forward { device: Register, address: Register, family: Family },
}

/// Appends a rule's instructions.
pub(super) fn write(rule: &mut Rule, code: &[Code]) {
    code.iter().for_each(|code| rule.add(encode(code)));
}

/// The instructions of a rule, as `nft` would write them.
pub(super) fn code(table: &DirectTable, rule: DirectRule) -> Vec<Code> {
    match rule {
        // `ip daddr . ip protocol . th dport vmap @frontends`.
        DirectRule::Leave(family) => {
            let mut code = of_family(family);
            load_frontend(family, 0, &mut code);
            code.push(Code::VerdictMap { map: table.name(DirectMap::Frontends(family)), key: 0 });
            code
        }
        // `meta pkttype != host return`.
        DirectRule::SkipOthers => vec![
            Code::Meta { key: x::META_PKTTYPE, to: 0 },
            Code::Plain(Expr::Compare { register: 0, negate: true, data: vec![PACKET_HOST] }),
            Code::Plain(Expr::Immediate(Verdict::Return)),
        ],
        // `ip frag-off & 0x3fff != 0 return`.
        DirectRule::SkipFragments => {
            let mut code = of_family(Family::Ipv4);
            code.extend(
                [
                    Expr::NetworkHeader { offset: 6, len: 2, to: 0 },
                    Expr::Mask { register: 0, mask: FRAGMENT.to_be_bytes().to_vec() },
                    Expr::Compare { register: 0, negate: true, data: vec![0, 0] },
                    Expr::Immediate(Verdict::Return),
                ]
                .map(Code::Plain),
            );
            code
        }
        DirectRule::HandOn { chain, device, strict } => hand_on(table, chain, device, strict),
    }
}

/// `fwd ip to ip daddr . ip protocol . th dport . jhash ip saddr ... map @nodes-eth0 device "eth0"`.
fn hand_on(table: &DirectTable, ForwardChain { family, hash }: ForwardChain, device: u32, strict: bool) -> Vec<Code> {
    const DEVICE: Register = 0;
    // As `nft` does it in IPv4. For IPv6 its way would take more registers than there are, and it gives up.
    let (key_at, hashed_behind) = if family == Family::Ipv4 { (4, 5) } else { (1, 1) };
    let mut code = Vec::new();
    let index = device.to_ne_bytes().to_vec();
    if strict {
        code.push(Code::WayBack { to: DEVICE });
        code.push(Code::Plain(Expr::Compare { register: DEVICE, negate: false, data: index.clone() }));
    }
    code.extend(of_family(family));
    code.push(Code::Plain(Expr::Value { to: DEVICE, data: index }));
    let slot = load_frontend(family, key_at, &mut code);
    let client = slot + hashed_behind;
    let (offset, len) = if family == Family::Ipv4 { (12, 4) } else { (8, 16) };
    code.push(Code::Plain(Expr::NetworkHeader { offset, len, to: client }));
    let mut hashed = len;
    if hash.ports {
        code.push(Code::Plain(Expr::TransportHeader { offset: 0, len: 2, to: client + len / 4 }));
        hashed += 4;
    }
    let modulus = hash.modulus;
    code.push(Code::Plain(Expr::Hash { from: client, len: hashed, modulus, seed: HASH_SEED, to: slot }));
    code.push(Code::Map { map: table.name(DirectMap::Nodes(family, device)), key: key_at, to: key_at });
    code.push(Code::Forward { device: DEVICE, address: key_at, family });
    code
}

/// Only packets of a family. In this table there are others too.
fn of_family(family: Family) -> Vec<Code> {
    let protocol: u16 = if family == Family::Ipv4 { 0x0800 } else { 0x86dd };
    vec![
        Code::Meta { key: x::META_PROTOCOL, to: 0 },
        Code::Plain(Expr::Compare { register: 0, negate: false, data: protocol.to_be_bytes().to_vec() }),
    ]
}

/// Loads the frontend a packet is for, and says which register is next. Only a protocol that follows the IPv6 header at once
/// counts: fragments, and whatever else has more headers, go the ordinary way.
fn load_frontend(family: Family, at: Register, code: &mut Vec<Code>) -> Register {
    let (address, len, protocol) = if family == Family::Ipv4 { (16, 4, 9) } else { (24, 16, 6) };
    let behind = at + len / 4;
    code.extend(
        [
            Expr::NetworkHeader { offset: address, len, to: at },
            Expr::NetworkHeader { offset: protocol, len: 1, to: behind },
            Expr::TransportHeader { offset: 2, len: 2, to: behind + 1 },
        ]
        .map(Code::Plain),
    );
    behind + 2
}

fn encode(code: &Code) -> Expression {
    let lookup = |map: &str, key: Register| {
        Expression::new(c"lookup")
            .u32(sys::NFTNL_EXPR_LOOKUP_SREG, expr::register(key))
            .str(sys::NFTNL_EXPR_LOOKUP_SET, map)
    };
    match code {
        // What differs between families is not in these rules.
        Code::Plain(plain) => expr::encode(Family::Ipv4, plain),
        Code::Meta { key, to } => Expression::new(c"meta")
            .u32(sys::NFTNL_EXPR_META_KEY, *key)
            .u32(sys::NFTNL_EXPR_META_DREG, expr::register(*to)),
        Code::WayBack { to } => Expression::new(c"fib")
            .u32(sys::NFTNL_EXPR_FIB_FLAGS, x::FIB_SADDR)
            .u32(sys::NFTNL_EXPR_FIB_RESULT, x::FIB_OIF)
            .u32(sys::NFTNL_EXPR_FIB_DREG, expr::register(*to)),
        Code::VerdictMap { map, key } => lookup(map, *key).u32(sys::NFTNL_EXPR_LOOKUP_DREG, x::REG_VERDICT),
        Code::Map { map, key, to } => lookup(map, *key).u32(sys::NFTNL_EXPR_LOOKUP_DREG, expr::register(*to)),
        Code::Forward { device, address, family } => Expression::new(c"fwd")
            .u32(sys::NFTNL_EXPR_FWD_SREG_DEV, expr::register(*device))
            .u32(sys::NFTNL_EXPR_FWD_SREG_ADDR, expr::register(*address))
            .u32(sys::NFTNL_EXPR_FWD_NFPROTO, u32::from(expr::nfproto(*family))),
    }
}

/// The instructions of a rule the kernel has; `None` when one of them is nothing we would write.
pub(super) fn read(expressions: Attrs<'_>) -> Option<Vec<Code>> {
    expressions.map(decode).collect()
}

fn decode(expression: Attr<'_>) -> Option<Code> {
    let data = expression.nested().nested_of(abi::EXPR_DATA).unwrap_or(Attrs::new(&[]));
    let register = |kind| expr::read_register(data.u32_of(kind)?);
    match expression.nested().str_of(abi::EXPR_NAME)? {
        "meta" => match data.u32_of(2)? {
            key @ (x::META_PROTOCOL | x::META_PKTTYPE) => Some(Code::Meta { key, to: register(1)? }),
            _ => None,
        },
        "fib" => {
            let is_way_back = (data.u32_of(2)?, data.u32_of(3)?) == (x::FIB_OIF, x::FIB_SADDR);
            is_way_back.then_some(Code::WayBack { to: register(1)? })
        }
        "lookup" if data.u32_of(5).unwrap_or(0) == 0 => {
            let (map, key) = (data.str_of(1)?.to_owned(), register(2)?);
            Some(match data.u32_of(3)? {
                x::REG_VERDICT => Code::VerdictMap { map, key },
                to => Code::Map { map, key, to: expr::read_register(to)? },
            })
        }
        "fwd" => {
            let nfproto = data.u32_of(3)?;
            let family = Family::ALL.into_iter().find(|family| u32::from(expr::nfproto(*family)) == nfproto)?;
            Some(Code::Forward { device: register(1)?, address: register(2)?, family })
        }
        _ => expr::decode(Family::Ipv4, expression).map(Code::Plain),
    }
}
