//! Where NodePorts answer: kube-proxy's `nodePortAddresses`, with the keywords of Kubernetes 1.37.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::{Family, parse_cidr};
use crate::plan::NodePortAddresses;

/// The Node's primary IP of each family.
const PRIMARY: &str = "primary";
/// 127.0.0.0/8 and ::1/128.
const LOCALHOST: &str = "localhost";
/// 0.0.0.0/0 and ::/0.
const ALL: &str = "all";

/// kube-proxy's `nodePortAddresses` (specification 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePortsOn {
    /// `primary`: the node IP of each family.
    pub primary: bool,
    /// Addresses of this host in these ranges. A family without a range uses all its addresses, as in kube-proxy; with
    /// `primary`, only the node IP, and none where there is no node IP.
    pub ranges: Vec<IpNet>,
}

impl NodePortsOn {
    /// The node IP of each family: what counts where nothing is said.
    pub fn primary() -> Self {
        Self { primary: true, ranges: Vec::new() }
    }

    /// Addresses in these ranges.
    pub fn ranges(ranges: Vec<IpNet>) -> Self {
        Self { primary: false, ranges }
    }

    /// Reads keywords and ranges, in any mixture; the error is the index of the first that is neither.
    pub(super) fn parse(items: &[String]) -> Result<Self, usize> {
        let mut this = Self::default();
        for (index, item) in items.iter().enumerate() {
            match item.as_str() {
                PRIMARY => this.primary = true,
                LOCALHOST => this.ranges.extend(Family::ALL.map(loopback)),
                ALL => this.ranges.extend(Family::ALL.map(everything)),
                range => this.ranges.push(parse_cidr(range).map_err(|_| index)?),
            }
        }
        Ok(this)
    }

    /// The ranges of a family.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.ranges.iter().filter(move |net| Family::of_net(net) == family)
    }

    /// 127.0.0.1 or ::1 is named, not just covered by a range that has other addresses, too: NodePorts are relayed there
    /// (KEP-6032).
    pub fn names_localhost(&self, family: Family) -> bool {
        let here = localhost(family);
        self.of_family(family).any(|net| net.network().is_loopback() && net.contains(&here))
    }

    /// Ranges of loopback addresses in which no NodePort answers.
    pub(super) fn useless_loopback(&self) -> impl Iterator<Item = &IpNet> {
        self.ranges.iter().filter(|net| net.network().is_loopback() && !net.contains(&localhost(Family::of_net(net))))
    }

    /// Which of this host's addresses answer NodePorts by the rules.
    pub(super) fn addresses(
        &self,
        family: Family,
        node_ip: Option<IpAddr>,
        local: &BTreeSet<IpAddr>,
    ) -> NodePortAddresses {
        let primary = node_ip.filter(|ip| self.primary && !ip.is_loopback()).map(IpNet::from);
        let ranges: Vec<IpNet> = self.of_family(family).copied().chain(primary).collect();
        if self.primary && ranges.is_empty() {
            // Without a node IP of the family there is none to answer: never all addresses in its place.
            return NodePortAddresses::Listed(Vec::new());
        }
        if ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0) {
            return NodePortAddresses::AllLocal;
        }
        let listed = |ip: &&IpAddr| !ip.is_loopback() && ranges.iter().any(|net| net.contains(*ip));
        NodePortAddresses::Listed(local.iter().filter(listed).copied().collect())
    }
}

/// The loopback address on which NodePorts can be relayed.
fn localhost(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodePortsOn, usize> {
        let items: Vec<String> = text.split(',').map(str::to_owned).collect();
        NodePortsOn::parse(&items)
    }

    /// What answers on a host with two addresses of IPv4, the first of them the Node's, and one of IPv6.
    fn answers(text: &str, family: Family) -> String {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an IP") };
        let local = ["127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "fd00::1"].map(ip).into();
        let node_ip = Some(ip("10.0.0.1")).filter(|_| family == Family::Ipv4);
        match parse(text).expect("valid").addresses(family, node_ip, &local) {
            NodePortAddresses::AllLocal => "all".into(),
            NodePortAddresses::Listed(listed) => listed.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        }
    }

    #[test]
    fn keywords_and_ranges_in_any_mixture() {
        for (text, v4, v6) in [
            ("primary", "10.0.0.1", ""),
            ("all", "all", "all"),
            ("localhost", "", ""),
            ("primary,localhost", "10.0.0.1", ""),
            ("localhost,primary,192.0.2.0/24", "10.0.0.1,192.0.2.1", ""),
            ("primary,192.0.2.0/24,fd00::/8", "10.0.0.1,192.0.2.1", "fd00::1"),
            ("primary,all", "all", "all"),
            ("192.0.2.0/24", "192.0.2.1", "all"),
            ("0.0.0.0/0,127.0.0.1/32", "all", "all"),
        ] {
            let found = (answers(text, Family::Ipv4), answers(text, Family::Ipv6));
            assert_eq!(found, (v4.to_owned(), v6.to_owned()), "{text}");
        }
    }

    #[test]
    fn localhost_has_to_be_named() {
        for (text, v4, v6) in [
            ("localhost", true, true),
            ("primary,localhost", true, true),
            ("all,localhost", true, true),
            ("0.0.0.0/0,127.0.0.1/32", true, false),
            ("127.0.0.0/8", true, false),
            ("127.1.2.3/8", true, false),
            ("::1/128", false, true),
            ("all", false, false),
            ("primary", false, false),
            ("0.0.0.0/1", false, false),
            ("127.0.0.2/32", false, false),
        ] {
            let named = parse(text).expect("valid");
            let found = Family::ALL.map(|family| named.names_localhost(family));
            assert_eq!(found, [v4, v6], "{text}");
            assert_eq!(named.useless_loopback().count(), usize::from(text == "127.0.0.2/32"), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_named() {
        for (text, index) in [("x", 0), ("primary,10.0.0.1", 1), ("Primary", 0), ("all,localhost,", 2)] {
            assert_eq!(parse(text), Err(index), "{text}");
        }
    }
}
