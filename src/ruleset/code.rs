//! Rules as the kernel's instructions on its 32-bit registers.
//!
//! Written to be what `nft` itself generates for the same rule (compare with `nft --debug=netlink`), so that any `nft`
//! can turn it back into text.

use std::net::IpAddr;

use super::{Field, HASH_SEED, Rule, SetName, Term, Verdict};
use crate::model::Family;

/// The number of a 32-bit register, 0 to 15 (`NFT_REG32_00 + n`). Register 0 is where `nft` begins.
pub type Register = u32;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the network header.
    NetworkHeader {
        /// Byte offset.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Destination.
        to: Register,
    },
    /// Loads bytes of the transport header.
    TransportHeader {
        /// Byte offset.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Destination.
        to: Register,
    },
    /// Loads the transport protocol number.
    L4Proto {
        /// Destination.
        to: Register,
    },
    /// Loads the name of the input interface (16 bytes).
    InterfaceName {
        /// Destination.
        to: Register,
    },
    /// Loads the index of the input interface, 0 when there is none.
    InterfaceIndex {
        /// Destination.
        to: Register,
    },
    /// Loads the original destination address of the connection (NFT_CT_DST_IP or NFT_CT_DST_IP6).
    OriginalAddress {
        /// Destination.
        to: Register,
    },
    /// Loads the original destination port of the connection (NFT_CT_PROTO_DST, original direction).
    OriginalPort {
        /// Destination.
        to: Register,
    },
    /// Loads the source address of the connection's other direction (NFT_CT_SRC_IP or NFT_CT_SRC_IP6).
    ReplyAddress {
        /// Destination.
        to: Register,
    },
    /// Loads the source port of the connection's other direction (NFT_CT_PROTO_SRC).
    ReplyPort {
        /// Destination.
        to: Register,
    },
    /// Loads the status bits of the connection.
    CtStatus {
        /// Destination.
        to: Register,
    },
    /// Loads the packet's priority.
    Priority {
        /// Destination.
        to: Register,
    },
    /// Loads the type of an address by the routing table (NFT_FIB_RESULT_ADDRTYPE).
    AddressType {
        /// The source address instead of the destination address.
        source: bool,
        /// Destination.
        to: Register,
    },
    /// Loads a random number, 0 to modulus-1.
    Random {
        /// The modulus.
        modulus: u32,
        /// Destination.
        to: Register,
    },
    /// Loads the Jenkins hash of bytes, scaled to 0 to modulus-1.
    Hash {
        /// First register of the bytes.
        from: Register,
        /// Number of bytes.
        len: u32,
        /// The modulus.
        modulus: u32,
        /// What the hash begins with.
        seed: u32,
        /// Destination.
        to: Register,
    },
    /// Loads bytes that the rule has with it.
    Value {
        /// First destination.
        to: Register,
        /// The bytes.
        data: Vec<u8>,
    },
    /// `register = (register & mask) ^ 0`.
    Mask {
        /// Source and destination.
        register: Register,
        /// The mask.
        mask: Vec<u8>,
    },
    /// Ends the rule unless the comparison holds.
    Compare {
        /// What to compare.
        register: Register,
        /// `!=` instead of `==`.
        negate: bool,
        /// With what; also says how many bytes.
        data: Vec<u8>,
    },
    /// Ends the rule unless the key is in the set (or is, when negated).
    Lookup {
        /// The set.
        set: SetName,
        /// First register of the key.
        key: Register,
        /// `!=` instead of `==`.
        negate: bool,
    },
    /// Loads the value of the key, or ends the rule.
    Map {
        /// The map.
        map: SetName,
        /// First register of the key.
        key: Register,
        /// First register of the value.
        to: Register,
    },
    /// Issues the verdict of the key, or ends the rule.
    VerdictMap {
        /// The map.
        map: SetName,
        /// First register of the key.
        key: Register,
    },
    /// Sets the packet's priority.
    SetPriority {
        /// Register of the new one.
        from: Register,
    },
    /// Rewrites destination address and port.
    Dnat {
        /// Register of the address.
        address: Register,
        /// Register of the port.
        port: Register,
    },
    /// Rewrites the destination address alone.
    DnatAddress {
        /// First register of the address.
        address: Register,
    },
    /// Rewrites the source to the address of the outgoing interface, with random ports.
    MasqueradeFullyRandom,
    /// Answers with ICMP port unreachable.
    RejectPortUnreachable,
    /// Answers with a TCP reset.
    RejectTcpReset,
    /// Adds or refreshes an element.
    Update {
        /// The map.
        map: SetName,
        /// First register of the key.
        key: Register,
        /// First register of the value.
        value: Register,
        /// Idle timeout in seconds.
        timeout_seconds: u32,
    },
    /// A verdict.
    Immediate(Verdict),
}

