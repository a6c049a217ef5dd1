//! Elements that Services share: in force while at least one of them needs it.

use std::net::IpAddr;

use crate::model::Family;
use crate::plan::Member;
use crate::ruleset::{Bytes, SetId};

/// An element that Services share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SharedElement {
    ClusterIp(IpAddr),
    Hairpin(IpAddr),
    AfterDnatEndpoint(IpAddr),
    Pingable(IpAddr),
    Unpingable(IpAddr),
}

impl SharedElement {
    pub(super) fn member(self) -> Member {
        match self {
            SharedElement::ClusterIp(ip) => Member::cluster_ip(ip),
            SharedElement::Hairpin(ip) => Member::hairpin(ip),
            SharedElement::AfterDnatEndpoint(ip) => Member::after_dnat_endpoint(ip),
            SharedElement::Pingable(ip) => Member::pingable(ip),
            SharedElement::Unpingable(ip) => Member::unpingable(ip),
        }
    }

    /// The one with this key, whether there is such an element or not.
    pub(super) fn at(family: Family, set: SetId, key: &Bytes) -> Option<Self> {
        let ip = match family {
            Family::Ipv4 => key.ipv4_at(0)?,
            Family::Ipv6 => key.ipv6_at(0)?,
        };
        let shared = match set {
            SetId::ClusterIps => SharedElement::ClusterIp(ip),
            SetId::Hairpin => SharedElement::Hairpin(ip),
            SetId::AfterDnatEndpoints => SharedElement::AfterDnatEndpoint(ip),
            SetId::Pingable => SharedElement::Pingable(ip),
            SetId::Unpingable => SharedElement::Unpingable(ip),
            _ => return None,
        };
        (shared.member().element.key == *key).then_some(shared)
    }
}
