//! The table `netdev portway`: packets to frontends with direct return are handed on to the node of their endpoint, as they
//! are, before this node translates or tracks them. What it says nothing about goes on into the tables of `ip` and `ip6`.

mod found;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Bytes, FieldType, SetSpec, ValueType};
use crate::model::Family;

pub use found::DirectFound;
pub use rule::{DirectChain, DirectRule, ForwardChain};

/// What nftables calls the family of the table.
pub const DIRECT_FAMILY: &str = "netdev";

/// What the table holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectTable {
    /// Where packets are taken and handed on: names of interfaces by their index.
    pub devices: BTreeMap<u32, Arc<str>>,
    /// Those of them whose `rp_filter` is strict: packets from a client whose way back leaves by another one would be dropped.
    pub strict: BTreeSet<u32>,
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

    /// The elements of all maps.
    pub fn elements(&self) -> DirectElements {
        self.frontends.iter().flat_map(|((family, key), frontend)| frontend.elements(*family, key)).collect()
    }
}

impl DirectFrontend {
    /// Its elements.
    pub fn elements(&self, family: Family, key: &Bytes) -> Vec<((DirectMap, Bytes), DirectElement)> {
        let all = [self.entry(family, key)].into_iter().chain(self.slot_elements(family, key));
        all.map(|(map, element)| ((map, element.key), element)).collect()
    }

    /// The element that has packets go to the chain of its hash.
    pub fn entry(&self, family: Family, key: &Bytes) -> (DirectMap, DirectElement) {
        let value = DirectValue::Forward(ForwardChain { family, hash: self.hash });
        (DirectMap::Frontends(family), DirectElement { key: *key, value, comment: Some(self.label.clone()) })
    }

    /// The elements of its slots.
    pub fn slot_elements(&self, family: Family, key: &Bytes) -> impl Iterator<Item = (DirectMap, DirectElement)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(move |(slot, hop)| Some((*hop)?.element(family, key, slot)))
    }
}

impl Hop {
    /// The element of a slot that leads there.
    pub fn element(self, family: Family, key: &Bytes, slot: usize) -> (DirectMap, DirectElement) {
        let (key, value) = (key.u32_host(slot as u32), DirectValue::Node(self.address));
        (DirectMap::Nodes(family, self.device), DirectElement { key, value, comment: None })
    }
}
