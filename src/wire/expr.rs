//! Instructions of a rule as netlink expressions: written through libnftnl, read back from the kernel's attributes.

use nftnl::nftnl_sys as sys;

use super::abi::{self, expr as x};
use super::attr::{Attr, Attrs};
use crate::ffi::{Expression, Rule};
use crate::model::Family;
use crate::ruleset::{ChainId, Expr, Register, SetName, Verdict};

/// `NFT_REG32_00`.
const REG32_00: u32 = 8;
/// Milliseconds in a second: timeouts in the kernel's interface.
const MS: u64 = 1000;

/// The verdict's code and chain as the kernel wants them.
pub(crate) fn verdict_code(verdict: Verdict) -> (u32, Option<ChainId>) {
    match verdict {
        Verdict::Drop => (abi::verdict::DROP, None),
        Verdict::Return => (abi::verdict::RETURN, None),
        Verdict::Jump(chain) => (abi::verdict::JUMP, Some(chain)),
        Verdict::Goto(chain) => (abi::verdict::GOTO, Some(chain)),
    }
}

/// A verdict from its code and chain; `None` when it is none of ours.
pub(crate) fn read_verdict(code: u32, chain: Option<ChainId>) -> Option<Verdict> {
    match (code, chain) {
        (abi::verdict::DROP, None) => Some(Verdict::Drop),
        (abi::verdict::RETURN, None) => Some(Verdict::Return),
        (abi::verdict::JUMP, Some(chain)) => Some(Verdict::Jump(chain)),
        (abi::verdict::GOTO, Some(chain)) => Some(Verdict::Goto(chain)),
        _ => None,
    }
}

/// Appends the expressions of one instruction to a rule.
pub(crate) fn add(rule: &mut Rule, family: Family, code: &Expr) {
    rule.add(encode(family, code));
}

