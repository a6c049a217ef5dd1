//! Listing the elements of a set.

use std::time::Duration;

use crate::model::Family;
use crate::nftables::connection::{Connection, RequestError};
use crate::nftables::elements::{ElementReader, ForeignElement};
use crate::ruleset::SetName;
use crate::wire::abi::{self, elem};
use crate::wire::attr;
use crate::wire::expr;

/// A set that is being resized for longer than this many listings is taken as listed.
pub(super) const RESIZE_TRIES: u32 = 5;
/// Pause between listings of a set that is being resized.
const RESIZE_PAUSE: Duration = Duration::from_millis(5);
/// How many elements a set has, where the kernel says it.
pub(super) fn set_count(
    connection: &mut Connection,
    (family, table): (Family, &str),
    set: SetName,
) -> Result<Option<u32>, RequestError> {
    let count = connection.get(
        abi::msg::GETSET,
        expr::nfproto(family),
        |buf| {
            attr::put_str(buf, abi::set::TABLE, table);
            attr::put_str(buf, abi::set::NAME, &set.to_string());
        },
        |message| Ok(message.attrs.u32_of(abi::set::COUNT)),
    )?;
    Ok(count.flatten())
}

pub(super) type ElementDump = Result<ElementReader, ForeignElement>;

/// Lists a set. `count` is the number of elements the kernel says it has.
pub(super) fn list(
    connection: &mut Connection,
    (family, table): (Family, &str),
    set: SetName,
    count: Option<u32>,
) -> Result<ElementDump, RequestError> {
    for attempt in 1.. {
        let (read, interrupted) = list_once(connection, family, table, set)?;
        if let Ok(reader) = &read {
            // A set that is being resized is listed with gaps or repetitions, and packets write some while they are listed.
            let complete =
                !interrupted && !reader.has_duplicates() && count.is_none_or(|count| count as usize == reader.count());
            if !complete && attempt < RESIZE_TRIES {
                tracing::debug!(%set, ?count, read = reader.count(), "incomplete listing, trying again");
                std::thread::sleep(RESIZE_PAUSE);
                continue;
            }
        }
        return Ok(read);
    }
    Err(RequestError::Errno(libc::EINTR))
}

pub(super) fn list_once(
    connection: &mut Connection,
    family: Family,
    table: &str,
    set: SetName,
) -> Result<(ElementDump, bool), RequestError> {
    let (name, mut reader) = (set.to_string(), ElementReader::new(family, set.set));
    let mut foreign = None;
    let (_, interrupted) = connection.dump(
        abi::msg::GETSETELEM,
        expr::nfproto(family),
        |buf| {
            attr::put_str(buf, elem::LIST_TABLE, table);
            attr::put_str(buf, elem::LIST_SET, &name);
        },
        |message| {
            if foreign.is_none() {
                foreign = reader.message(&message.attrs).err();
            }
            Ok(())
        },
    )?;
    Ok((foreign.map_or(Ok(reader), Err), interrupted))
}
