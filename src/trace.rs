//! Follows one packet through a table: a small interpreter of the rules, and the answer to "why did it go there".
//!
//! It evaluates the same rules and elements that the kernel gets. `tests/tracer.rs` compares its answers with real
//! packets.

mod ingress;
mod walk;

pub use ingress::{Ingress, trace_at_ingress};

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::model::{Family, Protocol};
use crate::plan::Target;
use crate::ruleset::{ChainId, DIRECT_FAMILY, Listing};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A connection.
    Connect {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// An answer to an ICMP or ICMPv6 echo request.
    Echo,
}

impl Request {
    /// The protocol's number in a packet of a family.
    fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Request::Connect { protocol, .. }, _) => protocol.number(),
            (Request::Echo, Family::Ipv4) => 1,
            (Request::Echo, Family::Ipv6) => 58,
        }
    }

    /// The port; an echo request has other things in its place, which no frontend has together with its protocol.
    fn port(self) -> u16 {
        match self {
            Request::Connect { port, .. } => port,
            Request::Echo => 0,
        }
    }
}

/// The first packet of a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The client.
    pub source: IpAddr,
    /// Where it wants to go.
    pub destination: IpAddr,
    /// What it asks for there.
    pub request: Request,
    /// The port it comes from, where that is known; only `balance: source-ip-port` looks at it.
    pub source_port: Option<u16>,
    /// The interface it arrives on; only the interface modes of pod detection look at it.
    pub interface: Option<String>,
}

/// What the tracer must know of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Addresses the routing table calls local, loopback aside.
    pub addresses: BTreeSet<IpAddr>,
}

impl Host {
    /// Whether the routing table calls an address local.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.contains(&ip)
    }
}

/// What the table does with a packet in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Sent to an endpoint.
    Translated {
        /// Which one.
        target: Target,
        /// The endpoint sees an address of this node instead of the client's.
        masquerade: bool,
    },
    /// An echo request that this node answers for the Service.
    Answered,
    /// A TCP reset: the endpoint is gone.
    Reset,
    /// ICMP port unreachable.
    Rejected,
    /// Discarded.
    Dropped,
    /// Handed on, as it is, to the node of its endpoint.
    HandedOn {
        /// The node's address.
        node: IpAddr,
    },
    /// Left alone.
    Untouched,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Translated { target, masquerade: true } => write!(f, "to {target}, masqueraded"),
            End::Translated { target, masquerade: false } => write!(f, "to {target}, source kept"),
            End::Answered => f.write_str("answered by this node"),
            End::Reset => f.write_str("reset: the endpoint is gone"),
            End::Rejected => f.write_str("rejected (ICMP port unreachable)"),
            End::Dropped => f.write_str("dropped"),
            End::HandedOn { node } => {
                write!(f, "handed on to node {node}, which sends it to an endpoint there, source kept")
            }
            End::Untouched => f.write_str("left alone"),
        }
    }
}

/// A chain of one of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepChain {
    /// Of `ip` or `ip6`.
    Table(ChainId),
    /// Of `netdev`.
    Direct(String),
}

impl fmt::Display for StepChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepChain::Table(chain) => chain.fmt(f),
            StepChain::Direct(name) => write!(f, "{DIRECT_FAMILY} {name}"),
        }
    }
}

/// A rule that decided something on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// The chain of the rule.
    pub chain: StepChain,
    /// The rule, as `nft` writes it.
    pub rule: String,
    /// The element that matched, if the rule looks into a set or map.
    pub element: Option<String>,
}

impl fmt::Display for TraceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.chain, self.rule)?;
        match &self.element {
            Some(element) => write!(f, "  [{element}]"),
            None => Ok(()),
        }
    }
}

/// What happens with a packet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// The possible ends with their probabilities, which add up to 1; sorted.
    pub ends: Vec<(End, f64)>,
    /// The rules that decided, in order, each once.
    pub steps: Vec<TraceStep>,
}

/// Follows a packet. The hook is output when the source is an address of the host, else prerouting.
pub fn trace(listing: &Listing, host: &Host, packet: &Packet) -> Trace {
    walk::Walk::new(listing, host, packet, None).run()
}