/// One instruction as an expression.
pub(crate) fn encode(family: Family, code: &Expr) -> Expression {
    let ct = |key: u32, to: Register| {
        Expression::new(c"ct").u32(sys::NFTNL_EXPR_CT_KEY, key).u32(sys::NFTNL_EXPR_CT_DREG, register(to))
    };
    let original = |key, to| ct(key, to).u8(sys::NFTNL_EXPR_CT_DIR, x::DIR_ORIGINAL);
    let meta = |key: u32, to: Register| {
        Expression::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, register(to))
    };
    let lookup = |set: SetName, key: Register| {
        Expression::new(c"lookup")
            .u32(sys::NFTNL_EXPR_LOOKUP_SREG, register(key))
            .str(sys::NFTNL_EXPR_LOOKUP_SET, &set.to_string())
    };
    match code {
        Expr::NetworkHeader { offset, len, to } => payload(x::NETWORK_HEADER, *offset, *len, *to),
        Expr::TransportHeader { offset, len, to } => payload(x::TRANSPORT_HEADER, *offset, *len, *to),
        Expr::L4Proto { to } => meta(x::META_L4PROTO, *to),
        Expr::InterfaceName { to } => meta(x::META_IIFNAME, *to),
        Expr::InterfaceIndex { to } => meta(x::META_IIF, *to),
        Expr::Priority { to } => meta(x::META_PRIORITY, *to),
        Expr::SetPriority { from } => Expression::new(c"meta")
            .u32(sys::NFTNL_EXPR_META_KEY, x::META_PRIORITY)
            .u32(sys::NFTNL_EXPR_META_SREG, register(*from)),
        Expr::Value { to, data } => Expression::new(c"immediate")
            .u32(sys::NFTNL_EXPR_IMM_DREG, register(*to))
            .data(sys::NFTNL_EXPR_IMM_DATA, data),
        Expr::OriginalAddress { to } => original(original_address_key(family), *to),
        Expr::OriginalPort { to } => original(x::CT_PROTO_DST, *to),
        Expr::ReplyAddress { to } => ct(reply_address_key(family), *to).u8(sys::NFTNL_EXPR_CT_DIR, x::DIR_REPLY),
        Expr::ReplyPort { to } => ct(x::CT_PROTO_SRC, *to).u8(sys::NFTNL_EXPR_CT_DIR, x::DIR_REPLY),
        Expr::CtStatus { to } => ct(x::CT_STATUS, *to),
        Expr::AddressType { source, to } => Expression::new(c"fib")
            .u32(sys::NFTNL_EXPR_FIB_FLAGS, if *source { x::FIB_SADDR } else { x::FIB_DADDR })
            .u32(sys::NFTNL_EXPR_FIB_RESULT, x::FIB_ADDRTYPE)
            .u32(sys::NFTNL_EXPR_FIB_DREG, register(*to)),
        Expr::Random { modulus, to } => Expression::new(c"numgen")
            .u32(sys::NFTNL_EXPR_NG_DREG, register(*to))
            .u32(sys::NFTNL_EXPR_NG_MODULUS, *modulus)
            .u32(sys::NFTNL_EXPR_NG_TYPE, x::NG_RANDOM)
            .u32(sys::NFTNL_EXPR_NG_OFFSET, 0),
        Expr::Hash { from, len, modulus, seed, to } => Expression::new(c"hash")
            .u32(sys::NFTNL_EXPR_HASH_SREG, register(*from))
            .u32(sys::NFTNL_EXPR_HASH_DREG, register(*to))
            .u32(sys::NFTNL_EXPR_HASH_LEN, *len)
            .u32(sys::NFTNL_EXPR_HASH_MODULUS, *modulus)
            .u32(sys::NFTNL_EXPR_HASH_SEED, *seed)
            .u32(sys::NFTNL_EXPR_HASH_TYPE, x::HASH_JENKINS),
        Expr::Mask { register: at, mask } => Expression::new(c"bitwise")
            .u32(sys::NFTNL_EXPR_BITWISE_SREG, register(*at))
            .u32(sys::NFTNL_EXPR_BITWISE_DREG, register(*at))
            .u32(sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32)
            .data(sys::NFTNL_EXPR_BITWISE_MASK, mask)
            .data(sys::NFTNL_EXPR_BITWISE_XOR, &vec![0; mask.len()]),
        Expr::Compare { register: at, negate, data } => Expression::new(c"cmp")
            .u32(sys::NFTNL_EXPR_CMP_SREG, register(*at))
            .u32(sys::NFTNL_EXPR_CMP_OP, if *negate { x::CMP_NEQ } else { x::CMP_EQ })
            .data(sys::NFTNL_EXPR_CMP_DATA, data),
        Expr::Lookup { set, key, negate: false } => lookup(*set, *key),
        Expr::Lookup { set, key, negate: true } => {
            lookup(*set, *key).u32(sys::NFTNL_EXPR_LOOKUP_FLAGS, x::LOOKUP_INVERTED)
        }
        Expr::Map { map, key, to } => lookup(*map, *key).u32(sys::NFTNL_EXPR_LOOKUP_DREG, register(*to)),
        Expr::VerdictMap { map, key } => lookup(*map, *key).u32(sys::NFTNL_EXPR_LOOKUP_DREG, x::REG_VERDICT),
        Expr::Dnat { address, port } => Expression::new(c"nat")
            .u32(sys::NFTNL_EXPR_NAT_TYPE, x::NAT_DNAT)
            .u32(sys::NFTNL_EXPR_NAT_FAMILY, u32::from(nfproto(family)))
            .u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, register(*address))
            .u32(sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, register(*port)),
        Expr::DnatAddress { address } => Expression::new(c"nat")
            .u32(sys::NFTNL_EXPR_NAT_TYPE, x::NAT_DNAT)
            .u32(sys::NFTNL_EXPR_NAT_FAMILY, u32::from(nfproto(family)))
            .u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, register(*address)),
        Expr::MasqueradeFullyRandom => Expression::new(c"masq").u32(sys::NFTNL_EXPR_MASQ_FLAGS, x::NAT_FULLY_RANDOM),
        Expr::RejectPortUnreachable => Expression::new(c"reject")
            .u32(sys::NFTNL_EXPR_REJECT_TYPE, x::REJECT_UNREACH)
            .u8(sys::NFTNL_EXPR_REJECT_CODE, port_unreachable(family)),
        Expr::RejectTcpReset => Expression::new(c"reject")
            .u32(sys::NFTNL_EXPR_REJECT_TYPE, x::REJECT_TCP_RST)
            .u8(sys::NFTNL_EXPR_REJECT_CODE, 0),
        Expr::Update { map, key, value, timeout_seconds } => Expression::new(c"dynset")
            .u32(sys::NFTNL_EXPR_DYNSET_OP, x::DYNSET_UPDATE)
            .str(sys::NFTNL_EXPR_DYNSET_SET_NAME, &map.to_string())
            .u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, register(*key))
            .u32(sys::NFTNL_EXPR_DYNSET_SREG_DATA, register(*value))
            .u64(sys::NFTNL_EXPR_DYNSET_TIMEOUT, u64::from(*timeout_seconds) * MS),
        Expr::Immediate(verdict) => {
            let (code, chain) = verdict_code(*verdict);
            let immediate = Expression::new(c"immediate")
                .u32(sys::NFTNL_EXPR_IMM_DREG, x::REG_VERDICT)
                .u32(sys::NFTNL_EXPR_IMM_VERDICT, code);
            match chain {
                Some(chain) => immediate.str(sys::NFTNL_EXPR_IMM_CHAIN, &chain.to_string()),
                None => immediate,
            }
        }
    }
}

