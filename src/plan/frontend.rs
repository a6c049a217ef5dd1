//! Frontends: the (address, protocol, port) combinations a Service answers on, and what happens there.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::Protocol;
use crate::ruleset::Bytes;

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
    /// LoadBalancer IP of mode VIP: external traffic policy, source ranges.
    LoadBalancer,
    /// External IP: external traffic policy.
    ExternalIp,
    /// NodePort: external traffic policy.
    NodePort,
}

/// Where a connection may be sent: an endpoint's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// What a frontend does with new connections (specification 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No endpoints anywhere: ICMP port unreachable.
    Refuse,
    /// Endpoints exist, but the policy leaves none here.
    Drop,
    /// One of these, at random; not empty.
    Balance(Vec<Target>),
    /// External policy Local: pods and this node take one of `cluster` (not empty), everybody else one of `local`.
    ExternalLocal {
        /// The cluster set.
        cluster: Vec<Target>,
        /// The local set; empty means drop.
        local: Vec<Target>,
    },
}

/// One frontend of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What it answers on.
    pub key: FrontendKey,
    /// Its kind.
    pub class: Class,
    /// `namespace/service:port`, for comments.
    pub label: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Idle timeout in seconds of session affinity ClientIP.
    pub affinity_seconds: Option<u32>,
    /// loadBalancerSourceRanges: disjoint networks that may connect; `None` for no restriction.
    pub sources: Option<Vec<IpNet>>,
}

impl Frontend {
    /// All endpoints connections can be sent to, those of the cluster set first; one may come twice.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let (first, second): (&[Target], &[Target]) = match &self.action {
            Action::Refuse | Action::Drop => (&[], &[]),
            Action::Balance(targets) => (targets, &[]),
            Action::ExternalLocal { cluster, local } => (cluster, local),
        };
        first.iter().chain(second)
    }
}
