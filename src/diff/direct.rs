//! What to change in the table `netdev portway`.

use crate::model::Family;
use crate::ruleset::{Bytes, DirectElement, DirectElements, DirectMap, DirectTable};

/// The difference between two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectChange {
    /// They are equal.
    Nothing,
    /// There is to be none.
    Remove,
    /// Chains or interfaces differ: the table is replaced as a whole, in one transaction.
    Replace,
    /// Elements differ: these go, and then these come.
    Elements(Vec<(DirectMap, DirectElement)>, Vec<(DirectMap, DirectElement)>),
}

/// What makes the table in the kernel what is wanted; an empty one stands for none, and `None` for one that is not known.
pub fn direct_change(known: Option<&DirectTable>, wanted: &DirectTable) -> DirectChange {
    match known {
        Some(known) if known.is_empty() && wanted.is_empty() => DirectChange::Nothing,
        _ if wanted.is_empty() => DirectChange::Remove,
        Some(known) if known == wanted => DirectChange::Nothing,
        Some(known) if known.devices == wanted.devices && known.chains() == wanted.chains() => elements(known, wanted),
        _ => DirectChange::Replace,
    }
}

fn elements(known: &DirectTable, wanted: &DirectTable) -> DirectChange {
    let (old, new) = (differing(known, wanted), differing(wanted, known));
    let only = |all: &DirectElements, others: &DirectElements| {
        let differs = all.iter().filter(|(at, element)| others.get(at) != Some(element));
        differs.map(|((map, _), element)| (*map, element.clone())).collect::<Vec<_>>()
    };
    DirectChange::Elements(only(&old, &new), only(&new, &old))
}

/// The elements of frontends that are not the same in another table.
fn differing(table: &DirectTable, other: &DirectTable) -> DirectElements {
    let differs = |at: &(Family, Bytes)| other.frontends.get(at) != table.frontends.get(at);
    let frontends = table.frontends.iter().filter(|(at, _)| differs(at));
    frontends.flat_map(|((family, key), frontend)| frontend.elements(*family, key)).collect()
}
