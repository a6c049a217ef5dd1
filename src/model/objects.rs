//! Services and EndpointSlices, already parsed and checked.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use super::{EndpointWeights, Family, Protocol, ServiceOptions};

/// Namespace and name of an object. Keys are in many maps, so it is one string: both, with a zero byte in between, which
/// neither can have and which keeps the order of the two.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    const SEPARATOR: &str = "\0";

    /// A key from its two parts.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self::shared(namespace.as_ref(), name.as_ref(), |text| text.into())
    }

    /// A key whose text comes from a pool.
    pub fn shared(namespace: &str, name: &str, pool: impl FnOnce(&str) -> Arc<str>) -> Self {
        Self(pool(&[namespace, Self::SEPARATOR, name].concat()))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(Self::SEPARATOR).unwrap_or(("", &self.0))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = self.parts();
        write!(f, "{namespace}/{name}")
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `spec.type` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// `ClusterIP`, the default.
    #[default]
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`: never programmed (specification 3.1).
    ExternalName,
}

/// A Service. Addresses are canonical; bad ones were reported and left out by the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in seconds since the epoch; older Services win contested frontends.
    pub created: Option<i64>,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs` (or `clusterIP`), at most one of each family; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` absent or `VIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Valid entries of `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// An entry of `spec.loadBalancerSourceRanges` cannot be read. It lets nobody in: it must not open what was meant to
    /// be closed.
    pub bad_source_ranges: bool,
    /// `spec.externalTrafficPolicy: Local`, as written (see [`Service::external_local`]).
    pub external_policy_local: bool,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_policy_local: bool,
    /// `sessionAffinity: ClientIP` and its idle timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.healthCheckNodePort`, when not 0.
    pub health_check_node_port: Option<u16>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// What annotations `portway.io/...` say, if there are any (see [`Service::options`]).
    pub annotated: Option<Box<ServiceOptions>>,
}

impl Service {
    /// The ClusterIP of a family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// The options users chose by annotation, or the defaults.
    pub fn options(&self) -> &ServiceOptions {
        static DEFAULT: ServiceOptions = ServiceOptions::DEFAULT;
        self.annotated.as_deref().unwrap_or(&DEFAULT)
    }

    /// Whether external policy Local takes effect (specification 3.2): only for types LoadBalancer and NodePort, and
    /// for ClusterIP with external IPs.
    pub fn external_local(&self) -> bool {
        self.external_policy_local
            && match self.service_type {
                ServiceType::LoadBalancer | ServiceType::NodePort => true,
                ServiceType::ClusterIp => !self.external_ips.is_empty(),
                ServiceType::ExternalName => false,
            }
    }
}

/// One entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port name; empty for an unnamed single port.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on ClusterIP, external IPs and load balancer IPs.
    pub port: u16,
    /// `nodePort`, when not 0.
    pub node_port: Option<u16>,
}

/// An EndpointSlice of address type IPv4 or IPv6 that names its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// The Service named by the label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: ObjectKey,
    /// `addressType`.
    pub family: Family,
    /// Ports with a name and a number; the model sorts them.
    pub ports: Vec<SlicePort>,
    /// Endpoints with a usable address.
    pub endpoints: Vec<Endpoint>,
    /// The annotation `portway.io/weights`, if there is one (see [`EndpointSlice::weight`]).
    pub weights: Option<Box<EndpointWeights>>,
    /// When the pod or Service changed that made somebody write this version of the slice (the annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`). No rule depends on it.
    pub changed_at: Option<SystemTime>,
}

impl EndpointSlice {
    /// The numbers of a port. Its ports must be sorted.
    pub fn numbers_of(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = u16> {
        debug_assert!(self.ports.is_sorted(), "a slice that is not from the model");
        let first = self.ports.partition_point(|port| (&*port.name, port.protocol) < (name, protocol));
        let from_there = self.ports[first..].iter();
        from_there.take_while(move |port| (&*port.name, port.protocol) == (name, protocol)).map(|port| port.port)
    }

    /// The weight of an endpoint, from 1 to [`EndpointWeights::MAX`].
    pub fn weight(&self, endpoint: &IpAddr) -> u8 {
        self.weights.as_ref().and_then(|weights| weights.of.get(endpoint)).copied().unwrap_or(1)
    }

    /// Whether another version of the slice leads to the same rules: all but [`EndpointSlice::changed_at`] is equal.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        // Destructured without `..`, so a new field must be handled here.
        let Self { key, service, family, ports, endpoints, weights, changed_at: _ } = self;
        *key == other.key
            && *service == other.service
            && *family == other.family
            && *ports == other.ports
            && *endpoints == other.endpoints
            && *weights == other.weights
    }
}

/// One entry of a slice's `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// Matched with the Service port's name.
    pub name: Arc<str>,
    /// Matched with the Service port's protocol.
    pub protocol: Protocol,
    /// The number on the pod.
    pub port: u16,
}

/// One entry of a slice's `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`, of the slice's family.
    pub address: IpAddr,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means true.
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// Where it is and whom it is for.
    pub placement: Arc<Placement>,
}

/// Where an endpoint is, and from where connections are to go there. There are few of them, and endpoints share them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Placement {
    /// `nodeName`; absent means not local anywhere.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`; empty when there is no hint.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`; empty when there is no hint.
    pub node_hints: Vec<Arc<str>>,
}

impl Hash for Placement {
    /// Without the lengths of the lists: most are empty, and each endpoint that is read is looked up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.node.hash(state);
        self.zone_hints.iter().chain(&self.node_hints).for_each(|hint| hint.hash(state));
    }
}

impl Placement {
    /// On a node, without hints.
    pub fn on(node: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { node: Some(node.into()), ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_by_namespace_then_name() {
        let mut keys = ["a/z", "a/b", "a-b/a", "/c", "a.b/"].map(|text| text.split_once('/').expect("a key"));
        keys.sort_unstable();
        let mut joined = keys.map(|(namespace, name)| ObjectKey::new(namespace, name));
        joined.reverse();
        joined.sort_unstable();
        assert_eq!(joined.each_ref().map(|key| (key.namespace(), key.name())), keys);
        assert_eq!(joined[1].to_string(), "a/b");
    }

    #[test]
    fn endpoints_stay_small() {
        assert!(size_of::<Endpoint>() <= 32, "a large cluster has a million of them");
    }
}