impl Expr {
    /// The set or map it names.
    pub fn set(&self) -> Option<SetName> {
        match self {
            Expr::Lookup { set, .. } => Some(*set),
            Expr::Map { map, .. } | Expr::VerdictMap { map, .. } | Expr::Update { map, .. } => Some(*map),
            _ => None,
        }
    }
}

/// `IPS_DST_NAT` of the connection's status bits.
const STATUS_DST_NAT: u32 = 1 << 5;
/// `RTN_LOCAL` of address types.
const TYPE_LOCAL: u32 = 2;
/// Where IPv4's header has the transport protocol.
pub(super) const IPV4_PROTOCOL: u32 = 9;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Where TCP's header has its flags; those of a first packet and of a reset.
const TCP_FLAGS: u32 = 13;
pub(super) const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
/// Bytes of an interface name, with the terminating zero (IFNAMSIZ).
const INTERFACE_NAME_LEN: usize = 16;

/// How far behind the register of a hash `nft` puts what is hashed.
const HASHED_BEHIND: Register = 5;

/// Translates a rule for the table of a family.
pub fn encode_rule(family: Family, rule: &Rule) -> Vec<Expr> {
    let mut code = Vec::with_capacity(rule.len() * 4);
    for term in rule {
        lower_term(family, term, &mut code);
    }
    code
}

fn lower_term(family: Family, term: &Term, code: &mut Vec<Expr>) {
    match term {
        Term::Prefix { field, negate, net } => {
            let (mut address, mask) = (octets(net.network()), octets(net.netmask()));
            let bits = usize::from(net.prefix_len());
            load(family, *field, 0, code);
            if bits > 0 && bits % 8 == 0 {
                // nft loads no more bytes than the prefix has.
                address.truncate(bits / 8);
                if let Some(Expr::NetworkHeader { len, .. }) = code.last_mut() {
                    *len = address.len() as u32;
                }
            } else {
                code.push(Expr::Mask { register: 0, mask });
            }
            code.push(Expr::Compare { register: 0, negate: *negate, data: address });
        }
        Term::Interface { negate, name, prefix } => {
            code.push(Expr::InterfaceName { to: 0 });
            let mut data = name.as_bytes().to_vec();
            if !prefix {
                data.resize(INTERFACE_NAME_LEN, 0);
            }
            code.push(Expr::Compare { register: 0, negate: *negate, data });
        }
        Term::Arrived { negate } => {
            code.push(Expr::InterfaceIndex { to: 0 });
            code.push(Expr::Compare { register: 0, negate: !negate, data: 0_u32.to_ne_bytes().to_vec() });
        }
        Term::Member { key, negate, set } => {
            load_all(family, key, 0, code);
            code.push(Expr::Lookup { set: *set, key: 0, negate: *negate });
        }
        Term::Local { field, negate } => {
            code.push(Expr::AddressType { source: *field == Field::SourceAddress, to: 0 });
            code.push(Expr::Compare { register: 0, negate: *negate, data: TYPE_LOCAL.to_ne_bytes().to_vec() });
        }
        Term::Translated => {
            code.push(Expr::CtStatus { to: 0 });
            code.push(Expr::Mask { register: 0, mask: STATUS_DST_NAT.to_ne_bytes().to_vec() });
            code.push(Expr::Compare { register: 0, negate: true, data: vec![0; 4] });
        }
        Term::NoReset => without_flag(TCP_RST, code),
        Term::NoSyn => without_flag(TCP_SYN, code),
        Term::EchoRequest => {
            let (protocol, kind) = echo_request(family);
            code.push(Expr::L4Proto { to: 0 });
            code.push(Expr::Compare { register: 0, negate: false, data: vec![protocol] });
            code.push(Expr::TransportHeader { offset: 0, len: 1, to: 0 });
            code.push(Expr::Compare { register: 0, negate: false, data: vec![kind] });
        }
        Term::Verdict(verdict) => code.push(Expr::Immediate(*verdict)),
        Term::VerdictMap { key, map } => {
            load_all(family, key, 0, code);
            code.push(Expr::VerdictMap { map: *map, key: 0 });
        }
        Term::Translate { key, map } => {
            load_all(family, key, 0, code);
            code.push(Expr::Map { map: *map, key: 0, to: 0 });
            code.push(Expr::Dnat { address: 0, port: registers(family, Field::DestinationAddress) });
        }
        Term::SetPriority { key, map } => {
            load_all(family, key, 0, code);
            code.extend([Expr::Map { map: *map, key: 0, to: 0 }, Expr::SetPriority { from: 0 }]);
        }
        Term::ClearPriority => code.extend([Expr::Value { to: 0, data: vec![0; 4] }, Expr::SetPriority { from: 0 }]),
        Term::TranslateTo(ip) => {
            code.extend([Expr::Value { to: 0, data: octets(*ip) }, Expr::DnatAddress { address: 0 }])
        }
        Term::Masquerade => code.push(Expr::MasqueradeFullyRandom),
        Term::Reject => code.push(Expr::RejectPortUnreachable),
        Term::RejectWithReset => code.push(Expr::RejectTcpReset),
        Term::Update { map, key, timeout_seconds, value } => {
            let value_at = load_all(family, key, 0, code);
            load_all(family, value, value_at, code);
            code.push(Expr::Update { map: *map, key: 0, value: value_at, timeout_seconds: *timeout_seconds });
        }
    }
}

