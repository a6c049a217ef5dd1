//! How much room each map has, and when it needs more.
//!
//! A map with a size is faster to fill, to check and above all to list (benches/README.md), but the kernel refuses what
//! does not fit. So a map is replaced by one twice as large before that. Its successor is made beside it, under the
//! other one of its two names, and filled between updates ([`super::filling`]). A transaction has the rules use that name,
//! and the old map is deleted once no packet is being processed by the old rules ([`super::Steps`]). Where one update needs
//! more room than is left, it waits for its successors.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Sizing;
use crate::ruleset::{Names, SetId, Table};

impl Sizing {
    /// The size of a new map for so many elements; 0 for none.
    ///
    /// The kernel makes a power of two of buckets, at least 4/3 of the size, and clears them at once: so the size is 3/4 of
    /// such a power.
    fn wanted(self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < self.floor {
            return 0;
        }
        // The kernel takes no more than 2^31 - 1.
        let buckets = count.saturating_mul(self.headroom).checked_next_power_of_two().unwrap_or(u32::MAX).min(1 << 30);
        buckets - buckets / 4
    }

    /// Whether a map of this size should be replaced before elements are added; at the default headroom from 3/4 on.
    fn is_tight(self, size: u32, count: usize) -> bool {
        match size {
            0 => self.wanted(count) > 0,
            size => 2 * u64::from(self.headroom) * count as u64 > 3 * u64::from(size),
        }
    }
}

/// Sizes, names and element counts of the sets and maps of one table.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    sizing: Sizing,
    counts: BTreeMap<SetId, usize>,
    sizes: BTreeMap<SetId, u32>,
    names: Names,
}

/// Sizes and names of a table that is in force.
#[derive(Debug)]
pub(super) struct ExistingSizes {
    sizes: BTreeMap<SetId, u32>,
    names: Names,
    optional: BTreeSet<SetId>,
}

impl ExistingSizes {
    pub(super) fn of(table: &Table) -> Self {
        Self { sizes: table.sizes.clone(), names: table.names.clone(), optional: table.optional.clone() }
    }
}

impl Sizes {
    pub(super) fn new(sizing: Sizing) -> Self {
        Self { sizing, counts: BTreeMap::new(), sizes: BTreeMap::new(), names: Names::default() }
    }

    /// Enters a change of the number of elements.
    pub(super) fn count(&mut self, changes: &BTreeMap<SetId, isize>) {
        for (set, change) in changes {
            let count = self.counts.entry(*set).or_default();
            *count = count.saturating_add_signed(*change);
        }
    }

    /// Elements of a set.
    pub(super) fn count_of(&self, set: SetId) -> usize {
        self.counts.get(&set).copied().unwrap_or(0)
    }

    /// The size of a set; 0 for none.
    pub(super) fn of(&self, set: SetId) -> u32 {
        self.sizes.get(&set).copied().unwrap_or(0)
    }

    /// All sizes.
    pub(super) fn all(&self) -> &BTreeMap<SetId, u32> {
        &self.sizes
    }

    /// All names.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Chooses sizes for a new table, or for one that is there: then what will do is kept. A size that is larger than it
    /// need be does little harm (11 bytes an element that could be), so maps never shrink. `optional`: optional sets in force.
    pub(super) fn choose(&mut self, existing: Option<&ExistingSizes>, optional: &BTreeSet<SetId>) {
        if let Some(ExistingSizes { sizes, names, optional: there }) = existing {
            (self.sizes, self.names) = (sizes.clone(), names.clone());
            optional.difference(there).for_each(|set| self.choose_for(*set));
            self.grow();
        } else {
            self.sizes.extend(self.tight(SetId::ALL));
        }
    }

    /// Chooses the size of a set that is about to be made.
    pub(super) fn choose_for(&mut self, set: SetId) {
        let wanted = if set.is_sizable() { self.sizing.wanted(self.count_of(set)) } else { 0 };
        self.sizes.remove(&set);
        self.sizes.extend((wanted > 0).then_some((set, wanted)));
    }

