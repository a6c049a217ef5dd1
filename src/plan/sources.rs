//! Who may use the external addresses and NodePorts of a Service: loadBalancerSourceRanges (specification 5.5), and the
//! annotation `portway.io/denied-source-ranges`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::model::{Family, Service};

/// Addresses from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRange {
    /// The first one.
    pub first: IpAddr,
    /// The last one, of the same family.
    pub last: IpAddr,
}

impl SourceRange {
    /// All addresses of a family.
    fn all(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self { first: Ipv4Addr::UNSPECIFIED.into(), last: Ipv4Addr::BROADCAST.into() },
            Family::Ipv6 => Self { first: Ipv6Addr::UNSPECIFIED.into(), last: Ipv6Addr::from(u128::MAX).into() },
        }
    }

    /// The networks it consists of, as few as possible.
    pub(super) fn networks(self) -> IpSubnets {
        match (self.first, self.last) {
            (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)),
            (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
            // Both ends are of one family.
            _ => IpSubnets::V4(Ipv4Subnets::new(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, 0)),
        }
    }

    /// What is left of it without a network, which lies within it, apart from it, or around it.
    fn without(self, net: &IpNet) -> [Option<Self>; 2] {
        let (from, to) = (net.network(), net.broadcast());
        if to < self.first || from > self.last {
            return [Some(self), None];
        }
        let before = (from > self.first).then(|| Self { first: self.first, last: step(from, u128::wrapping_sub) });
        let behind = (to < self.last).then(|| Self { first: step(to, u128::wrapping_add), last: self.last });
        [before, behind]
    }
}

impl From<IpNet> for SourceRange {
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

impl fmt::Display for SourceRange {
    /// As a network, where it is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let host_bits = 128 - (number(*first) ^ number(*last)).leading_zeros();
        let net = IpNet::new(*first, (bits - host_bits) as u8).ok();
        match net.filter(|net| Self::from(net.trunc()) == *self) {
            Some(net) => write!(f, "{net}"),
            None => write!(f, "{first}-{last}"),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The address next to one. Callers know that there is one.
fn step(ip: IpAddr, by: fn(u128, u128) -> u128) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(by(u32::from(ip).into(), 1) as u32).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(by(ip.into(), 1)).into(),
    }
}

/// Who may use the addresses of a Service in one family; `None` for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AllowedSources {
    /// Its load balancer addresses.
    pub(super) balancers: Option<Vec<SourceRange>>,
    /// Its external IPs and NodePorts.
    pub(super) others: Option<Vec<SourceRange>>,
    /// How many networks each of the former is.
    pub(super) balancer_networks: usize,
    pub(super) other_networks: usize,
}

impl AllowedSources {
    pub(super) fn of(service: &Service, balancers: &[IpAddr], family: Family, node_ip: Option<IpAddr>) -> Self {
        let denied = service.options().denied_sources.iter().filter(|net| Family::of_net(net) == family);
        let denied: Vec<IpNet> = denied.copied().collect();
        // Nearly all Services deny nobody.
        let denied = if denied.is_empty() { denied } else { IpNet::aggregate(&denied) };
        let allowed = allowed(service, balancers, family, node_ip);
        let (balancers, others) = (without(allowed, &denied, family), without(None, &denied, family));
        let networks = |ranges: &Option<Vec<SourceRange>>| {
            ranges.iter().flatten().map(|range| range.networks().count()).fold(0, usize::saturating_add)
        };
        let (balancer_networks, other_networks) = (networks(&balancers), networks(&others));
        Self { balancers, others, balancer_networks, other_networks }
    }
}

/// Takes denied networks away from what is allowed. Both are in order, and nothing in them overlaps: thousands of each take
/// one pass.
fn without(allowed: Option<Vec<SourceRange>>, denied: &[IpNet], family: Family) -> Option<Vec<SourceRange>> {
    if denied.is_empty() {
        return allowed;
    }
    let ranges = allowed.unwrap_or_else(|| vec![SourceRange::all(family)]);
    let (mut left, mut denied) = (Vec::with_capacity(ranges.len() + denied.len()), denied.iter().peekable());
    for range in ranges {
        let mut rest = Some(range);
        while let Some(range) = rest.take() {
            while denied.next_if(|net| net.broadcast() < range.first).is_some() {}
            let Some(net) = denied.peek() else {
                left.push(range);
                continue;
            };
            let [before, behind] = range.without(net);
            left.extend(before);
            rest = behind;
        }
    }
    Some(left)
}

