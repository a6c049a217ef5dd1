//! Services of every kind, and where their answers may come from.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::testbed::{NODE, NODE_IPS};

pub(crate) const POD_PORT: u16 = 8080;

/// A pod, with an address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    number: u8,
    /// On the node, or elsewhere.
    pub(crate) local: bool,
}

const fn pod(number: u8, local: bool) -> Pod {
    Pod { number, local }
}

/// Three on the node, three elsewhere.
pub(crate) const PODS: [Pod; 6] =
    [pod(1, true), pod(2, true), pod(3, true), pod(1, false), pod(2, false), pod(3, false)];

impl Pod {
    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        let range: u8 = if self.local { 1 } else { 2 };
        let v6 = [0xfd00, u16::from(range), 0, 0, 0, 0, 0, u16::from(self.number)];
        [IpAddr::from([10, range, 0, self.number]), IpAddr::from(v6)]
    }
}

/// Where all pods listen.
pub(crate) fn addresses() -> Vec<IpAddr> {
    PODS.iter().flat_map(|pod| pod.addresses()).collect()
}

/// A kind of Service, and the way to ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ClusterIp,
    ClusterIpv6,
    Udp,
    Udpv6,
    NodePort,
    NodePortv6,
    ExternalIp,
    LoadBalancer,
    InternalLocal,
    ExternalLocal,
    Sticky,
    StickyNodePort,
}

impl Kind {
    pub(crate) const ALL: [Kind; 12] = [
        Kind::ClusterIp,
        Kind::ClusterIpv6,
        Kind::Udp,
        Kind::Udpv6,
        Kind::NodePort,
        Kind::NodePortv6,
        Kind::ExternalIp,
        Kind::LoadBalancer,
        Kind::InternalLocal,
        Kind::ExternalLocal,
        Kind::Sticky,
        Kind::StickyNodePort,
    ];

    fn is_ipv6(self) -> bool {
        matches!(self, Kind::ClusterIpv6 | Kind::Udpv6 | Kind::NodePortv6)
    }

    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Kind::Udp | Kind::Udpv6)
    }

    fn is_local(self) -> bool {
        matches!(self, Kind::InternalLocal | Kind::ExternalLocal)
    }

    pub(crate) fn is_sticky(self) -> bool {
        matches!(self, Kind::Sticky | Kind::StickyNodePort)
    }

    fn has_node_port(self) -> bool {
        matches!(self, Kind::NodePort | Kind::NodePortv6 | Kind::ExternalLocal | Kind::StickyNodePort)
    }
}

/// One Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    /// There are several of each kind.
    pub(crate) group: u8,
}

impl Service {
    /// One of each kind.
    pub(crate) fn group(group: u8) -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(move |kind| Self { kind, group })
    }

    pub(crate) fn name(self) -> String {
        format!("{:?}-{}", self.kind, self.group).to_lowercase()
    }

    fn cluster_ip(self) -> IpAddr {
        let number = self.kind as u8 + 1;
        if self.kind.is_ipv6() {
            IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, u16::from(self.group), u16::from(number)])
        } else {
            IpAddr::from([10, 96, self.group, number])
        }
    }

    fn node_port(self) -> u16 {
        30_000 + u16::from(self.group) * 20 + self.kind as u16
    }

    fn outside_ip(self) -> IpAddr {
        IpAddr::from([203, 0, 113, self.group * 20 + self.kind as u8])
    }

    /// Where clients ask.
    pub(crate) fn address(self) -> SocketAddr {
        match self.kind {
            Kind::ExternalIp | Kind::LoadBalancer => (self.outside_ip(), 80).into(),
            kind if kind.has_node_port() => {
                let ip: IpAddr = NODE_IPS[usize::from(kind.is_ipv6())].parse().expect("valid");
                (ip, self.node_port()).into()
            }
            _ => (self.cluster_ip(), 80).into(),
        }
    }

    /// Where answers may come from, when these are the endpoints.
    pub(crate) fn answers(self, endpoints: &[Pod]) -> BTreeSet<IpAddr> {
        let usable = endpoints.iter().filter(|pod| pod.local || !self.kind.is_local());
        usable.map(|pod| pod.addresses()[usize::from(self.kind.is_ipv6())]).collect()
    }

    pub(crate) fn object(self) -> Value {
        let protocol = if self.kind.is_udp() { "UDP" } else { "TCP" };
        let ip = self.cluster_ip();
        let mut object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "testbed", "name": self.name()},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": [self.family()],
                "ports": [{"name": "p", "port": 80, "protocol": protocol}]}});
        let spec = &mut object["spec"];
        if self.kind.has_node_port() {
            spec["type"] = json!("NodePort");
            spec["ports"][0]["nodePort"] = json!(self.node_port());
        }
        match self.kind {
            Kind::ExternalIp => spec["externalIPs"] = json!([self.outside_ip()]),
            Kind::InternalLocal => spec["internalTrafficPolicy"] = json!("Local"),
            Kind::ExternalLocal => spec["externalTrafficPolicy"] = json!("Local"),
            Kind::LoadBalancer => {
                spec["type"] = json!("LoadBalancer");
                object["status"] = json!({"loadBalancer": {"ingress": [{"ip": self.outside_ip()}]}});
            }
            kind if kind.is_sticky() => spec["sessionAffinity"] = json!("ClientIP"),
            _ => {}
        }
        object
    }

    pub(crate) fn slice(self, endpoints: &[Pod]) -> Value {
        let protocol = if self.kind.is_udp() { "UDP" } else { "TCP" };
        let endpoint = |pod: &Pod| {
            let address = pod.addresses()[usize::from(self.kind.is_ipv6())];
            let node = if pod.local { NODE } else { "node-b" };
            json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
        };
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": self.family(),
            "metadata": {"namespace": "testbed", "name": format!("{}-1", self.name()),
                "labels": {"kubernetes.io/service-name": self.name()}},
            "ports": [{"name": "p", "port": POD_PORT, "protocol": protocol}], "endpoints": endpoints})
    }

    fn family(self) -> &'static str {
        if self.kind.is_ipv6() { "IPv6" } else { "IPv4" }
    }
}

pub(crate) fn node() -> Value {
    let addresses: Vec<Value> = NODE_IPS.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": addresses}})
}

pub(crate) fn service_cidr() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/64"]}})
}
