//! The table `netdev portway`: packets to frontends with direct return are handed on to the node of their endpoint, as they
//! are, before this node translates or tracks them. What it says nothing about goes on into the tables of `ip` and `ip6`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Bytes, FieldType, SetSpec, ValueType};
use crate::model::Family;

/// What nftables calls the family of the table.
pub const DIRECT_FAMILY: &str = "netdev";

/// What the table holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectTable {
    /// Where packets are taken and handed on: names of interfaces by their index.
    pub devices: BTreeMap<u32, Arc<str>>,
    /// The frontends, each with at least one slot that leads to another node.
    pub frontends: BTreeMap<(Family, Bytes), DirectFrontend>,
}

/// A frontend some of whose endpoints are on other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectFrontend {
    /// What finds the slot of a packet.
    pub hash: SlotHash,
    /// `namespace/service:port`, for comments.
    pub label: Arc<str>,
    /// Where each slot leads; `None` for the ordinary path, which picks the same endpoint.
    pub slots: Arc<[Option<Hop>]>,
}

/// Another node on the same layer-2 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// The index of the interface behind which the node is.
    pub device: u32,
    /// The node's address there.
    pub address: IpAddr,
}

/// How a slot is found. It must be what the tables of `ip` and `ip6` do on the endpoint's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotHash {
    /// The number of slots.
    pub modulus: u32,
    /// Of the client's address and port, not of the address alone.
    pub ports: bool,
}

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
        write!(f, "forward{}-{modulus}{}", digit(*family), if *ports { "-ports" } else { "" })
    }
}

/// A map of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DirectMap {
    /// Verdict map: frontend to its [`ForwardChain`].
    Frontends(Family),
    /// Frontend and slot to the address of the node behind the interface with this index.
    Nodes(Family, u32),
}

impl DirectMap {
    /// The family of its keys.
    pub fn family(self) -> Family {
        match self {
            DirectMap::Frontends(family) | DirectMap::Nodes(family, _) => family,
        }
    }

    /// Its declaration, without the name: that depends on the interface.
    pub fn spec(self) -> SetSpec {
        use FieldType::{Address, Port, Protocol, Slot};
        let (key, value): (&'static [FieldType], _) = match self {
            DirectMap::Frontends(_) => (&[Address, Protocol, Port], ValueType::Verdict),
            DirectMap::Nodes(..) => (&[Address, Protocol, Port, Slot], ValueType::Node),
        };
        SetSpec {
            name: "",
            key,
            value,
            interval: false,
            dynamic: false,
            counter: false,
            size: None,
            timeout_seconds: None,
        }
    }
}

/// An element of a [`DirectMap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectElement {
    /// The frontend, and the slot where the map has it.
    pub key: Bytes,
    /// Where it leads.
    pub value: DirectValue,
    /// For people.
    pub comment: Option<Arc<str>>,
}

/// The value of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectValue {
    /// In [`DirectMap::Frontends`].
    Forward(ForwardChain),
    /// In [`DirectMap::Nodes`].
    Node(IpAddr),
}

/// Elements by map and key.
pub type DirectElements = BTreeMap<(DirectMap, Bytes), DirectElement>;

impl DirectTable {
    /// Nothing is handed on: there is no need for a table.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() || self.frontends.is_empty()
    }

    /// The chains in use.
    pub fn chains(&self) -> BTreeSet<ForwardChain> {
        self.frontends
            .iter()
            .map(|((family, _), frontend)| ForwardChain { family: *family, hash: frontend.hash })
            .collect()
    }

    /// The families in use.
    pub fn families(&self) -> BTreeSet<Family> {
        self.frontends.keys().map(|(family, _)| *family).collect()
    }

    /// The maps of the chains in use.
    pub fn maps(&self) -> Vec<DirectMap> {
        let nodes = |family| self.devices.keys().map(move |device| DirectMap::Nodes(family, *device));
        self.families().into_iter().flat_map(|f| [DirectMap::Frontends(f)].into_iter().chain(nodes(f))).collect()
    }

    /// What a map is called.
    pub fn name(&self, map: DirectMap) -> String {
        match map {
            DirectMap::Frontends(family) => format!("frontends{}", digit(family)),
            DirectMap::Nodes(family, device) => {
                let name = self.devices.get(&device).map_or("", |name| &**name);
                format!("nodes{}-{name}", digit(family))
            }
        }
    }

    /// The elements of all maps.
    pub fn elements(&self) -> DirectElements {
        self.frontends.iter().flat_map(|((family, key), frontend)| frontend.elements(*family, key)).collect()
    }
}

impl DirectFrontend {
    /// Its elements.
    pub fn elements(&self, family: Family, key: &Bytes) -> Vec<((DirectMap, Bytes), DirectElement)> {
        let (key, label) = (*key, || Some(self.label.clone()));
        let chain = DirectValue::Forward(ForwardChain { family, hash: self.hash });
        let entry = |map, key, value, comment| ((map, key), DirectElement { key, value, comment });
        let slot = |(slot, hop): (usize, &Option<Hop>)| {
            let (hop, key) = ((*hop)?, key.u32_host(slot as u32));
            Some(entry(DirectMap::Nodes(family, hop.device), key, DirectValue::Node(hop.address), None))
        };
        let slots = self.slots.iter().enumerate().filter_map(slot);
        [entry(DirectMap::Frontends(family), key, chain, label())].into_iter().chain(slots).collect()
    }
}

fn digit(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "",
        Family::Ipv6 => "6",
    }
}
