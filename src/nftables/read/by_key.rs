//! Reading elements by key: some, or all of a map of endpoints.
//!
//! The kernel walks a map from its start for every 32 KiB of a listing, so listing takes time with the square of the number
//! of elements. Asking for keys does not, and verdicts say which keys there are: the slots of every frontend.

use std::collections::BTreeSet;

use crate::model::Family;
use crate::nftables::connection::{Connection, RequestError};
use crate::nftables::elements::{self, ElementReader};
use crate::ruleset::{Bytes, ChainId, Element, Elements, EndpointMap, Pick, SetName, Table, Value, Verdict};
use crate::wire::abi::{self, elem};
use crate::wire::attr;
use crate::wire::expr;

/// Maps with fewer elements are listed faster. Measured on Linux 6.18, listed and by key: 65,536 elements take 86 and 147 ms,
/// 150,000 take 332 and 346 ms, 300,000 take 1,228 and 708 ms.
const FEWEST: usize = 150_000;
/// The same where somebody changes them.
const FEWEST_IN_USE: usize = 4 * 1024;
/// Keys of one request: each answer is a message of its own, of less than 1 KiB, and all of them have to fit into the
/// receive buffer a process without privileges gets.
const KEYS: usize = 256;

/// Reads a large map of endpoints. `None` when it has to be listed: because it is another map, a small one, or has elements
/// that the verdicts of the table, as far as it was read, do not lead to.
///
/// Where the kernel does not say how many elements there are (before Linux 6.16), such elements are not found. No packet can
/// meet them either; and when one is in the way of an element of ours, the kernel refuses that, and the map is listed
/// ([`crate::nftables::NftKernel`], `distrusts`).
pub(super) fn endpoints(
    connection: &mut Connection,
    whose: (Family, &str),
    table: &Table,
    set: SetName,
    count: Option<u32>,
) -> Option<Elements> {
    let wanted = endpoint_keys(table, set).count();
    let certain = picks(table, set).map(|(_, pick)| pick.fewest() as usize).sum::<usize>();
    // Each that is missing takes a request more, and a map that lacks many is listed sooner.
    let is_likely = |count: u32| (certain - certain / 16..=wanted).contains(&(count as usize));
    if wanted < FEWEST || !count.is_none_or(is_likely) {
        return None;
    }
    let found = by_keys(connection, whose, set, endpoint_keys(table, set)).ok()?;
    count.is_none_or(|count| count as usize == found.len()).then_some(found)
}

/// Reads the elements with these keys, as far as they are there. One with a value none of ours can have comes without.
///
/// One key at a time: of several the kernel answers none behind the first that is not there.
pub(super) fn some(
    connection: &mut Connection,
    (family, name): (Family, &str),
    set: SetName,
    keys: &BTreeSet<Bytes>,
) -> Result<Elements, RequestError> {
    let mut reader = ElementReader::new(family, set.set);
    let mut strange = Vec::new();
    for key in keys {
        let asked = connection.get(
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

/// The same of a map that somebody changes: as far as its elements are there. `None` when it is small or another map.
pub(super) fn known_endpoints(
    connection: &mut Connection,
    (family, name): (Family, &str),
    table: &Table,
    set: SetName,
) -> Result<Option<Elements>, RequestError> {
    if endpoint_keys(table, set).count() < FEWEST_IN_USE {
        return Ok(None);
    }
    by_keys(connection, (family, name), set, endpoint_keys(table, set)).map(Some)
}

/// Reads the elements with these keys, as far as they are there, in as few requests as that takes.
fn by_keys(
    connection: &mut Connection,
    (family, name): (Family, &str),
    set: SetName,
    keys: impl Iterator<Item = Bytes>,
) -> Result<Elements, RequestError> {
    let (mut reader, mut missed) = (ElementReader::new(family, set.set), BTreeSet::new());
    let mut keys = keys.fuse();
    let mut some: Vec<Bytes> = keys.by_ref().take(KEYS).collect();
    while !some.is_empty() {
        let (mut answered, mut foreign) = (0, false);
        let asked = connection.get_many(
            abi::msg::GETSETELEM,
            expr::nfproto(family),
            |buf| put_keys(buf, name, set, &some),
            |message| {
                answered += 1;
                foreign |= reader.message(&message.attrs).is_err();
            },
        );
        let done = match asked {
            Ok(()) => some.len(),
            // The one behind those that were answered is not there, and ends the answer.
            Err(RequestError::Errno(libc::ENOENT)) => some.len().min(answered + 1),
            Err(error) => return Err(error),
        };
        let done = some.drain(..done);
        // Some of them are not as Portway writes them.
        missed.extend(done.filter(|_| foreign));
        some.extend(keys.by_ref().take(KEYS - some.len()));
    }
    let mut all = reader.finish();
    missed.retain(|key| !all.contains_key(key));
    for element in self::some(connection, (family, name), set, &missed)?.values() {
        all.insert(element);
    }
    Ok(all)
}

/// The keys that a map of endpoints has according to the verdicts, if all slots have endpoints; none for others.
pub(super) fn endpoint_keys(table: &Table, set: SetName) -> impl Iterator<Item = Bytes> {
    picks(table, set).flat_map(|(frontend, pick)| (0..pick.count).map(move |slot| frontend.u32_host(slot)))
}

/// The chains that pick an endpoint of a map, each with a frontend that verdicts lead there.
fn picks(table: &Table, set: SetName) -> impl Iterator<Item = (Bytes, Pick)> {
    let map = EndpointMap::ALL.into_iter().find(|map| map.set() == set.set);
    let sets = map.into_iter().flat_map(|_| table.sets.values());
    sets.flat_map(|elements| elements.values()).filter_map(move |element| match element.value {
        Value::Verdict(Verdict::Goto(ChainId::Pick(pick))) if Some(pick.map) == map => Some((element.key, pick)),
        _ => None,
    })
}