/// TCP packets without a flag.
fn without_flag(flag: u8, code: &mut Vec<Expr>) {
    code.push(Expr::L4Proto { to: 0 });
    code.push(Expr::Compare { register: 0, negate: false, data: vec![TCP] });
    code.push(Expr::TransportHeader { offset: TCP_FLAGS, len: 1, to: 0 });
    code.push(Expr::Mask { register: 0, mask: vec![flag] });
    code.push(Expr::Compare { register: 0, negate: false, data: vec![0] });
}

/// Loads the fields side by side from `first` on; the register behind them.
fn load_all(family: Family, fields: &[Field], first: Register, code: &mut Vec<Expr>) -> Register {
    fields.iter().fold(first, |to, field| {
        load(family, *field, to, code);
        to + registers(family, *field)
    })
}

fn load(family: Family, field: Field, to: Register, code: &mut Vec<Expr>) {
    let (source, destination, len) = match family {
        Family::Ipv4 => (12, 16, 4),
        Family::Ipv6 => (8, 24, 16),
    };
    if let Field::HashedSlot { with_port, modulus } = field {
        let (from, port_at) = (to + HASHED_BEHIND, to + HASHED_BEHIND + registers(family, Field::SourceAddress));
        code.push(Expr::NetworkHeader { offset: source, len, to: from });
        if with_port {
            code.push(Expr::TransportHeader { offset: 0, len: 2, to: port_at });
        }
        let len = if with_port { len + 4 } else { len };
        return code.push(Expr::Hash { from, len, modulus, seed: HASH_SEED, to });
    }
    // In IPv6 the transport protocol stands behind any number of extension headers. In IPv4 it has its place in the
    // header, which the kernel reads without a function call. It is the same byte: our hooks see no fragments (connection
    // tracking has put them together) and no ICMP errors (they belong to the connection they tell of).
    let protocol = match family {
        Family::Ipv4 => Expr::NetworkHeader { offset: IPV4_PROTOCOL, len: 1, to },
        Family::Ipv6 => Expr::L4Proto { to },
    };
    code.push(match field {
        Field::SourceAddress => Expr::NetworkHeader { offset: source, len, to },
        Field::DestinationAddress => Expr::NetworkHeader { offset: destination, len, to },
        Field::Protocol => protocol,
        Field::DestinationPort => Expr::TransportHeader { offset: 2, len: 2, to },
        Field::OriginalAddress => Expr::OriginalAddress { to },
        Field::OriginalPort => Expr::OriginalPort { to },
        Field::ReplyAddress => Expr::ReplyAddress { to },
        Field::ReplyPort => Expr::ReplyPort { to },
        Field::Priority => Expr::Priority { to },
        Field::RandomSlot(modulus) | Field::HashedSlot { modulus, .. } => Expr::Random { modulus, to },
    });
}

/// Protocol number and ICMP type of an echo request.
fn echo_request(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4 => (1, 8),
        Family::Ipv6 => (58, 128),
    }
}

/// 32-bit registers a field takes.
fn registers(family: Family, field: Field) -> u32 {
    match (field, family) {
        (
            Field::SourceAddress | Field::DestinationAddress | Field::OriginalAddress | Field::ReplyAddress,
            Family::Ipv6,
        ) => 4,
        _ => 1,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
