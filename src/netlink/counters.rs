//! What the elements of a counting map have counted.

use std::collections::HashMap;

use super::abi::{self, elem};
use super::attr::{self, Attrs};
use super::elements::read_comment;
use super::{NftKernel, expr};
use crate::model::Family;
use crate::ruleset::{Bytes, KernelError, SetId, TABLE_NAME};

/// What an element has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Packets that selected it.
    pub packets: u64,
    /// The element's comment; empty without one.
    pub comment: String,
}

const DOING: &str = "reading the counters of a map";

impl NftKernel {
    /// How many packets the elements of a map have seen, by key. In our tables that is connections: only the first packet
    /// of a connection comes by. Elements that come or go meanwhile may be missing.
    pub fn counters(&mut self, family: Family, map: SetId) -> Result<HashMap<Bytes, Counted>, KernelError> {
        let key_len = map.spec().key_len(family);
        let (messages, _) = self
            .link
            .dump(
                abi::msg::GETSETELEM,
                expr::nfproto(family),
                |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, TABLE_NAME);
                    attr::put_str(buf, elem::LIST_SET, map.spec().name);
                },
                |message| {
                    let list = message.attrs.nested_of(elem::LIST_ELEMENTS).unwrap_or(Attrs::new(&[]));
                    let counted = list.filter_map(|element| counted(&element.nested()));
                    Ok(counted.filter(|(key, _)| key.as_slice().len() == key_len).collect::<Vec<_>>())
                },
            )
            .map_err(|error| error.into_kernel(DOING))?;
        Ok(messages.into_iter().flatten().collect())
    }
}

pub(super) fn counted(element: &Attrs<'_>) -> Option<(Bytes, Counted)> {
    let key = Bytes::from_slice(element.nested_of(elem::KEY)?.find_kind(abi::DATA_VALUE)?.value)?;
    let counter = element.nested_of(elem::EXPR)?;
    (counter.str_of(abi::EXPR_NAME)? == "counter").then_some(())?;
    let packets = counter.nested_of(abi::EXPR_DATA)?.find_kind(abi::COUNTER_PACKETS)?.u64()?;
    let notes = element.find_kind(elem::USERDATA);
    let comment = notes.and_then(|notes| read_comment(notes.value)).unwrap_or_default().to_owned();
    Some((key, Counted { packets, comment }))
}
