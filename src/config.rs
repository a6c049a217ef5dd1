//! What the user has configured, and the plan's settings that follow from it and from the model.
//!
//! [`Configuration::load`] reads flags and kube-proxy's file format; [`Options`] is the part of it that a controller
//! needs. `docs/configuration.md` lists every flag and field.

mod consistency;
mod defaults;
mod document;
mod duration;
mod effective;
mod error;
mod flags;
mod gates;
mod kube_proxy;
mod listen;
mod mode;
mod node_ports;
mod note;
mod notes;
mod overlay;
mod shortfalls;
mod validate;
mod values;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Family, Model, Node};
use crate::plan::{FamilySettings, ListeningSocket, PodDetection, Settings, Sizing};

pub use consistency::Finding;
pub use document::PortwayConfiguration;
pub use duration::GoDuration;
pub use effective::{ClientSettings, ConfigFile, Configuration, ConntrackSettings, LogSettings, Task};
pub use error::{ConfigError, InvalidField};
pub use flags::{FLAGS, Flag, Flags, PlanFlags, SourceFlags, normalise};
pub use kube_proxy::{
    ClientConnection, Conntrack, DetectLocalNames, Iptables, Ipvs, KubeProxyConfiguration, Logging, LoggingOptions,
    Nftables, Quantity, StreamOptions, VmoduleItem, Winkernel,
};
pub use mode::Mode;
pub use node_ports::NodePortsOn;
pub use note::Note;
pub use shortfalls::Shortfall;
pub use watch::FileWatch;

/// Where the socket for the operator's commands is when nobody says otherwise.
pub const ADMIN_SOCKET: &str = "/run/portway/admin.sock";

/// How pods are told from others: kube-proxy's `detectLocalMode` (specification 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the source address: the cluster's pod ranges, at most one of each family; none means no detection.
    ClusterCidr(Vec<IpNet>),
    /// By the source address: the Node's podCIDRs.
    NodeCidr,
    /// By the interface a packet arrived on.
    BridgeInterface(String),
    /// By the beginning of that interface's name.
    InterfaceNamePrefix(String),
}

/// The configuration of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The Node's name.
    pub node_name: Arc<str>,
    /// The families to serve.
    pub families: Vec<Family>,
    /// Who is a pod.
    pub detect_local: DetectLocal,
    /// Masquerade everything sent to a ClusterIP.
    pub masquerade_all: bool,
    /// Where NodePorts answer.
    pub node_ports: NodePortsOn,
    /// Relay NodePorts on localhost where `node_ports` names it.
    pub localhost_node_ports: bool,
    /// The primary node IP in the place of the Node's one of that family (specification 2.3).
    pub bind_address: Option<IpAddr>,
    /// Have Service addresses answer echo requests.
    pub answer_pings: bool,
    /// How long connections to endpoints that are gone are reset; zero: they are not.
    pub reset_for: Duration,
    /// Program externalIPs.
    pub external_ips: bool,
    /// Serve the Services with this label `service.kubernetes.io/service-proxy-name` only; `None`: those without it.
    pub service_proxy_name: Option<Arc<str>>,
    /// Interfaces on which packets are handed on to the node of their endpoint; none: no direct return.
    pub direct_return_devices: Vec<Arc<str>>,
    /// Interfaces of the flow table, or beginnings of their names with a `*`; none: no fast path.
    pub fast_path_devices: Vec<Arc<str>>,
    /// At least this long between two syncs; zero syncs as fast as changes come.
    pub min_sync_period: Duration,
    /// How long the first sync waits for the Node object (specification 2.3).
    pub node_wait: Duration,
    /// Wait for the host's addresses before the first sync.
    pub needs_addresses: bool,
    /// Room of the maps.
    pub sizing: Sizing,
    /// The kernel can choose endpoints by a hash.
    pub hashing: bool,
    /// Servers of this process, whose ports no Service gets.
    pub listeners: Vec<ListeningSocket>,
}

