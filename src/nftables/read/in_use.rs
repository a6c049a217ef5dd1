//! Reads a set while its owner keeps changing it.
//!
//! A set of a busy table is never left alone for as long as it takes to list it. When it changes between two parts of a
//! listing, elements that stay as they are can be missing or come twice: the kernel finds the place to go on at by counting.
//! So a listing that was disturbed is made twice, and whatever is then in doubt is asked for by its key.

use std::collections::BTreeSet;

use super::by_key;
use super::listing::{RESIZE_TRIES, list_once, set_count};
use crate::model::Family;
use crate::nftables::connection::{Connection, RequestError};
use crate::nftables::elements::ForeignElement;
use crate::ruleset::{Elements, Keys, SetName, Table};

/// The elements of a set: exactly those that nobody changes meanwhile, and of others what was there at some moment. `table`
/// is what was read of the table before; [`Connection::listen`] was called.
pub(super) fn elements(
    connection: &mut Connection,
    (family, name): (Family, &str),
    table: &Table,
    set: SetName,
) -> Result<Result<Elements, ForeignElement>, RequestError> {
    let spec = set.set.spec();
    let list = |connection: &mut Connection| {
        connection.take_touched(family, set)?;
        let (read, _) = list_once(connection, family, name, set)?;
        Ok::<_, RequestError>((read.map(|reader| reader.finish()), connection.take_touched(family, set)?))
    };
    // The largest maps are not listed: verdicts say which keys there are.
    connection.take_touched(family, set)?;
    if let Some(known) = by_key::known_endpoints(connection, (family, name), table, set)? {
        let touched = match connection.take_touched(family, set)? {
            Some(Keys::These(keys)) => keys.len(),
            Some(Keys::All) => usize::MAX,
            None => 0,
        };
        let count = set_count(connection, (family, name), set)?;
        if count.is_some_and(|count| count as usize <= known.len().saturating_add(touched)) {
            return Ok(Ok(known));
        }
    }
    let (mut first, mut touched) = list(connection)?;
    if spec.interval {
        // Ranges cannot be asked for; there are few.
        for _ in 1..RESIZE_TRIES {
            if touched.is_none() {
                break;
            }
            (first, touched) = list(connection)?;
        }
    }
    if touched.is_none() || spec.interval {
        return Ok(first);
    }
    let (second, touched_again) = list(connection)?;
    let (first, second) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(foreign), _) | (_, Err(foreign)) => return Ok(Err(foreign)),
    };
    let mut doubtful = BTreeSet::new();
    for keys in [touched, touched_again].into_iter().flatten() {
        if let Keys::These(keys) = keys {
            doubtful.extend(keys);
        }
    }
    doubtful.extend(first.values().map(|element| element.key).filter(|key| !second.contains_key(key)));
    doubtful.extend(second.values().map(|element| element.key).filter(|key| !first.contains_key(key)));
    doubtful.extend(by_key::endpoint_keys(table, set).filter(|key| !second.contains_key(key)));
    drop(first);
    let found = by_key::some(connection, (family, name), set, &doubtful)?;
    let certain = second.values().filter(|element| !doubtful.contains(&element.key));
    Ok(Ok(certain.chain(found.values()).collect()))
}
