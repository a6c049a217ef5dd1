//! Settings against the Node and the host: families that do not fit (specification 1.4, second table).

use std::net::SocketAddr;

use super::{Configuration, DetectLocal};
use crate::model::{Family, Node};

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The process must end.
    pub is_fatal: bool,
    /// One line.
    pub text: String,
}

impl Configuration {
    /// Looks for settings of families that the node does not have. `families` are those of the host, also where its kernel
    /// cannot serve one of them: that stops this one only.
    pub fn findings(&self, node: Option<&Node>, families: &[Family]) -> Vec<Finding> {
        let options = self.options();
        let primary = options.primary_family(node);
        let single = families.len() < 2;
        let mut found = Vec::new();
        let mut add = |is_fatal, text: String| found.push(Finding { is_fatal, text });
        if !families.contains(&primary) {
            add(true, format!("the node's primary family is {primary}, which this host does not have"));
        }
        let node_ports = &options.node_ports;
        let ip = |family: Family| options.node_ip(node, family).filter(|ip| node_ports.primary && !ip.is_loopback());
        // Ranges of one family do not restrict the other one, in kube-proxy neither; `primary` does.
        let open: Vec<Family> = families
            .iter()
            .copied()
            .filter(|f| ip(*f).is_none() && node_ports.of_family(*f).next().is_none())
            .collect();
        if node_ports.primary {
            // Services of a family without an address are told when there are any ([`Options::shortfalls`]).
            if open.len() == families.len() {
                add(false, "this node has no IP: no address answers NodePorts until it has one".into());
            }
        } else {
            for family in open {
                let text = format!(
                    "nodePortAddresses has no range of {family}: NodePorts answer on all its {family} addresses; name a range \
                     to restrict them"
                );
                add(false, text);
            }
        }
        if let DetectLocal::ClusterCidr(nets) = &options.detect_local
            && !nets.is_empty()
            && !nets.iter().any(|net| Family::of_net(net) == primary)
        {
            add(single, format!("clusterCIDR has no range of the node's primary family {primary}"));
        }
        let pods = node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        if !pods.is_empty() && !pods.iter().any(|net| Family::of_net(net) == primary) {
            let is_fatal = options.detect_local == DetectLocal::NodeCidr;
            add(is_fatal, format!("the Node's podCIDRs have no range of its primary family {primary}"));
        }
        for (name, address) in [("healthz", self.health_address), ("metrics", self.metrics_address)] {
            let misses = |address: &SocketAddr| !address.ip().is_unspecified() && Family::of(address.ip()) != primary;
            if let Some(address) = address.filter(misses).filter(|_| single) {
                add(false, format!("the {name} address {address} is not of the node's primary family {primary}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    const BOTH: &[Family] = &Family::ALL;
    const V4: &[Family] = &[Family::Ipv4];

    fn findings(words: &[&str], node: &Node, families: &[Family]) -> Vec<(bool, String)> {
        let words = ["kube-proxy", "--hostname-override=n"].iter().chain(words).map(Into::into);
        let configuration = Configuration::load(Flags::parse(words).expect("flags")).expect("valid");
        let found = configuration.findings(Some(node), families);
        found.into_iter().map(|finding| (finding.is_fatal, finding.text)).collect()
    }

    fn node(ips: &[&str], pods: &[&str]) -> Node {
        Node {
            ips: ips.iter().map(|ip| ip.parse().expect("IP")).collect(),
            pod_cidrs: pods.iter().map(|net| net.parse().expect("CIDR")).collect(),
            ..Node::default()
        }
    }

    fn assert_one(found: &[(bool, String)], is_fatal: bool, word: &str) {
        assert!(found.len() == 1 && found[0].0 == is_fatal && found[0].1.contains(word), "{found:?}");
    }

    #[test]
    fn what_fits_gives_nothing() {
        let node = node(&["10.0.0.1", "fd00::1"], &["10.1.0.0/24", "fd01::/64"]);
        assert_eq!(findings(&["--cluster-cidr=10.1.0.0/16,fd01::/48"], &node, BOTH), []);
        assert_eq!(findings(&["--nodeport-addresses=10.0.0.0/8"], &node, V4), []);
    }

    #[test]
    fn families_that_do_not_fit() {
        let four = node(&["10.0.0.1"], &[]);
        let all = "--nodeport-addresses=all";
        assert_one(&findings(&["--cluster-cidr=fd01::/48"], &four, V4), true, "clusterCIDR");
        assert_one(&findings(&["--cluster-cidr=fd01::/48", all], &four, BOTH), false, "clusterCIDR");
        assert_eq!(findings(&["--cluster-cidr=fd01::/48", "--detect-local-mode=NodeCIDR"], &four, V4), []);
        let found = findings(&["--nodeport-addresses=10.0.0.0/8"], &four, BOTH);
        assert_one(&found, false, "NodePorts answer on all its IPv6 addresses");
        for closed in ["primary", "primary,10.0.0.0/8", "primary,localhost", "primary,fd00::/8", "all"] {
            assert_eq!(findings(&[&format!("--nodeport-addresses={closed}")], &four, BOTH), [], "{closed}");
        }
        assert_one(
            &findings(&["--bind-address=fd00::1", "--metrics-bind-address=::1"], &four, V4),
            true,
            "does not have",
        );
        assert_one(&findings(&["--metrics-bind-address=::1"], &four, V4), false, "metrics");
        assert_eq!(findings(&["--metrics-bind-address=::"], &four, V4), []);
        let odd = node(&["10.0.0.1"], &["fd01::/64"]);
        assert_one(&findings(&[all], &odd, BOTH), false, "podCIDRs");
        assert_one(&findings(&["--detect-local-mode=NodeCIDR", all], &odd, BOTH), true, "podCIDRs");
        assert_one(&findings(&[], &node(&[], &[]), BOTH), false, "no IP");
    }
}
