//! Settings that lack what they go by in a family that Services use: what they ask for does not happen.

use super::{DetectLocal, Options};
use crate::model::{Balance, Family, Model, Service};

/// A setting without data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// A word for programs: `NoPodRange`, `NoNodeAddress`, `NoHashing`.
    pub reason: &'static str,
    /// The family.
    pub family: Family,
    /// One sentence, with what to do.
    pub text: String,
}

impl Options {
    /// What lacks data in families that Services use. Looks at all Services where there is no lack, so not at each sync.
    pub fn shortfalls(&self, model: &Model) -> Vec<Shortfall> {
        let is_used = |family: Family, counts: fn(&Service) -> bool| {
            model.services().any(|service| service.cluster_ip(family).is_some() && counts(service))
        };
        let mut found = Vec::new();
        for family in self.families.iter().copied() {
            if let Some(text) = self.without_pods(family, model).filter(|_| is_used(family, |_| true)) {
                found.push(Shortfall { reason: "NoPodRange", family, text });
            }
            let has_node_ports = |service: &Service| service.ports.iter().any(|port| port.node_port.is_some());
            if let Some(text) = self.without_node_ip(family, model).filter(|_| is_used(family, has_node_ports)) {
                found.push(Shortfall { reason: "NoNodeAddress", family, text });
            }
            if !self.hashing && is_used(family, |service| service.options().balance != Balance::Random) {
                let text =
                    "this kernel lacks CONFIG_NFT_HASH (nft_hash), so portway.io/balance is not heeded: endpoints are \
                            chosen at random; load the module and start Portway again"
                        .to_owned();
                found.push(Shortfall { reason: "NoHashing", family, text });
            }
        }
        found
    }

    /// Why nobody counts as a pod, as far as that can be told without the cluster.
    pub fn pod_detection_lacks(&self, family: Family) -> Option<String> {
        match self.detect_local {
            DetectLocal::ClusterCidr(ref nets) if nets.is_empty() => self.without_pods(family, &Model::default()),
            _ => None,
        }
    }

    /// Why nobody counts as a pod.
    fn without_pods(&self, family: Family, model: &Model) -> Option<String> {
        let of_family = |net: &ipnet::IpNet| Family::of_net(net) == family;
        let (lack, remedy) = match &self.detect_local {
            DetectLocal::ClusterCidr(nets) if !nets.iter().any(of_family) => (
                format!("detectLocalMode is ClusterCIDR, and clusterCIDR has no {family} range"),
                "set --cluster-cidr (clusterCIDR) to the pods' range, or choose another --detect-local-mode",
            ),
            DetectLocal::NodeCidr if !model.node().is_some_and(|node| node.pod_cidrs.iter().any(of_family)) => (
                format!("detectLocalMode is NodeCIDR, and the Node has no {family} podCIDR"),
                "have one allocated, or choose another --detect-local-mode",
            ),
            _ => return None,
        };
        // What is masqueraded anyway needs no detection.
        let effect = match self.masquerade_all {
            true => "policy Local treats pods as clients outside",
            false => {
                "connections to ClusterIPs are not masqueraded, and answers that take another route back are lost; policy \
                 Local treats pods as clients outside"
            }
        };
        Some(format!("{lack}: no client is recognised as a pod, so {effect}; {remedy}"))
    }

