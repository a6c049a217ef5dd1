//! What a rule can say, close to the nft language.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{SetName, Verdict};

/// Something of the packet or its connection that a rule compares or looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip saddr` / `ip6 saddr`.
    SourceAddress,
    /// `ip daddr` / `ip6 daddr`.
    DestinationAddress,
    /// `ip protocol` / `meta l4proto`.
    Protocol,
    /// `th dport`.
    DestinationPort,
    /// `ct original ip daddr`: the address the client asked for.
    OriginalAddress,
    /// `ct original proto-dst`: the port the client asked for.
    OriginalPort,
    /// `ct reply ip saddr`: the address that answers, also before the packet is translated.
    ReplyAddress,
    /// `ct reply proto-src`: the port that answers.
    ReplyPort,
    /// `meta priority`: what [`Term::SetPriority`] has put there.
    Priority,
    /// `numgen random mod N`: a random slot, 0 to N-1.
    RandomSlot(u32),
    /// `jhash ip saddr mod N seed S`: a slot, 0 to N-1, the same for all connections of a client ([`super::hashed_slot`]).
    HashedSlot {
        /// `jhash ip saddr . th sport`: of the client's address and port.
        with_port: bool,
        /// N.
        modulus: u32,
    },
}

/// One part of a rule: a condition (evaluation of the rule stops when it does not hold) or a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// `ip saddr [!=] 10.244.0.0/16`; a full-length prefix is a plain address.
    Prefix {
        /// Which address.
        field: Field,
        /// `!=` instead of `==`.
        negate: bool,
        /// The network; its family is the table's.
        net: IpNet,
    },
    /// `iifname [!=] "cbr0"`, or with a prefix `"cali*"`.
    Interface {
        /// `!=` instead of `==`.
        negate: bool,
        /// The name, or its beginning.
        name: String,
        /// Only the beginning of the name counts.
        prefix: bool,
    },
    /// `iif != 0`: there is an input interface. There is none for packets of this host, nor, in postrouting, for frames
    /// that stay on a bridge.
    Arrived {
        /// `==` instead of `!=`.
        negate: bool,
    },
    /// `ip daddr [!=] @set`.
    Member {
        /// The concatenated key.
        key: Vec<Field>,
        /// `!=` instead of `==`.
        negate: bool,
        /// A set without values.
        set: SetName,
    },
    /// `fib saddr type [!=] local`: the routing table says whether the address is this host's.
    Local {
        /// [`Field::SourceAddress`] or [`Field::DestinationAddress`].
        field: Field,
        /// `!=` instead of `==`.
        negate: bool,
    },
    /// `ct status dnat`: the connection's destination was rewritten (by anyone).
    Translated,
    /// `tcp flags ! rst`: it is TCP, and no reset itself.
    NoReset,
    /// Not the first packet of a TCP connection: `tcp flags ! syn`.
    NoSyn,
    /// `icmp type echo-request` (ICMPv6 likewise).
    EchoRequest,
    /// A verdict of its own.
    Verdict(Verdict),
    /// `KEY vmap @map`; goes on with the next rule where the map has no such element.
    VerdictMap {
        /// The concatenated key.
        key: Vec<Field>,
        /// A verdict map.
        map: SetName,
    },
    /// `dnat ip to KEY map @map`; goes on with the next rule where the map has no such element.
    Translate {
        /// The concatenated key.
        key: Vec<Field>,
        /// A map whose values are address . port.
        map: SetName,
    },
    /// `dnat to ADDRESS`, whatever the protocol; ports stay as they are.
    TranslateTo(IpAddr),
    /// `meta priority set KEY map @map`; evaluation of the rule stops where the map has no such element.
    SetPriority {
        /// The concatenated key.
        key: Vec<Field>,
        /// A map whose values are class IDs.
        map: SetName,
    },
    /// `meta priority set none`.
    ClearPriority,
    /// `masquerade fully-random`.
    Masquerade,
    /// `reject`: ICMP (ICMPv6) port unreachable, for every protocol.
    Reject,
    /// `reject with tcp reset`.
    RejectWithReset,
    /// `update @map { KEY timeout T : VALUE }`: adds the element, or restarts its timeout.
    Update {
        /// A dynamic map with timeouts.
        map: SetName,
        /// The concatenated key.
        key: Vec<Field>,
        /// Idle timeout in seconds.
        timeout_seconds: u32,
        /// The concatenated value.
        value: Vec<Field>,
    },
}

impl Term {
    /// The set or map it names.
    pub fn set(&self) -> Option<SetName> {
        match self {
            Term::Member { set, .. } => Some(*set),
            Term::VerdictMap { map, .. }
            | Term::Translate { map, .. }
            | Term::SetPriority { map, .. }
            | Term::Update { map, .. } => Some(*map),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn set_mut(&mut self) -> Option<&mut SetName> {
        match self {
            Term::Member { set, .. } => Some(set),
            Term::VerdictMap { map, .. }
            | Term::Translate { map, .. }
            | Term::SetPriority { map, .. }
            | Term::Update { map, .. } => Some(map),
            _ => None,
        }
    }
}

/// A rule: its terms from left to right.
pub type Rule = Vec<Term>;
