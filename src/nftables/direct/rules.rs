//! The rules of the table `netdev portway`.

use nftnl::nftnl_sys as sys;

use crate::ffi::{Expression, Rule};
use crate::model::Family;
use crate::ruleset::{Expr, ForwardChain, HASH_SEED, Register, Verdict};
use crate::wire::abi::expr as x;
use crate::wire::expr;

/// The kernel's `PACKET_HOST`: a packet that is addressed to this host.
const PACKET_HOST: u8 = 0;
/// More fragments follow, or it is not the first one.
const FRAGMENT: u16 = 0x3fff;

/// `ip daddr . ip protocol . th dport vmap @frontends`.
pub(super) fn leave(rule: &mut Rule, family: Family, map: &str) {
    of_family(rule, family);
    frontend(rule, family, 0);
    rule.add(lookup(map, 0).u32(sys::NFTNL_EXPR_LOOKUP_DREG, x::REG_VERDICT));
}

/// `meta pkttype != host return`.
pub(super) fn skip_packets_to_others(rule: &mut Rule, family: Family) {
    rule.add(meta(x::META_PKTTYPE, 0));
    add(rule, family, &Expr::Compare { register: 0, negate: true, data: vec![PACKET_HOST] });
    add(rule, family, &Expr::Immediate(Verdict::Return));
}

/// `ip frag-off & 0x3fff != 0 return`.
pub(super) fn skip_fragments(rule: &mut Rule, family: Family) {
    of_family(rule, family);
    add(rule, family, &Expr::NetworkHeader { offset: 6, len: 2, to: 0 });
    add(rule, family, &Expr::Mask { register: 0, mask: FRAGMENT.to_be_bytes().to_vec() });
    add(rule, family, &Expr::Compare { register: 0, negate: true, data: vec![0, 0] });
    add(rule, family, &Expr::Immediate(Verdict::Return));
}

/// `fwd ip to ip daddr . ip protocol . th dport . jhash ip saddr ... map @nodes-eth0 device "eth0"`. The kernel lowers the TTL,
/// so nothing goes in circles for ever.
pub(super) fn hand_on(rule: &mut Rule, ForwardChain { family, hash }: ForwardChain, device: u32, map: &str) {
    const DEVICE: Register = 0;
    const KEY: Register = 1;
    of_family(rule, family);
    add(rule, family, &Expr::Value { to: DEVICE, data: device.to_ne_bytes().to_vec() });
    let slot = frontend(rule, family, KEY);
    let client = slot + 1;
    let (offset, len) = if family == Family::Ipv4 { (12, 4) } else { (8, 16) };
    add(rule, family, &Expr::NetworkHeader { offset, len, to: client });
    let mut hashed = len;
    if hash.ports {
        add(rule, family, &Expr::TransportHeader { offset: 0, len: 2, to: client + len / 4 });
        hashed += 4;
    }
    let modulus = hash.modulus;
    add(rule, family, &Expr::Hash { from: client, len: hashed, modulus, seed: HASH_SEED, to: slot });
    rule.add(lookup(map, KEY).u32(sys::NFTNL_EXPR_LOOKUP_DREG, expr::register(KEY)));
    rule.add(
        Expression::new(c"fwd")
            .u32(sys::NFTNL_EXPR_FWD_SREG_DEV, expr::register(DEVICE))
            .u32(sys::NFTNL_EXPR_FWD_SREG_ADDR, expr::register(KEY))
            .u32(sys::NFTNL_EXPR_FWD_NFPROTO, u32::from(expr::nfproto(family))),
    );
}

/// Only packets of a family. In this table there are others too.
fn of_family(rule: &mut Rule, family: Family) {
    let protocol: u16 = if family == Family::Ipv4 { 0x0800 } else { 0x86dd };
    rule.add(meta(x::META_PROTOCOL, 0));
    add(rule, family, &Expr::Compare { register: 0, negate: false, data: protocol.to_be_bytes().to_vec() });
}

/// Loads the frontend a packet is for, and says which register is next. Only a protocol that follows the IPv6 header at once
/// counts: fragments, and whatever else has more headers, go the ordinary way.
fn frontend(rule: &mut Rule, family: Family, at: Register) -> Register {
    let (address, len, protocol) = if family == Family::Ipv4 { (16, 4, 9) } else { (24, 16, 6) };
    let behind = at + len / 4;
    add(rule, family, &Expr::NetworkHeader { offset: address, len, to: at });
    add(rule, family, &Expr::NetworkHeader { offset: protocol, len: 1, to: behind });
    add(rule, family, &Expr::TransportHeader { offset: 2, len: 2, to: behind + 1 });
    behind + 2
}

fn meta(key: u32, to: Register) -> Expression {
    Expression::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, expr::register(to))
}

fn lookup(map: &str, key: Register) -> Expression {
    Expression::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, expr::register(key))
        .str(sys::NFTNL_EXPR_LOOKUP_SET, map)
}

fn add(rule: &mut Rule, family: Family, code: &Expr) {
    expr::add(rule, family, code);
}