    /// Why no address answers NodePorts.
    fn without_node_ip(&self, family: Family, model: &Model) -> Option<String> {
        let on = &self.node_ports;
        if !on.primary || on.of_family(family).next().is_some() {
            return None;
        }
        let ip = self.node_ip(model.node(), family).filter(|ip| !ip.is_loopback());
        let is_here = |ip| model.local_addresses().is_none_or(|addresses| addresses.contains(&ip));
        let (lack, remedy) = match (ip, model.node()) {
            (Some(ip), _) if is_here(ip) => return None,
            (Some(ip), _) => {
                (format!("no interface of this host has {ip}, the Node's address,"), "give an interface this one")
            }
            (None, Some(node)) => (format!("Node {} has no {family} address", node.name), "give the Node one"),
            (None, None) => (format!("there is no Node {}", self.node_name), "give the Node one"),
        };
        Some(format!(
            "{lack} and nodePortAddresses is primary: NodePorts answer on no {family} address; {remedy}, or name ranges with \
             --nodeport-addresses"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodePortsOn;
    use crate::model::{Event, Node, ServiceOptions, ServicePort, ServiceType};
    use crate::testing::{self, added, added_node, ip, service_port};

    fn model(cluster_ips: &[&str], node_port: Option<u16>, node: Option<(&[&str], &[&str])>) -> Model {
        let mut model = Model::default();
        let service = Service {
            service_type: ServiceType::NodePort,
            cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
            ports: vec![ServicePort { node_port, ..service_port("", 80) }],
            ..testing::service("web", "10.96.0.1")
        };
        model.apply(added(service));
        if let Some((ips, pods)) = node {
            model.apply(added_node(Node {
                pod_cidrs: pods.iter().map(|net| net.parse().expect("CIDR")).collect(),
                ..testing::node("n", ips)
            }));
        }
        model
    }

    fn reasons(options: &Options, model: &Model) -> Vec<(&'static str, Family)> {
        options.shortfalls(model).iter().map(|lack| (lack.reason, lack.family)).collect()
    }

    #[test]
    fn lacks_count_in_families_that_services_use() {
        let (pods, address) = ("NoPodRange", "NoNodeAddress");
        let node: Option<(&[&str], &[&str])> = Some((&["10.0.0.1"], &["10.1.0.0/24"]));
        let v4 = model(&["10.96.0.1"], Some(30_000), node);
        let dual = model(&["10.96.0.1", "fd00::1"], Some(30_000), node);
        let inner = model(&["10.96.0.1", "fd00::1"], None, node);
        let nobody = model(&["10.96.0.1"], Some(30_000), None);
        let (four, six) = (Family::Ipv4, Family::Ipv6);

        let mut options = Options::new("n");
        assert_eq!(reasons(&options, &v4), [(pods, four)]);
        assert_eq!(reasons(&options, &dual), [(pods, four), (pods, six), (address, six)]);
        assert_eq!(reasons(&options, &inner), [(pods, four), (pods, six)]);
        assert_eq!(reasons(&options, &nobody), [(pods, four), (address, four)]);
        assert_eq!(reasons(&options, &Model::default()), []);
        options.detect_local = DetectLocal::NodeCidr;
        assert_eq!(reasons(&options, &dual), [(pods, six), (address, six)]);
        options.detect_local = DetectLocal::InterfaceNamePrefix("veth".into());
        assert_eq!(reasons(&options, &v4), []);
        options.node_ports = NodePortsOn::ranges(Vec::new());
        assert_eq!(reasons(&options, &dual), []);
    }

    /// As where the Node has a floating address that the host does not know.
    #[test]
    fn the_nodes_address_is_on_an_interface() {
        let mut options = Options::new("n");
        options.detect_local = DetectLocal::InterfaceNamePrefix("veth".into());
        let mut model = model(&["10.96.0.1"], Some(30_000), Some((&["203.0.113.9"], &[])));
        assert_eq!(reasons(&options, &model), [], "not known yet");
        model.apply(Event::LocalAddresses([ip("192.168.7.1")].into()));
        assert_eq!(reasons(&options, &model), [("NoNodeAddress", Family::Ipv4)]);
        let lacks = options.shortfalls(&model);
        assert!(lacks[0].text.starts_with("no interface of this host has 203.0.113.9"), "{}", lacks[0].text);
        let ranges =
            Options { node_ports: NodePortsOn::ranges(vec!["192.168.0.0/16".parse().expect("a range")]), ..options };
        assert_eq!(reasons(&ranges, &model), []);
        model.apply(Event::LocalAddresses([ip("203.0.113.9")].into()));
        assert_eq!(reasons(&Options { node_ports: Options::new("n").node_ports, ..ranges }, &model), []);
    }

    #[test]
    fn a_kernel_without_hashes_is_told_of_where_services_ask_for_them() {
        let options = Options { detect_local: DetectLocal::InterfaceNamePrefix("veth".into()), ..Options::new("n") };
        let without = Options { hashing: false, ..options.clone() };
        let mut model = model(&["10.96.0.1"], None, None);
        assert_eq!(reasons(&without, &model), []);
        let hashing = ServiceOptions { balance: Balance::SourceIp, ..ServiceOptions::DEFAULT };
        let service = testing::service("hashing", "10.96.0.2");
        model.apply(added(Service { annotated: Some(hashing.into()), ..service }));
        assert_eq!(reasons(&options, &model), []);
        assert_eq!(reasons(&without, &model), [("NoHashing", Family::Ipv4)]);
    }

    #[test]
    fn each_lack_says_what_to_do() {
        for lack in Options::new("n").shortfalls(&model(&["10.96.0.1", "fd00::1"], Some(30_000), None)) {
            assert!(lack.text.contains(&lack.family.to_string()) && lack.text.contains("--"), "{}", lack.text);
        }
    }
}