/// Who may use the load balancer addresses of a Service (specification 5.5); `None` for everybody. An entry that cannot be
/// read may be of any family: then ranges of the other family alone close the addresses, too.
fn allowed(
    service: &Service,
    balancers: &[IpAddr],
    family: Family,
    node_ip: Option<IpAddr>,
) -> Option<Vec<SourceRange>> {
    let ranges = service.source_ranges.iter();
    let mut allowed: Vec<IpNet> = ranges.filter(|net| Family::of_net(net) == family).copied().collect();
    if (allowed.is_empty() && !service.bad_source_ranges) || allowed.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    if node_ip.is_some_and(|ip| allowed.iter().any(|net| net.contains(&ip))) {
        allowed.extend(balancers.iter().copied().map(IpNet::from));
    }
    Some(IpNet::aggregate(&allowed).into_iter().map(SourceRange::from).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(ranges: Option<Vec<SourceRange>>) -> Vec<String> {
        ranges.expect("restricted").iter().map(ToString::to_string).collect()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        IpNet::aggregate(&texts.iter().map(|text| text.parse().expect("a network")).collect())
    }

    #[test]
    fn denied_networks_leave_the_rest() {
        let rest = |denied: &[&str], family| texts(without(None, &nets(denied), family));
        assert_eq!(rest(&["10.0.0.0/8"], Family::Ipv4), ["0.0.0.0-9.255.255.255", "11.0.0.0-255.255.255.255"]);
        assert_eq!(rest(&["0.0.0.0/1"], Family::Ipv4), ["128.0.0.0/1"]);
        assert_eq!(rest(&["0.0.0.0/0"], Family::Ipv4), [""; 0]);
        assert_eq!(rest(&["::/1", "ffff::/16"], Family::Ipv6), ["8000::-fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        let allowed = Some(nets(&["192.0.2.0/24"]).into_iter().map(SourceRange::from).collect());
        assert_eq!(
            texts(without(allowed, &nets(&["192.0.2.7/32", "198.51.100.0/24"]), Family::Ipv4)),
            ["192.0.2.0-192.0.2.6", "192.0.2.8-192.0.2.255"]
        );
        assert_eq!(without(None, &[], Family::Ipv4), None);
    }

    proptest! {
        #[test]
        fn one_pass_leaves_what_taking_away_one_after_the_other_does(
            allowed in proptest::collection::vec((any::<u8>(), 0_u8..=8), 0..8),
            denied in proptest::collection::vec((any::<u8>(), 0_u8..=8), 1..20),
        ) {
            let nets = |list: &[(u8, u8)]| {
                let net = |(at, bits): &(u8, u8)| IpNet::new([10, 0, 0, *at].into(), 24 + bits).expect("a network").trunc();
                IpNet::aggregate(&list.iter().map(net).collect())
            };
            let allowed = (!allowed.is_empty()).then(|| nets(&allowed).into_iter().map(SourceRange::from).collect::<Vec<_>>());
            let denied = nets(&denied);
            let mut rest = allowed.clone().unwrap_or_else(|| vec![SourceRange::all(Family::Ipv4)]);
            for net in &denied {
                rest = rest.into_iter().flat_map(|range| range.without(net)).flatten().collect();
            }
            prop_assert_eq!(without(allowed, &denied, Family::Ipv4), Some(rest));
        }
    }

    #[test]
    fn ranges_consist_of_networks() {
        let networks = |denied: &[&str], family| -> Vec<String> {
            let ranges = without(None, &nets(denied), family).expect("restricted");
            ranges.iter().flat_map(|range| range.networks()).map(|net| net.to_string()).collect()
        };
        assert_eq!(networks(&["192.0.0.0/3"], Family::Ipv4), ["0.0.0.0/1", "128.0.0.0/2", "224.0.0.0/3"]);
        assert_eq!(networks(&["::/0"], Family::Ipv6), [""; 0]);
        // The most that one denied network costs.
        assert_eq!(networks(&["10.0.0.7/32"], Family::Ipv4).len(), 32);
        assert_eq!(networks(&["2001:db8::7/128"], Family::Ipv6).len(), 128);
        let all = SourceRange::all(Family::Ipv6).networks().collect::<Vec<_>>();
        assert_eq!(all, ["::/0".parse::<IpNet>().expect("a network")]);
    }

    proptest! {
        #[test]
        fn whoever_is_allowed_and_not_denied_may(
            allowed in proptest::option::of(proptest::collection::vec((any::<u8>(), 24_u8..=32), 0..5)),
            denied in proptest::collection::vec((any::<u8>(), 24_u8..=32), 1..6),
        ) {
            let net = |(last, len): (u8, u8)| IpNet::new([10, 0, 0, last].into(), len).expect("valid").trunc();
            let list = |all: Vec<(u8, u8)>| IpNet::aggregate(&all.into_iter().map(net).collect());
            let (allowed, denied) = (allowed.map(list), list(denied));
            let ranges: Option<Vec<SourceRange>> =
                allowed.clone().map(|nets| nets.into_iter().map(SourceRange::from).collect());
            let ranges = without(ranges, &denied, Family::Ipv4).expect("restricted");
            for last in 0..=255 {
                let ip = IpAddr::from([10, 0, 0, last]);
                let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
                let wanted = allowed.as_ref().is_none_or(|nets| within(nets)) && !within(&denied);
                let found = ranges.iter().filter(|range| range.first <= ip && ip <= range.last).count();
                prop_assert_eq!(found, usize::from(wanted), "{} in {:?}", ip, ranges);
                let found = ranges.iter().flat_map(|range| range.networks()).filter(|net| net.contains(&ip)).count();
                prop_assert_eq!(found, usize::from(wanted), "{} in the networks of {:?}", ip, ranges);
            }
        }
    }
}
