//! Counters of the elements of maps.

use std::collections::HashMap;

use super::NftKernel;
use super::connection::RequestError;
use super::elements::read_comment;
use crate::model::{Family, Protocol};
use crate::plan::FrontendKey;
use crate::ruleset::{Bytes, KernelError, SetId, SetName, TABLE_NAME};
use crate::wire::abi::{self, elem};
use crate::wire::attr::{self, Attrs};
use crate::wire::expr;

/// The counter of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementCount {
    /// Packets that matched it.
    pub packets: u64,
    /// The element's comment; empty without one.
    pub comment: String,
}

/// A frontend and the number of its new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendCount {
    /// The frontend.
    pub key: FrontendKey,
    /// `namespace/service:port`; long ones are cut.
    pub label: String,
    /// New connections since the element was written: the chains see the first packet of each, and every packet of those
    /// that are refused.
    pub connections: u64,
}

const DOING: &str = "reading the counters of a map";

impl NftKernel {
    /// How many packets the elements of a map have seen, by key. In our tables that is connections: only the first packet
    /// of a connection comes by. Elements that come or go meanwhile may be missing. While a map is being replaced it counts
    /// with its successor.
    pub fn counters(&mut self, family: Family, map: SetId) -> Result<HashMap<Bytes, ElementCount>, KernelError> {
        let first = SetName::from(map);
        let mut all = self.counters_of(family, first)?;
        for (key, more) in self.counters_of(family, first.other())? {
            let counted = all.entry(key).or_insert_with(|| ElementCount { packets: 0, comment: more.comment });
            counted.packets += more.packets;
        }
        Ok(all)
    }

    fn counters_of(&mut self, family: Family, map: SetName) -> Result<HashMap<Bytes, ElementCount>, KernelError> {
        let key_len = map.set.spec().key_len(family);
        let dump = self.connection.dump(
            abi::msg::GETSETELEM,
            expr::nfproto(family),
            |buf| {
                attr::put_str(buf, elem::LIST_TABLE, TABLE_NAME);
                attr::put_str(buf, elem::LIST_SET, &map.to_string());
            },
            |message| {
                let list = message.attrs.nested_of(elem::LIST_ELEMENTS).unwrap_or(Attrs::new(&[]));
                let counted = list.filter_map(|element| counted(&element.nested()));
                Ok(counted.filter(|(key, _)| key.as_slice().len() == key_len).collect::<Vec<_>>())
            },
        );
        match dump {
            Ok((messages, _)) => Ok(messages.into_iter().flatten().collect()),
            // No table yet, or the map goes by its other name.
            Err(RequestError::Errno(libc::ENOENT)) => Ok(HashMap::new()),
            Err(error) => Err(error.into_kernel(DOING)),
        }
    }

    /// Packets that came for NodePorts on localhost of a protocol that is not relayed there.
    pub fn rejected_on_localhost(&mut self, family: Family) -> Result<u64, KernelError> {
        let counts = self.counters(family, SetId::Services)?;
        let rejected = counts.into_iter().filter(|(key, _)| match FrontendKey::from_bytes(key) {
            Some(FrontendKey::Address { ip, protocol, .. }) => ip.is_loopback() && protocol == Protocol::Sctp,
            _ => false,
        });
        Ok(rejected.map(|(_, counted)| counted.packets).sum())
    }

    /// The connections of all frontends of a family.
    pub fn frontend_counts(&mut self, family: Family) -> Result<Vec<FrontendCount>, KernelError> {
        let mut found = Vec::new();
        for map in [SetId::Services, SetId::Nodeports] {
            let counts = self.counters(family, map)?.into_iter().filter_map(|(key, counted)| {
                let key = FrontendKey::from_bytes(&key)?;
                Some(FrontendCount { key, label: counted.comment, connections: counted.packets })
            });
            found.extend(counts);
        }
        Ok(found)
    }
}

pub(super) fn counted(element: &Attrs<'_>) -> Option<(Bytes, ElementCount)> {
    let key = Bytes::from_slice(element.nested_of(elem::KEY)?.find_kind(abi::DATA_VALUE)?.value)?;
    let counter = element.nested_of(elem::EXPR)?;
    (counter.str_of(abi::EXPR_NAME)? == "counter").then_some(())?;
    let packets = counter.nested_of(abi::EXPR_DATA)?.find_kind(abi::COUNTER_PACKETS)?.u64()?;
    let notes = element.find_kind(elem::USERDATA);
    let comment = notes.and_then(|notes| read_comment(notes.value)).unwrap_or_default().to_owned();
    Some((key, ElementCount { packets, comment }))
}
