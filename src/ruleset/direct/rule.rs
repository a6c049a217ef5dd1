//! Chains and rules of the table `netdev portway`.

use std::fmt;
use std::str::FromStr;

use super::{DirectMap, DirectTable, SlotHash};
use crate::model::Family;

/// What the chain of an interface is called, but for its name.
const INGRESS: &str = "ingress-";
/// What a chain that hands packets on is called, but for family and hash.
const FORWARD: &str = "forward";
/// What the digit of IPv6 is in a name; that of IPv4 is left out.
const IPV6: &str = "6";
const PORTS: &str = "-ports";

/// A chain that hands packets on; shared by all frontends with the same hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardChain {
    /// The family of the packets.
    pub family: Family,
    /// How their slot is found.
    pub hash: SlotHash,
}

impl fmt::Display for ForwardChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, hash: SlotHash { modulus, ports } } = self;
        write!(f, "{FORWARD}{}-{modulus}{}", digit(*family), if *ports { PORTS } else { "" })
    }
}

impl FromStr for ForwardChain {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (family, rest) = name.strip_prefix(FORWARD).and_then(|rest| with_family(rest, "-")).ok_or(())?;
        let (modulus, ports) = rest.strip_suffix(PORTS).map_or((rest, false), |rest| (rest, true));
        let chain = Self { family, hash: SlotHash { modulus: modulus.parse().map_err(|_| ())?, ports } };
        // `forward-+5` is another name.
        if chain.to_string() == name { Ok(chain) } else { Err(()) }
    }
}

/// A chain of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DirectChain {
    /// Hands packets on.
    Forward(ForwardChain),
    /// What comes in on the interface with this index enters here.
    Ingress(u32),
}

/// A rule of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectRule {
    /// Packets of this family to a frontend go to the chain of its hash.
    Leave(Family),
    /// Packets that are meant for another host go on.
    SkipOthers,
    /// Fragments of IPv4 go on, because only the first has ports.
    SkipFragments,
    /// Hands on a packet whose slot leads to a node behind this interface.
    HandOn {
        /// The chain it is in.
        chain: ForwardChain,
        /// The index of the interface.
        device: u32,
        /// Only if the way back to the client leaves by that interface, too.
        strict: bool,
    },
}

impl DirectTable {
    /// All chains, and the rules in each.
    pub fn all_chains(&self) -> Vec<DirectChain> {
        let ingress = self.devices.keys().map(|device| DirectChain::Ingress(*device));
        self.chains().into_iter().map(DirectChain::Forward).chain(ingress).collect()
    }

    /// The rules of a chain.
    pub fn rules(&self, chain: DirectChain) -> Vec<DirectRule> {
        match chain {
            DirectChain::Ingress(_) => self.families().into_iter().map(DirectRule::Leave).collect(),
            DirectChain::Forward(chain) => {
                // A bridge or a listener can have the interface take packets that are meant for others.
                let mut rules = vec![DirectRule::SkipOthers];
                if chain.family == Family::Ipv4 {
                    rules.push(DirectRule::SkipFragments);
                }
                let hand_on = |device: &u32| {
                    let strict = chain.family == Family::Ipv4 && self.strict.contains(device);
                    DirectRule::HandOn { chain, device: *device, strict }
                };
                rules.extend(self.devices.keys().map(hand_on));
                rules
            }
        }
    }

    /// What a chain is called.
    pub fn chain_name(&self, chain: DirectChain) -> String {
        match chain {
            DirectChain::Forward(chain) => chain.to_string(),
            DirectChain::Ingress(device) => format!("{INGRESS}{}", self.device(device)),
        }
    }

    /// What a map is called.
    pub fn name(&self, map: DirectMap) -> String {
        match map {
            DirectMap::Frontends(family) => format!("frontends{}", digit(family)),
            DirectMap::Nodes(family, device) => format!("nodes{}-{}", digit(family), self.device(device)),
        }
    }

    fn device(&self, index: u32) -> &str {
        self.devices.get(&index).map_or("", |name| name)
    }
}

impl DirectMap {
    /// The map with a name; `index` finds interfaces.
    pub fn named(name: &str, index: impl FnOnce(&str) -> Option<u32>) -> Option<Self> {
        for family in Family::ALL {
            if name.strip_prefix("frontends") == Some(digit(family)) {
                return Some(DirectMap::Frontends(family));
            }
        }
        let (family, device) = with_family(name.strip_prefix("nodes")?, "-")?;
        Some(DirectMap::Nodes(family, index(device)?))
    }
}

impl DirectChain {
    /// The chain with a name; `index` finds interfaces.
    pub fn named(name: &str, index: impl FnOnce(&str) -> Option<u32>) -> Option<Self> {
        match name.strip_prefix(INGRESS) {
            Some(device) => index(device).map(DirectChain::Ingress),
            None => name.parse().ok().map(DirectChain::Forward),
        }
    }
}

fn digit(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "",
        Family::Ipv6 => IPV6,
    }
}

/// Takes the digit of a family, and what follows it, off the beginning of a name.
fn with_family<'a>(rest: &'a str, end: &str) -> Option<(Family, &'a str)> {
    let of_ipv6 = rest.strip_prefix(IPV6).and_then(|rest| rest.strip_prefix(end));
    of_ipv6.map(|rest| (Family::Ipv6, rest)).or_else(|| Some((Family::Ipv4, rest.strip_prefix(end)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        let mut table = DirectTable::default();
        table.devices.extend([(7, "eth0".into()), (9, "6-b".into())]);
        let index = |name: &str| [("eth0", 7), ("6-b", 9)].iter().find(|(known, _)| *known == name).map(|(_, i)| *i);
        for family in Family::ALL {
            for map in [DirectMap::Frontends(family), DirectMap::Nodes(family, 7), DirectMap::Nodes(family, 9)] {
                assert_eq!(DirectMap::named(&table.name(map), index), Some(map));
            }
            for ports in [false, true] {
                let chain = DirectChain::Forward(ForwardChain { family, hash: SlotHash { modulus: 1024, ports } });
                assert_eq!(DirectChain::named(&table.chain_name(chain), index), Some(chain));
            }
        }
        assert_eq!(DirectChain::named("ingress-6-b", index), Some(DirectChain::Ingress(9)));
        for name in ["ingress-eth1", "forward-", "forward-+5", "forward7-5", "forward-5-port", "spare"] {
            assert_eq!(DirectChain::named(name, index), None, "{name}");
        }
        for name in ["frontends7", "frontends-", "nodes", "nodes-", "nodes6", "nodes-eth1"] {
            assert_eq!(DirectMap::named(name, index), None, "{name}");
        }
    }
}
