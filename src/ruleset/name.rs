//! What sets and maps are called: which of two names is in force.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::SetId;

/// What a set or map is called in the kernel. One whose room the table decides has two names, so that its successor can be
/// made and filled beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetName {
    /// Which set or map.
    pub set: SetId,
    /// Its second name, with `-b` behind the first.
    pub second: bool,
}

impl SetName {
    /// What ends a second name.
    const SECOND: &'static str = "-b";

    /// The name of the successor.
    #[must_use]
    pub fn other(self) -> Self {
        Self { second: !self.second, ..self }
    }
}

impl From<SetId> for SetName {
    /// The first name, which every set has in a new table.
    fn from(set: SetId) -> Self {
        Self { set, second: false }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.set.spec().name)?;
        f.write_str(if self.second { Self::SECOND } else { "" })
    }
}

/// The name is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a set or map of Portway")]
pub struct UnknownSet(String);

impl FromStr for SetName {
    type Err = UnknownSet;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = |name: &str| SetId::ALL.into_iter().find(|set| set.spec().name == name);
        let second = || named(name.strip_suffix(Self::SECOND)?).filter(|set| set.is_sizable());
        named(name)
            .map(Self::from)
            .or_else(|| second().map(|set| Self { set, second: true }))
            .ok_or_else(|| UnknownSet(name.to_owned()))
    }
}

/// Which of their two names the sets of a table go by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    second: BTreeSet<SetId>,
}

impl Names {
    /// The names in force in a table: those its rules use, and where no rule uses either, the one that is there. `Err` with
    /// a set that goes by both.
    pub fn in_force(used: &BTreeSet<SetName>, present: &BTreeSet<SetName>) -> Result<Self, SetId> {
        let mut names = Self::default();
        for second in used.union(present).filter(|name| name.second) {
            let both = |names: &BTreeSet<SetName>| names.contains(second) && names.contains(&second.other());
            if both(used) {
                return Err(second.set);
            }
            if used.contains(second) || !(used.contains(&second.other()) || both(present)) {
                names.second.insert(second.set);
            }
        }
        Ok(names)
    }

    /// The name of a set.
    pub fn of(&self, set: SetId) -> SetName {
        SetName { set, second: self.second.contains(&set) }
    }

    /// From now on a set goes by its other name.
    pub fn switch(&mut self, set: SetId) {
        if !self.second.remove(&set) {
            self.second.insert(set);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for set in SetId::ALL {
            let first = SetName::from(set);
            assert_eq!(first.to_string().parse(), Ok(first));
            let second = first.other();
            assert_eq!(second.to_string().parse().ok(), set.is_sizable().then_some(second));
        }
        assert!(
            ["", "-b", "services-c", "services-b-b", "affinity-b"].iter().all(|name| name.parse::<SetName>().is_err())
        );
    }

    #[test]
    fn rules_say_which_name_is_in_force() {
        let first = SetName::from(SetId::Endpoints);
        let in_force = |used: &[SetName], present: &[SetName]| {
            let set = |names: &[SetName]| names.iter().copied().collect();
            Names::in_force(&set(used), &set(present)).map(|names| names.of(SetId::Endpoints))
        };
        for name in [first, first.other()] {
            assert_eq!(in_force(&[name], &[first, first.other()]), Ok(name));
            assert_eq!(in_force(&[], &[name]), Ok(name), "no rule needs it at the moment");
        }
        assert_eq!(in_force(&[], &[first, first.other()]), Ok(first));
        assert_eq!(in_force(&[first, first.other()], &[first, first.other()]), Err(SetId::Endpoints));
    }
}
