//! Reading maps of endpoints by key.
//!
//! The kernel walks a map from its start for every 32 KiB of a listing, so listing takes time with the square of the number
//! of elements. Asking for keys does not, and verdicts say which keys there are: the slots of every frontend.

use super::abi::{self, elem};
use super::attr;
use super::elements::{self, ElementReader};
use super::expr;
use super::link::Link;
use crate::model::Family;
use crate::ruleset::{Bytes, ChainId, EndpointMap, SetName, Table, Value, Verdict};

/// Maps with fewer elements are listed faster.
const FEWEST: usize = 64 * 1024;
/// Keys of one request: each answer is a message of its own, of less than 1 KiB, and all of them have to fit into the
/// receive buffer a process without privileges gets.
const KEYS: usize = 256;

/// Reads a map of endpoints of which the kernel says how many elements it has (Linux 6.17). `None` when it has to be listed:
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
    let (set_name, mut reader) = (set.to_string(), ElementReader::new(family, set.set));
    for keys in keys.chunks(KEYS) {
        let mut foreign = false;
        let asked = link.get_many(
            abi::msg::GETSETELEM,
            expr::nfproto(family),
            |buf| {
                attr::put_str(buf, elem::LIST_TABLE, name);
                attr::put_str(buf, elem::LIST_SET, &set_name);
                let list = attr::begin_nest(buf, elem::LIST_ELEMENTS);
                keys.iter().for_each(|key| elements::put_key(buf, key));
                attr::end_nest(buf, list);
            },
            |message| foreign |= reader.message(&message.attrs).is_err(),
        );
        if foreign || asked.is_err() {
            return None;
        }
    }
    (reader.count() == count && !reader.has_duplicates()).then_some(reader)
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
