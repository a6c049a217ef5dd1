//! Reading elements by key: some, or all of a map of endpoints.
//!
//! The kernel walks a map from its start for every 32 KiB of a listing, so listing takes time with the square of the number
//! of elements. Asking for keys does not, and verdicts say which keys there are: the slots of every frontend.

use std::collections::BTreeSet;

use super::abi::{self, elem};
use super::attr;
use super::elements::{self, ElementReader};
use super::expr;
use super::link::{Link, RequestError};
use crate::model::Family;
use crate::ruleset::{Bytes, ChainId, Element, Elements, EndpointMap, SetName, Table, Value, Verdict};

/// Maps with fewer elements are listed faster.
const FEWEST: usize = 64 * 1024;
/// Keys of one request: each answer is a message of its own, of less than 1 KiB, and all of them have to fit into the
/// receive buffer a process without privileges gets.
const KEYS: usize = 256;

/// Reads a map of endpoints of which the kernel says how many elements it has (Linux 6.16). `None` when it has to be listed:
/// because it is another map, a small one, or not what the verdicts of the table, as far as it was read, say.
pub(super) fn endpoints(
    link: &mut Link,
    (family, name): (Family, &str),
    table: &Table,
    set: SetName,
    count: Option<u32>,
) -> Option<ElementReader> {
    let map = EndpointMap::ALL.into_iter().find(|map| map.set() == set.set)?;
    let count = count? as usize;
    if count < FEWEST {
        return None;
    }
    // One more than there should be tells that something is wrong.
    let keys: Vec<Bytes> = keys(table, map).take(count + 1).collect();
    if keys.len() != count {
        return None;
    }
    let mut reader = ElementReader::new(family, set.set);
    for keys in keys.chunks(KEYS) {
        let mut foreign = false;
        let asked = link.get_many(
            abi::msg::GETSETELEM,
            expr::nfproto(family),
            |buf| put_keys(buf, name, set, keys),
            |message| foreign |= reader.message(&message.attrs).is_err(),
        );
        if foreign || asked.is_err() {
            return None;
        }
    }
    (reader.count() == count && !reader.has_duplicates()).then_some(reader)
}

/// Reads the elements with these keys, as far as they are there. One with a value none of ours can have comes without.
///
/// One key at a time: of several the kernel answers none behind the first that is not there.
pub(super) fn some(
    link: &mut Link,
    (family, name): (Family, &str),
    set: SetName,
    keys: &BTreeSet<Bytes>,
) -> Result<Elements, RequestError> {
    let mut reader = ElementReader::new(family, set.set);
    let mut strange = Vec::new();
    for key in keys {
        let asked = link.get(
            abi::msg::GETSETELEM,
            expr::nfproto(family),
            |buf| put_keys(buf, name, set, std::slice::from_ref(key)),
            |message| Ok(reader.message(&message.attrs).is_err()),
        );
        match asked {
            Ok(Some(true)) => {
                strange.push(Element { key: *key, end: None, value: Value::None, comment: None });
            }
            Ok(_) | Err(RequestError::Errno(libc::ENOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reader.finish().values().chain(strange).collect())
}

fn put_keys(buf: &mut Vec<u8>, table: &str, set: SetName, keys: &[Bytes]) {
    attr::put_str(buf, elem::LIST_TABLE, table);
    attr::put_str(buf, elem::LIST_SET, &set.to_string());
    let list = attr::begin_nest(buf, elem::LIST_ELEMENTS);
    keys.iter().for_each(|key| elements::put_key(buf, key));
    attr::end_nest(buf, list);
}

/// The keys that verdicts lead to.
fn keys(table: &Table, map: EndpointMap) -> impl Iterator<Item = Bytes> {
    let elements = table.sets.values().flat_map(|elements| elements.values());
    let picks = elements.filter_map(move |element| match element.value {
        Value::Verdict(Verdict::Goto(ChainId::Pick(pick))) if pick.map == map => Some((element.key, pick.count)),
        _ => None,
    });
    picks.flat_map(|(frontend, count)| (0..count).map(move |slot| frontend.u32_host(slot)))
}
