//! The Kubernetes objects, cut down to the fields that are read: the rest is skipped while parsing.
//!
//! Every field may be absent or null; what that means is decided in `convert`.

mod annotations;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};

pub use self::annotations::Annotations;
use crate::model::Kind;

/// A kind this program reads.
pub trait ApiObject: DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static {
    /// The full type, for group, version and plural.
    type Resource: kube::Resource<DynamicType = ()>;
    /// The model's name for it.
    const KIND: Kind;

    /// `metadata`.
    fn metadata(&self) -> &Metadata;
}

macro_rules! api_object {
    ($name:ident, $resource:ty) => {
        impl ApiObject for $name {
            type Resource = $resource;
            const KIND: Kind = Kind::$name;

            fn metadata(&self) -> &Metadata {
                self.metadata.as_ref()
            }
        }
    };
}

api_object!(Service, k8s_openapi::api::core::v1::Service);
api_object!(EndpointSlice, k8s_openapi::api::discovery::v1::EndpointSlice);
api_object!(Node, k8s_openapi::api::core::v1::Node);
api_object!(NodeAddresses, k8s_openapi::api::core::v1::Node);
api_object!(ServiceCidr, k8s_openapi::api::networking::v1::ServiceCIDR);

impl AsRef<Metadata> for Metadata {
    fn as_ref(&self) -> &Metadata {
        self
    }
}

/// `metadata`, cut down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Absent on cluster-scoped objects.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The labels that mean something.
    pub labels: Option<Labels>,
    /// The annotations that mean something.
    pub annotations: Option<Annotations>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Set while finalizers hold the object.
    pub deletion_timestamp: Present,
    /// Where a watch goes on after this object.
    pub resource_version: Option<String>,
}

/// The labels that mean something; others are not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// The Service of an EndpointSlice.
    #[serde(rename = "kubernetes.io/service-name")]
    pub service_name: Option<String>,
    /// An EndpointSlice of a headless Service: not for proxies.
    #[serde(rename = "service.kubernetes.io/headless", deserialize_with = "any_value")]
    pub headless: bool,
    /// The proxy that serves the Service, if it is not the cluster's usual one; may be empty.
    #[serde(rename = "service.kubernetes.io/service-proxy-name", deserialize_with = "text_if_present")]
    pub service_proxy_name: Option<String>,
}

/// A label counts when it is there, whatever its value.
fn any_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A label that is there without a value has the empty one.
fn text_if_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|value| Some(value.unwrap_or_default()))
}

/// Whether a field is there and not null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<IgnoredAny>::deserialize(deserializer).map(|value| Self(value.is_some()))
    }
}

/// core/v1 Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: Option<ServiceSpec>,
    /// `status`.
    pub status: Option<ServiceStatus>,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub service_type: Option<String>,
    /// The primary cluster IP, or `None`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// All cluster IPs, one of each family.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// The families of `clusterIPs`, in the same order.
    pub ip_families: Option<Vec<String>>,
    /// Addresses routed to the nodes by other means.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// Clients that may use the load balancer's addresses.
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// Cluster or Local.
    pub external_traffic_policy: Option<String>,
    /// Cluster or Local.
    pub internal_traffic_policy: Option<String>,
    /// None or ClientIP.
    pub session_affinity: Option<String>,
    /// How long affinity lasts.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The port load balancers probe.
    pub health_check_node_port: Option<i64>,
    /// The ports.
    pub ports: Option<Vec<ServicePort>>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// For ClientIP.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Idle time after which a client is forgotten.
    pub timeout_seconds: Option<i64>,
}

/// One of `spec.ports`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// The name slices refer to.
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Option<String>,
    /// The port number.
    pub port: Option<i64>,
    /// The port on each node.
    pub node_port: Option<i64>,
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// What the cloud gave.
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// `status.loadBalancer`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// The load balancer's addresses.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// Absent when the load balancer has a host name instead.
    pub ip: Option<String>,
    /// VIP or Proxy.
    pub ip_mode: Option<String>,
}

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// `metadata`.
    pub metadata: Metadata,
    /// IPv4, IPv6 or FQDN.
    pub address_type: Option<String>,
    /// The ports all endpoints have.
    pub ports: Option<Vec<EndpointPort>>,
    /// The endpoints.
    pub endpoints: Option<Vec<Endpoint>>,
}

/// One of a slice's `ports`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Matched with the Service port's name.
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Option<String>,
    /// The number on the pods.
    pub port: Option<i64>,
}

/// One of a slice's `endpoints`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Only the first is used.
    pub addresses: Option<Vec<String>>,
    /// Whether it may get traffic.
    pub conditions: Option<Conditions>,
    /// Where the pod runs.
    pub node_name: Option<String>,
    /// For whom the endpoint is meant.
    pub hints: Option<Hints>,
}

/// `conditions` of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Absent means true.
    pub ready: Option<bool>,
    /// Absent means true.
    pub serving: Option<bool>,
    /// Absent means false.
    pub terminating: Option<bool>,
}

/// `hints` of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Zones that shall use it.
    pub for_zones: Option<Vec<Hint>>,
    /// Nodes that shall use it.
    pub for_nodes: Option<Vec<Hint>>,
}

/// One hint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// The zone's or node's name.
    pub name: Option<String>,
}

/// core/v1 Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `metadata`.
    pub metadata: NodeMetadata,
    /// `spec`.
    pub spec: Option<NodeSpec>,
    /// `status`.
    pub status: Option<NodeStatus>,
}

/// The same Node, cut down further: what is read of all nodes of a cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddresses {
    /// `metadata`.
    pub metadata: Metadata,
    /// `status`.
    pub status: Option<NodeStatus>,
}

/// `metadata` of a Node. Any of its labels may mean something.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeMetadata {
    /// All labels.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// The rest.
    #[serde(flatten)]
    pub common: Metadata,
}

impl AsRef<Metadata> for NodeMetadata {
    fn as_ref(&self) -> &Metadata {
        &self.common
    }
}

/// `spec` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// The primary range of pod addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// All ranges of pod addresses.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// The taints.
    pub taints: Option<Vec<Taint>>,
}

/// One of `spec.taints`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// The taint's key.
    pub key: Option<String>,
}

/// `status` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The node's addresses.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// One of `status.addresses`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// InternalIP, ExternalIP, Hostname, ...
    #[serde(rename = "type")]
    pub address_type: Option<String>,
    /// The address.
    pub address: Option<String>,
}

/// networking.k8s.io/v1 ServiceCIDR.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: Option<ServiceCidrSpec>,
}

/// `spec` of a ServiceCIDR.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// One range, or one of each family.
    pub cidrs: Option<Vec<String>>,
}
