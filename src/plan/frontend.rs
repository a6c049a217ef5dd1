//! Frontends: the (address, protocol, port) combinations a Service answers on, and what happens there.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{SourceRange, Spread, Target};
use crate::model::{Balance, ObjectKey, Protocol};
use crate::ruleset::{Bytes, EndpointMap, hashed_slot};

/// What identifies a frontend within a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKey {
    /// A port of a ClusterIP, external IP or load balancer IP.
    Address {
        /// The address.
        ip: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// A port of the node's own addresses.
    NodePort {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl FrontendKey {
    /// As key of the frontend maps.
    pub fn bytes(&self) -> Bytes {
        match *self {
            FrontendKey::Address { ip, protocol, port } => Bytes::new().ip(ip).u8(protocol.number()).u16(port),
            FrontendKey::NodePort { protocol, port } => Bytes::new().u8(protocol.number()).u16(port),
        }
    }

    /// Reads [`FrontendKey::bytes`]; `None` when they are none.
    pub fn from_bytes(key: &Bytes) -> Option<Self> {
        let (ip, at) = match key.as_slice().len() {
            8 => (None, 0),
            12 => (Some(key.ipv4_at(0)?), 4),
            24 => (Some(key.ipv6_at(0)?), 16),
            _ => return None,
        };
        let (protocol, port) = (Protocol::from_number(key.u8_at(at)?)?, key.u16_at(at + 4)?);
        Some(match ip {
            Some(ip) => FrontendKey::Address { ip, protocol, port },
            None => FrontendKey::NodePort { protocol, port },
        })
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        match *self {
            FrontendKey::Address { protocol, .. } | FrontendKey::NodePort { protocol, .. } => protocol,
        }
    }

    /// Whether this is a NodePort.
    pub fn is_node_port(&self) -> bool {
        matches!(self, FrontendKey::NodePort { .. })
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrontendKey::Address { ip: IpAddr::V6(ip), protocol, port } => write!(f, "[{ip}]:{port}/{protocol}"),
            FrontendKey::Address { ip, protocol, port } => write!(f, "{ip}:{port}/{protocol}"),
            FrontendKey::NodePort { protocol, port } => write!(f, "node port {port}/{protocol}"),
        }
    }
}

/// Kind of frontend. The order decides contested frontends: a ClusterIP beats every other claim to its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// ClusterIP: internal traffic policy.
    ClusterIp,
    /// The health check server of a Service: no frontend, but a port of the node that no frontend may take. A check that
    /// somebody else answers tells load balancers lies.
    HealthCheck,
    /// LoadBalancer IP of mode VIP: external traffic policy, source ranges.
    LoadBalancer,
    /// External IP: external traffic policy.
    ExternalIp,
    /// NodePort: external traffic policy.
    NodePort,
}

/// Who has a frontend that a Service claims but does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontendOwner {
    /// Another Service.
    Service(ObjectKey),
    /// The health check server of a Service, maybe the same one.
    HealthCheck(ObjectKey),
    /// A server of this process.
    Server(&'static str),
}

impl fmt::Display for FrontendOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrontendOwner::Service(service) => write!(f, "Service {service}"),
            FrontendOwner::HealthCheck(service) => write!(f, "the healthCheckNodePort of Service {service}"),
            FrontendOwner::Server(name) => write!(f, "Portway's {name}"),
        }
    }
}

/// Which endpoints of a Service port (specification 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointSet {
    /// Those of the whole cluster.
    Cluster,
    /// Those on this node.
    Local,
}

/// What a frontend does with new connections (specification 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No endpoints anywhere: ICMP port unreachable.
    Refuse,
    /// Endpoints exist, but the policy leaves none here.
    Drop,
    /// One of these, at random if [`Frontend::spread`] says nothing else; not empty. The policy says which set they are.
    Balance(EndpointSet, Vec<Target>),
    /// External policy Local: pods and this node take one of `cluster` (not empty), everybody else one of `local`.
    ExternalLocal {
        /// The cluster set.
        cluster: Vec<Target>,
        /// The local set; empty means drop.
        local: Vec<Target>,
    },
    /// A NodePort on localhost: rules leave the connection to the relay, which takes one of these at random; without any,
    /// and for protocols it cannot relay, nobody listens and the kernel refuses.
    Relay(Vec<Target>),
}

/// Session affinity ClientIP (specification 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// Idle timeout in seconds.
    pub seconds: u32,
    /// Whose records these are: one number for all frontends of a Service port in a family, of that port alone. `diff`
    /// chooses it; 0 until then.
    pub number: u32,
}