    /// Those of these maps that are nearly full, with the sizes of their successors.
    pub(super) fn tight(&self, among: impl IntoIterator<Item = SetId>) -> BTreeMap<SetId, u32> {
        let tight = |set: &SetId| set.is_sizable() && self.sizing.is_tight(self.of(*set), self.count_of(*set));
        let sets = among.into_iter().filter(tight);
        sets.map(|set| (set, self.sizing.wanted(self.count_of(set)))).collect()
    }

    /// Whether a map has no room for its elements.
    pub(super) fn are_exceeded(&self) -> bool {
        self.exceed(&self.sizes)
    }

    /// Whether maps of these sizes have no room for the elements.
    pub(super) fn exceed(&self, sizes: &BTreeMap<SetId, u32>) -> bool {
        sizes.iter().any(|(set, size)| *size > 0 && self.count_of(*set) > *size as usize)
    }

    /// Enlarges maps that are nearly full, under their other name, and says which they are.
    pub(super) fn grow(&mut self) -> Vec<SetId> {
        self.switch(self.tight(SetId::ALL))
    }

    /// Has successors of these sizes take the places of maps, and says which they are.
    pub(super) fn switch(&mut self, successors: BTreeMap<SetId, u32>) -> Vec<SetId> {
        for (set, size) in &successors {
            self.sizes.insert(*set, *size);
            self.names.switch(*set);
        }
        successors.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(count: usize) -> Sizes {
        let mut sizes = Sizes::new(Sizing { floor: 100, headroom: 2 });
        sizes.count(&BTreeMap::from([(SetId::Services, count as isize)]));
        sizes
    }

    fn existing_size(size: u32) -> ExistingSizes {
        let sizes = (size > 0).then_some((SetId::Services, size)).into_iter().collect();
        ExistingSizes { sizes, names: Names::default(), optional: BTreeSet::new() }
    }

    #[test]
    fn a_new_table_has_first_names_and_sizes_at_once() {
        let mut sizes = sizes(192);
        sizes.choose(None, &BTreeSet::new());
        assert_eq!((sizes.of(SetId::Services), sizes.names()), (384, &Names::default()));
    }

    #[test]
    fn maps_grow_before_they_are_full() {
        let mut sizes = sizes(99);
        assert_eq!((sizes.grow(), sizes.of(SetId::Services)), (vec![], 0));
        let mut last = 0;
        for count in 100..10_000 {
            sizes.count(&BTreeMap::from([(SetId::Services, 1)]));
            let name = sizes.names().of(SetId::Services);
            let grown = !sizes.grow().is_empty();
            let size = sizes.of(SetId::Services);
            assert_eq!(grown, size != last);
            assert_eq!(grown, sizes.names().of(SetId::Services) == name.other());
            assert!(count * 4 <= size * 3 && (last == 0 || !grown || size == 2 * last), "{count} in {size}");
            last = size;
        }
    }

    #[test]
    fn a_restart_keeps_sizes_that_will_do() {
        let chosen = |count, existing| {
            let mut sizes = sizes(count);
            sizes.choose(Some(&existing_size(existing)), &BTreeSet::new());
            assert_eq!(sizes.names().of(SetId::Services).second, sizes.of(SetId::Services) != existing);
            sizes.of(SetId::Services)
        };
        for (count, existing, expected) in
            [(99, 0, 0), (100, 0, 192), (192, 256, 256), (193, 256, 384), (10, 256, 256), (200, 16_384, 16_384)]
        {
            assert_eq!(chosen(count, existing), expected, "{count} in {existing}");
        }
    }

    #[test]
    fn more_headroom_makes_the_same_map_too_small() {
        let mut sizes = sizes(192);
        sizes.sizing.headroom = 4;
        sizes.choose(Some(&existing_size(256)), &BTreeSet::new());
        assert_eq!(sizes.of(SetId::Services), 768);
        assert!(sizes.grow().is_empty());
    }
}
