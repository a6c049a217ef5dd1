//! The Node this proxy runs for, and the ranges Service addresses come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The part of this proxy's Node that packet rules depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The node name, compared with endpoints' `nodeName` and node hints by exact equality.
    pub name: Arc<str>,
    /// Raw node IPs (specification 2.3): InternalIPs, then ExternalIPs; at most one of each family, the first is primary.
    pub ips: Vec<IpAddr>,
    /// All InternalIPs, in the order of the Node.
    pub internal_ips: Vec<IpAddr>,
    /// The label `topology.kubernetes.io/zone`; absent counts as "".
    pub zone: Arc<str>,
    /// All labels, for the selectors of Services.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Being deleted, by deletionTimestamp or the cluster autoscaler's taint: not eligible for load balancers.
    pub deleting: bool,
}

/// A ServiceCIDR object: its name and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCidr {
    /// The object's name (cluster-scoped).
    pub name: Arc<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}