impl Options {
    /// Defaults for a node: everything as kube-proxy has it without a configuration.
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self {
            node_name: node_name.into(),
            families: Family::ALL.to_vec(),
            detect_local: DetectLocal::ClusterCidr(Vec::new()),
            masquerade_all: false,
            node_ports: NodePortsOn::primary(),
            localhost_node_ports: true,
            bind_address: None,
            answer_pings: false,
            reset_for: Duration::ZERO,
            external_ips: true,
            service_proxy_name: None,
            direct_return_devices: Vec::new(),
            fast_path_devices: Vec::new(),
            min_sync_period: Duration::ZERO,
            node_wait: Duration::ZERO,
            needs_addresses: false,
            sizing: Sizing::default(),
            hashing: true,
            listeners: Vec::new(),
        }
    }

    /// The plan's settings, given what is known of the Node, this host and the ServiceCIDRs.
    pub fn settings(&self, model: &Model) -> Settings {
        let node = model.node();
        let family = |family| self.families.contains(&family).then(|| self.family_settings(family, model));
        Settings {
            node_name: self.node_name.clone(),
            zone: node.map(|node| node.zone.clone()).unwrap_or_default(),
            node_labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
            masquerade_all: self.masquerade_all,
            external_ips: self.external_ips,
            direct_return: !self.direct_return_devices.is_empty(),
            // A proxy that serves some Services only must not refuse the addresses of others.
            service_cidrs: if self.service_proxy_name.is_none() { model.service_cidrs() } else { Vec::new() },
            sizing: self.sizing,
            hashing: self.hashing,
            listeners: self.listeners.clone(),
            ipv4: family(Family::Ipv4),
            ipv6: family(Family::Ipv6),
        }
    }

    /// The node IP of a family (specification 2.3).
    pub fn node_ip(&self, node: Option<&Node>, family: Family) -> Option<IpAddr> {
        let of_family = |ip: &IpAddr| Family::of(*ip) == family;
        self.bind_address.filter(of_family).or_else(|| node?.ips.iter().copied().find(|ip| of_family(ip)))
    }

    /// The families whose NodePorts are relayed on localhost.
    pub fn localhost_families(&self) -> Vec<Family> {
        let wanted = |family: &Family| self.localhost_node_ports && self.node_ports.names_localhost(*family);
        self.families.iter().copied().filter(wanted).collect()
    }

    /// The family that single-stack settings are expected to be of (specification 2.3).
    pub fn primary_family(&self, node: Option<&Node>) -> Family {
        let first = self.bind_address.or_else(|| node?.ips.first().copied());
        first.map_or(Family::Ipv4, Family::of)
    }

    fn family_settings(&self, family: Family, model: &Model) -> FamilySettings {
        let node_ip = self.node_ip(model.node(), family);
        let node_addresses =
            || Family::ALL.into_iter().filter_map(|family| self.node_ip(model.node(), family)).collect();
        // Without the host's addresses (`portway render`) the node IPs are taken to be configured.
        let local = model.local_addresses().cloned().unwrap_or_else(node_addresses);
        FamilySettings {
            pods: self.pod_detection(family, model.node()),
            node_ports: self.node_ports.addresses(family, node_ip, &local),
            node_ip,
            pings_to: node_ip.filter(|_| self.answer_pings),
            localhost: (self.localhost_node_ports && self.node_ports.names_localhost(family))
                .then(|| node_ports::localhost(family)),
            cuts_flows: !self.fast_path_devices.is_empty(),
        }
    }

    fn pod_detection(&self, family: Family, node: Option<&Node>) -> PodDetection {
        let first = |nets: &[IpNet]| nets.iter().find(|net| Family::of_net(net) == family).copied();
        let by_source = |net: Option<IpNet>| net.map_or(PodDetection::None, PodDetection::Source);
        match &self.detect_local {
            DetectLocal::ClusterCidr(nets) => by_source(first(nets)),
            DetectLocal::NodeCidr => by_source(node.and_then(|node| first(&node.pod_cidrs))),
            DetectLocal::BridgeInterface(name) => PodDetection::Interface(name.clone()),
            DetectLocal::InterfaceNamePrefix(prefix) => PodDetection::InterfacePrefix(prefix.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Event;
    use crate::plan::NodePortAddresses;

    fn with_node(ips: &[&str]) -> Model {
        let ips = ips.iter().map(|ip| ip.parse().expect("IP")).collect();
        let mut model = Model::default();
        model.apply(Event::Node(Box::new(Node { name: "n".into(), ips, ..Node::default() })));
        model
    }

    #[test]
    fn without_a_node_ip_of_the_family_no_address_answers_node_ports() {
        let mut model = with_node(&["10.0.0.1"]);
        let all = ["10.0.0.1", "10.9.0.1", "fd00::1", "fd00::2"].map(|ip| ip.parse().expect("IP"));
        model.apply(Event::LocalAddresses(all.into()));
        let on = |model: &Model| {
            let settings = Options::new("n").settings(model);
            [settings.ipv4, settings.ipv6].map(|family| family.expect("served").node_ports)
        };
        let listed = |ips: &[&str]| NodePortAddresses::Listed(ips.iter().map(|ip| ip.parse().expect("IP")).collect());
        assert_eq!(on(&model), [listed(&["10.0.0.1"]), listed(&[])]);
        let mut nobody = Model::default();
        nobody.apply(Event::LocalAddresses(all.into()));
        assert_eq!(on(&nobody), [listed(&[]), listed(&[])]);
    }

    #[test]
    fn bind_address_lies_over_the_nodes_of_its_family() {
        let model = with_node(&["10.0.0.1", "fd00::1"]);
        let mut options = Options::new("n");
        assert_eq!(options.primary_family(model.node()), Family::Ipv4);
        options.bind_address = Some("fd00::99".parse().expect("IP"));
        let settings = options.settings(&model);
        assert_eq!(settings.ipv4.and_then(|ipv4| ipv4.node_ip), "10.0.0.1".parse().ok());
        let ipv6 = settings.ipv6.expect("served");
        assert_eq!(ipv6.node_ip, "fd00::99".parse().ok());
        assert_eq!(ipv6.node_ports, NodePortAddresses::Listed(["fd00::99".parse().expect("IP")].into()));
        assert_eq!(options.primary_family(model.node()), Family::Ipv6);
        assert_eq!(options.node_ip(None, Family::Ipv6), "fd00::99".parse().ok());
        assert_eq!(Options::new("n").primary_family(with_node(&["fd00::1"]).node()), Family::Ipv6);
    }
}