impl Affinity {
    /// Numbers there are; the last ID is far from `root` (0xffffffff), which is no class ID to `nft`.
    pub const NUMBERS: u32 = 1 << 30;
    /// `1:0`, the smallest ID that looks like a class ID.
    const FIRST_ID: u32 = 0x1_0000;

    /// The ID of records that point into an endpoint set of the Service port. Each set has its own, so that a client who is
    /// remembered on a remote endpoint is not sent there where only local ones count.
    pub fn id(&self, set: EndpointSet) -> u32 {
        Self::FIRST_ID + 2 * self.number + u32::from(set == EndpointSet::Local)
    }

    /// The number in an ID; `None` when it is none of ours.
    pub fn number_of(id: u32) -> Option<u32> {
        id.checked_sub(Self::FIRST_ID).map(|id| id / 2).filter(|number| *number < Self::NUMBERS)
    }
}

/// How many slots more than there are endpoints the chains of a frontend choose from ([`crate::ruleset::Pick`]). `diff` chooses
/// them so that verdicts stay; none until then, and none where slots are not taken at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpareSlots {
    /// In the map for everybody, or for pods and this node when a policy is Local.
    all: u8,
    /// In the map for outside clients when external policy is Local.
    local: u8,
}

impl SpareSlots {
    /// Those in a map of the frontend's kind.
    pub fn get(self, map: EndpointMap) -> u8 {
        if map.is_local() { self.local } else { self.all }
    }

    /// Has so many in a map.
    pub fn set(&mut self, map: EndpointMap, spare: u8) {
        *(if map.is_local() { &mut self.local } else { &mut self.all }) = spare;
    }
}

/// Name and protocol: what tells the ports of a Service apart.
pub type PortKey = (Arc<str>, Protocol);

/// One frontend of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What it answers on.
    pub key: FrontendKey,
    /// Its kind.
    pub class: Class,
    /// Name of the Service port; with the protocol it tells the ports of a Service apart.
    pub port: Arc<str>,
    /// `namespace/service:port`, for comments.
    pub label: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Session affinity ClientIP.
    pub affinity: Option<Affinity>,
    /// Where endpoints do not have a slot each, taken at random.
    pub spread: Option<Box<Spread>>,
    /// Slots of its chains that no endpoint has.
    pub spare: SpareSlots,
    /// Other nodes may hand its connections on to this one, and this one to others: those to endpoints on this node keep the
    /// client's address.
    pub direct: bool,
    /// Who may connect, as disjoint ranges: loadBalancerSourceRanges without what is denied; `None` for no restriction.
    pub sources: Option<Vec<SourceRange>>,
}

impl Frontend {
    /// Which port of its Service it belongs to.
    pub fn port_key(&self) -> PortKey {
        (self.port.clone(), self.key.protocol())
    }

    /// The slots of one of its lists of endpoints, with the endpoint in each.
    pub fn slots<'t>(&self, targets: &'t [Target]) -> Cow<'t, [Target]> {
        match &self.spread {
            Some(spread) => Cow::Owned(spread.slots(targets)),
            None => Cow::Borrowed(targets),
        }
    }

    /// The slots that connections of a client may be given.
    pub fn slots_for(&self, client: IpAddr, targets: &[Target]) -> Vec<Target> {
        let slots = self.slots(targets);
        match self.spread.as_ref().map(|spread| spread.balance_of(targets)) {
            Some(Balance::SourceIp) => {
                let slot = hashed_slot(Bytes::new().ip(client).as_slice(), slots.len() as u32);
                slots.get(slot as usize).copied().into_iter().collect()
            }
            _ => slots.into_owned(),
        }
    }

    /// It is a NodePort on localhost.
    pub fn is_relayed(&self) -> bool {
        matches!(self.action, Action::Relay(_))
    }

    /// All endpoints that rules can send connections to, those of the cluster set first; one may come twice.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let (first, second): (&[Target], &[Target]) = match &self.action {
            Action::Refuse | Action::Drop | Action::Relay(_) => (&[], &[]),
            Action::Balance(_, targets) => (targets, &[]),
            Action::ExternalLocal { cluster, local } => (cluster, local),
        };
        first.iter().chain(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_written() {
        let (protocol, port) = (Protocol::Sctp, 4711);
        let address = |ip: &str| FrontendKey::Address { ip: ip.parse().expect("an address"), protocol, port };
        for key in [address("10.96.0.1"), address("fd00::1"), FrontendKey::NodePort { protocol, port }] {
            assert_eq!(FrontendKey::from_bytes(&key.bytes()), Some(key));
        }
        assert_eq!(FrontendKey::from_bytes(&Bytes::new().u16(port)), None);
    }
}
