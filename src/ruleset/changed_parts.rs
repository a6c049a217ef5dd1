//! What others touched of our tables.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bytes, SetName};
use crate::model::Family;

/// Keys of one set that are remembered; of more the whole set counts as touched.
const KEYS_MAX: usize = 4096;

/// What others touched, to be compared with the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedParts {
    /// It may be anything.
    Everything,
    /// Only this, of tables that are there.
    Parts(BTreeMap<Family, Part>),
}

/// What was touched of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Chains and their rules, or objects that are not ours.
    pub structure: bool,
    /// Elements.
    pub sets: BTreeMap<SetName, Keys>,
}

/// Which elements of a set or map were touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// It may be any.
    All,
    /// Those with these keys.
    These(BTreeSet<Bytes>),
}

impl Default for ChangedParts {
    fn default() -> Self {
        ChangedParts::Parts(BTreeMap::new())
    }
}

impl ChangedParts {
    /// Nothing was touched.
    pub fn is_empty(&self) -> bool {
        matches!(self, ChangedParts::Parts(parts) if parts.is_empty())
    }

    /// Adds chains, rules and objects of a table.
    pub fn structure(&mut self, family: Family) {
        if let ChangedParts::Parts(parts) = self {
            parts.entry(family).or_default().structure = true;
        }
    }

    /// Adds elements.
    pub fn elements(&mut self, family: Family, set: SetName, keys: Keys) {
        if let ChangedParts::Parts(parts) = self {
            parts.entry(family).or_default().elements(set, keys);
        }
    }

    /// Adds all that another one has.
    pub fn merge(&mut self, other: ChangedParts) {
        match (&mut *self, other) {
            (ChangedParts::Everything, _) => {}
            (_, ChangedParts::Everything) => *self = ChangedParts::Everything,
            (ChangedParts::Parts(parts), ChangedParts::Parts(others)) => {
                for (family, other) in others {
                    let part = parts.entry(family).or_default();
                    part.structure |= other.structure;
                    other.sets.into_iter().for_each(|(set, keys)| part.elements(set, keys));
                }
            }
        }
    }
}

impl Part {
    fn elements(&mut self, set: SetName, keys: Keys) {
        let known = self.sets.entry(set).or_insert_with(|| Keys::These(BTreeSet::new()));
        match (&mut *known, keys) {
            // Announcements bring one at a time, and `append` would build the whole set anew for each.
            (Keys::These(known), Keys::These(more)) => known.extend(more),
            _ => *known = Keys::All,
        }
        if matches!(known, Keys::These(keys) if keys.len() > KEYS_MAX) {
            *known = Keys::All;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::SetId;

    fn keys(range: std::ops::Range<usize>) -> Keys {
        Keys::These(range.map(|n| Bytes::new().u32_host(n as u32)).collect())
    }

    fn elements(keys: Keys) -> ChangedParts {
        let mut touched = ChangedParts::default();
        touched.elements(Family::Ipv4, SetId::NodeIps.into(), keys);
        touched
    }

    #[test]
    fn nothing_is_lost_when_two_become_one() {
        let mut touched = ChangedParts::default();
        assert!(touched.is_empty());
        touched.merge(elements(keys(0..2)));
        touched.merge(elements(keys(1..3)));
        assert_eq!(touched, elements(keys(0..3)));
        let mut structure = ChangedParts::default();
        structure.structure(Family::Ipv6);
        touched.merge(structure.clone());
        touched.merge(elements(keys(5..5)));
        let ChangedParts::Parts(parts) = &touched else { panic!("{touched:?}") };
        assert_eq!(parts[&Family::Ipv4], Part { structure: false, sets: [(SetId::NodeIps.into(), keys(0..3))].into() });
        assert_eq!(parts[&Family::Ipv6], Part { structure: true, ..Part::default() });
        touched.merge(ChangedParts::Everything);
        touched.merge(structure);
        touched.structure(Family::Ipv4);
        touched.elements(Family::Ipv4, SetId::Hairpin.into(), Keys::All);
        assert_eq!(touched, ChangedParts::Everything);
    }

    #[test]
    fn many_keys_are_the_whole_set() {
        let mut touched = elements(keys(0..KEYS_MAX));
        assert_ne!(touched, elements(Keys::All));
        touched.merge(elements(keys(KEYS_MAX..KEYS_MAX + 1)));
        assert_eq!(touched, elements(Keys::All));
        touched.merge(elements(keys(0..1)));
        assert_eq!(touched, elements(Keys::All), "and stay so");
    }
}
