//! What the rules depend on besides Services and endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::FrontendKey;
use crate::model::{Family, Protocol};

/// How packets of pods are told from others (specification 6.2), in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodDetection {
    /// No data in this family: nobody counts as a pod.
    None,
    /// The source address is in this range (modes ClusterCIDR and NodeCIDR).
    Source(IpNet),
    /// The packet arrived on this interface (mode BridgeInterface).
    Interface(String),
    /// The packet arrived on an interface whose name begins so (mode InterfaceNamePrefix).
    InterfacePrefix(String),
}

/// Which addresses of the node answer NodePorts (specification 5.1), in one family. Loopback never does: see
/// [`FamilySettings::localhost`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every address the routing table calls local.
    AllLocal,
    /// Just these.
    Listed(Vec<IpAddr>),
}

/// Settings of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilySettings {
    /// Who is a pod.
    pub pods: PodDetection,
    /// Where NodePorts answer.
    pub node_ports: NodePortAddresses,
    /// This node's own address: source ranges that contain it let the load balancer's addresses in (specification 5.5).
    pub node_ip: Option<IpAddr>,
    /// Where Service addresses are answered for echo requests: this node's own address; `None` for nowhere.
    pub pings_to: Option<IpAddr>,
    /// The loopback address on which NodePorts are relayed (KEP-6032); `None` for nowhere.
    pub localhost: Option<IpAddr>,
    /// TCP flows to endpoints that are gone are cut: where nobody else serves their frontend, clients are told so by a reset.
    pub cuts_flows: bool,
}

/// A socket of this process that listens for TCP on addresses of this node: no frontend may take its connections away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    /// What it is, for messages: `health server`.
    pub name: &'static str,
    /// Where it listens; the unspecified address of either family stands for all addresses of both.
    pub address: SocketAddr,
}

impl ListeningSocket {
    /// Whether new connections to a frontend are meant for it. NodePorts do not answer on loopback.
    pub fn is_hit_by(&self, key: &FrontendKey, family: Family, node_ip: Option<IpAddr>) -> bool {
        let (ip, everywhere) = (self.address.ip(), self.address.ip().is_unspecified());
        match *key {
            FrontendKey::NodePort { protocol: Protocol::Tcp, port } => {
                port == self.address.port() && (everywhere || (Family::of(ip) == family && !ip.is_loopback()))
            }
            FrontendKey::Address { ip: claimed, protocol: Protocol::Tcp, port } => {
                port == self.address.port() && (claimed == ip || (everywhere && node_ip == Some(claimed)))
            }
            _ => false,
        }
    }
}

/// How much room maps get. A map without a size is enlarged by the kernel as it fills. One with a size is faster to fill,
/// check and list, but has to be replaced before it is full. By default those have one that are so large that it pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Maps with fewer elements have no size.
    pub floor: u32,
    /// The others have room for this many times their elements, rounded up to a power of two.
    pub headroom: u32,
}

impl Default for Sizing {
    fn default() -> Self {
        Self { floor: 4096, headroom: 2 }
    }
}

/// All settings of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name endpoints' `nodeName` and node hints are compared with.
    pub node_name: Arc<str>,
    /// The zone that zone hints are compared with.
    pub zone: Arc<str>,
    /// The Node's labels.
    pub node_labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Masquerade everything sent to a ClusterIP.
    pub masquerade_all: bool,
    /// Program externalIPs (feature gate AllowServiceExternalIPs).
    pub external_ips: bool,
    /// Other nodes may hand connections on to this one, and this one to others.
    pub direct_return: bool,
    /// ServiceCIDR ranges of both families.
    pub service_cidrs: Vec<IpNet>,
    /// Room of the maps.
    pub sizing: Sizing,
    /// The kernel can choose endpoints by a hash; else it is at random whatever Services ask for.
    pub hashing: bool,
    /// Servers of this process.
    pub listeners: Vec<ListeningSocket>,
    /// IPv4; `None` when the family is not served.
    pub ipv4: Option<FamilySettings>,
    /// IPv6; `None` when the family is not served.
    pub ipv6: Option<FamilySettings>,
}

impl Settings {
    /// The settings of a family that is served.
    pub fn family(&self, family: Family) -> Option<&FamilySettings> {
        match family {
            Family::Ipv4 => self.ipv4.as_ref(),
            Family::Ipv6 => self.ipv6.as_ref(),
        }
    }

    /// The families that are served.
    pub fn families(&self) -> impl Iterator<Item = (Family, &FamilySettings)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.family(family)?)))
    }
}