fn payload(base: u32, offset: u32, len: u32, to: Register) -> Expression {
    Expression::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, register(to))
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
}

/// The kernel's number of a 32-bit register.
pub(crate) fn register(register: Register) -> u32 {
    REG32_00 + register
}

/// The reverse; the kernel reports a register that begins a 128-bit one as that (1 to 4). `None` for the verdict.
pub(crate) fn read_register(number: u32) -> Option<Register> {
    match number {
        1..=4 => Some((number - 1) * 4),
        REG32_00..=23 => Some(number - REG32_00),
        _ => None,
    }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(crate) fn nfproto(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

fn original_address_key(family: Family) -> u32 {
    match family {
        Family::Ipv4 => x::CT_DST_IP,
        Family::Ipv6 => x::CT_DST_IP6,
    }
}

fn reply_address_key(family: Family) -> u32 {
    match family {
        Family::Ipv4 => x::CT_SRC_IP,
        Family::Ipv6 => x::CT_SRC_IP6,
    }
}

fn port_unreachable(family: Family) -> u8 {
    match family {
        Family::Ipv4 => x::ICMP_PORT_UNREACH,
        Family::Ipv6 => x::ICMPV6_PORT_UNREACH,
    }
}

/// Reads the expressions of a rule; `None` when one of them is nothing we would write.
pub(crate) fn decode_all(family: Family, expressions: Attrs<'_>) -> Option<Vec<Expr>> {
    expressions.map(|expression| decode(family, expression)).collect()
}

/// Reads an expression; `None` when it is nothing we would write.
pub(crate) fn decode(family: Family, expression: Attr<'_>) -> Option<Expr> {
    let name = expression.nested().str_of(abi::EXPR_NAME)?;
    // Expressions without any attribute have no data at all.
    let data = expression.nested().nested_of(abi::EXPR_DATA).unwrap_or(Attrs::new(&[]));
    let reg = |kind| read_register(data.u32_of(kind)?);
    match name {
        "payload" => {
            let (to, offset, len) = (reg(1)?, data.u32_of(3)?, data.u32_of(4)?);
            match data.u32_of(2)? {
                x::NETWORK_HEADER => Some(Expr::NetworkHeader { offset, len, to }),
                x::TRANSPORT_HEADER => Some(Expr::TransportHeader { offset, len, to }),
                _ => None,
            }
        }
        "meta" => match data.u32_of(2)? {
            x::META_PRIORITY if data.find_kind(3).is_some() => Some(Expr::SetPriority { from: reg(3)? }),
            x::META_PRIORITY => Some(Expr::Priority { to: reg(1)? }),
            x::META_L4PROTO => Some(Expr::L4Proto { to: reg(1)? }),
            x::META_IIFNAME => Some(Expr::InterfaceName { to: reg(1)? }),
            x::META_IIF => Some(Expr::InterfaceIndex { to: reg(1)? }),
            _ => None,
        },
        "ct" => {
            let to = reg(1)?;
            let direction = data.find_kind(3).and_then(|attr| attr.u8());
            match (data.u32_of(2)?, direction) {
                (x::CT_STATUS, None) => Some(Expr::CtStatus { to }),
                (x::CT_PROTO_DST, Some(x::DIR_ORIGINAL)) => Some(Expr::OriginalPort { to }),
                (key, Some(x::DIR_ORIGINAL)) if key == original_address_key(family) => {
                    Some(Expr::OriginalAddress { to })
                }
                (x::CT_PROTO_SRC, Some(x::DIR_REPLY)) => Some(Expr::ReplyPort { to }),
                (key, Some(x::DIR_REPLY)) if key == reply_address_key(family) => Some(Expr::ReplyAddress { to }),
                _ => None,
            }
        }
        "fib" => match (data.u32_of(2)?, data.u32_of(3)?) {
            (x::FIB_ADDRTYPE, x::FIB_SADDR) => Some(Expr::AddressType { source: true, to: reg(1)? }),
            (x::FIB_ADDRTYPE, x::FIB_DADDR) => Some(Expr::AddressType { source: false, to: reg(1)? }),
            _ => None,
        },
        "numgen" => {
            let plain = data.u32_of(3)? == x::NG_RANDOM && data.u32_of(4).unwrap_or(0) == 0;
            let code = Expr::Random { modulus: data.u32_of(2)?, to: reg(1)? };
            plain.then_some(code)
        }
        "hash" => {
            let plain =
                data.u32_of(7).unwrap_or(x::HASH_JENKINS) == x::HASH_JENKINS && data.u32_of(6).unwrap_or(0) == 0;
            let (from, to, len) = (reg(1)?, reg(2)?, data.u32_of(3)?);
            let code = Expr::Hash { from, len, modulus: data.u32_of(4)?, seed: data.u32_of(5)?, to };
            plain.then_some(code)
        }
        "bitwise" => {
            let mask = data_value(&data, 4)?;
            let plain = reg(1)? == reg(2)?
                && data.u32_of(3)? as usize == mask.len()
                && data.u32_of(6).unwrap_or(0) == 0
                && data_value(&data, 5)?.iter().all(|byte| *byte == 0);
            plain.then_some(Expr::Mask { register: reg(1)?, mask })
        }
        "cmp" => {
            let negate = match data.u32_of(2)? {
                x::CMP_EQ => false,
                x::CMP_NEQ => true,
                _ => return None,
            };
            Some(Expr::Compare { register: reg(1)?, negate, data: data_value(&data, 3)? })
        }
        "lookup" => decode_lookup(&data),
        "nat" => {
            let same = |min, max| data.u32_of(max).is_none_or(|max| data.u32_of(min) == Some(max));
            let plain = data.u32_of(1)? == x::NAT_DNAT
                && data.u32_of(2)? == u32::from(nfproto(family))
                && same(3, 4)
                && same(5, 6)
                && data.u32_of(7).unwrap_or(0) & !NAT_IMPLIED == 0;
            let address = reg(3)?;
            let translation = match data.find_kind(5) {
                Some(_) => Expr::Dnat { address, port: reg(5)? },
                None => Expr::DnatAddress { address },
            };
            plain.then_some(translation)
        }
        "masq" => {
            let plain = data.u32_of(1)? == x::NAT_FULLY_RANDOM && data.find_kind(2).is_none();
            plain.then_some(Expr::MasqueradeFullyRandom)
        }
        "reject" => {
            let code = data.find_kind(2).and_then(|attr| attr.u8());
            match data.u32_of(1)? {
                x::REJECT_UNREACH if code == Some(port_unreachable(family)) => Some(Expr::RejectPortUnreachable),
                // The kernel does not say the code, which means nothing there.
                x::REJECT_TCP_RST => Some(Expr::RejectTcpReset),
                _ => None,
            }
        }
        "dynset" => decode_update(&data),
        "immediate" if data.u32_of(1)? != x::REG_VERDICT => {
            let to = reg(1)?;
            Some(Expr::Value { to, data: data_value(&data, 2)? })
        }
        "immediate" => {
            let verdict = data.nested_of(2)?.nested_of(abi::DATA_VERDICT)?;
            Some(Expr::Immediate(decode_verdict(&verdict)?))
        }
        _ => None,
    }
}

/// Flags the kernel adds by itself to a translation of address and port (MAP_IPS, PROTO_SPECIFIED).
const NAT_IMPLIED: u32 = 3;

fn decode_lookup(data: &Attrs<'_>) -> Option<Expr> {
    let set = data.str_of(1)?.parse::<SetName>().ok()?;
    let key = read_register(data.u32_of(2)?)?;
    let negate = match data.u32_of(5).unwrap_or(0) {
        0 => false,
        x::LOOKUP_INVERTED => true,
        _ => return None,
    };
    match (data.u32_of(3), negate) {
        (None, _) => Some(Expr::Lookup { set, key, negate }),
        (Some(x::REG_VERDICT), false) => Some(Expr::VerdictMap { map: set, key }),
        (Some(to), false) => Some(Expr::Map { map: set, key, to: read_register(to)? }),
        (Some(_), true) => None,
    }
}

fn decode_update(data: &Attrs<'_>) -> Option<Expr> {
    let map = data.str_of(1)?.parse::<SetName>().ok()?;
    let timeout = data.find_kind(6)?.u64()?;
    let plain = data.u32_of(3)? == x::DYNSET_UPDATE
        && timeout % MS == 0
        && data.u32_of(9).unwrap_or(0) == 0
        && data.find_kind(7).is_none()
        && data.find_kind(10).is_none();
    plain.then_some(Expr::Update {
        map,
        key: read_register(data.u32_of(4)?)?,
        value: read_register(data.u32_of(5)?)?,
        timeout_seconds: u32::try_from(timeout / MS).ok()?,
    })
}

/// Reads `NFTA_DATA_VERDICT`.
pub(crate) fn decode_verdict(verdict: &Attrs<'_>) -> Option<Verdict> {
    let chain = match verdict.str_of(abi::VERDICT_CHAIN) {
        Some(name) => Some(name.parse().ok()?),
        None => None,
    };
    read_verdict(verdict.u32_of(abi::VERDICT_CODE)?, chain)
}

fn data_value(data: &Attrs<'_>, kind: u16) -> Option<Vec<u8>> {
    Some(data.nested_of(kind)?.find_kind(abi::DATA_VALUE)?.value.to_vec())
}
