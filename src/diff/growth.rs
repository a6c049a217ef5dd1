//! How much room each map has, and when it needs more.
//!
//! A map with a size is faster to fill, to check and above all to list (benches/README.md), but the kernel refuses what
//! does not fit. So a map is replaced by one twice as large long before that, in the transaction that needs the room.

use std::collections::BTreeMap;

use crate::plan::Sizing;
use crate::ruleset::SetId;

impl Sizing {
    /// The size of a new map for so many elements; 0 for none.
    fn wanted(self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < self.floor {
            return 0;
        }
        // The kernel takes no more than 2^31 - 1.
        count.saturating_mul(self.headroom).checked_next_power_of_two().unwrap_or(u32::MAX).min(1 << 30)
    }

    /// Whether a map of this size should be replaced before elements are added; at the default headroom from 3/4 on.
    fn is_tight(self, size: u32, count: usize) -> bool {
        match size {
            0 => self.wanted(count) > 0,
            size => 2 * u64::from(self.headroom) * count as u64 > 3 * u64::from(size),
        }
    }
}

/// Sizes and element counts of the sets and maps of one table.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    sizing: Sizing,
    counts: BTreeMap<SetId, usize>,
    sizes: BTreeMap<SetId, u32>,
}

impl Sizes {
    pub(super) fn new(sizing: Sizing) -> Self {
        Self { sizing, counts: BTreeMap::new(), sizes: BTreeMap::new() }
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

    /// Chooses sizes anew, keeping those a table has that will do. A size that is larger than it need be does little harm
    /// (16 bytes an element that could be), so maps never shrink.
    pub(super) fn choose(&mut self, existing: &BTreeMap<SetId, u32>) {
        for set in SetId::ALL.into_iter().filter(|set| set.is_sizable()) {
            let (count, size) = (self.count_of(set), existing.get(&set).copied().unwrap_or(0));
            let is_tight = self.sizing.is_tight(size, count);
            self.set(set, if is_tight { self.sizing.wanted(count) } else { size });
        }
    }

    /// Gives tight maps more room, and says which they are.
    pub(super) fn grow(&mut self) -> Vec<SetId> {
        let tight = |set: &SetId| set.is_sizable() && self.sizing.is_tight(self.of(*set), self.count_of(*set));
        let tight: Vec<SetId> = SetId::ALL.into_iter().filter(tight).collect();
        for set in &tight {
            self.set(*set, self.sizing.wanted(self.count_of(*set)));
        }
        tight
    }

    fn set(&mut self, set: SetId, size: u32) {
        match size {
            0 => self.sizes.remove(&set),
            size => self.sizes.insert(set, size),
        };
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

    #[test]
    fn maps_grow_before_they_are_full() {
        let mut sizes = sizes(99);
        assert_eq!((sizes.grow(), sizes.of(SetId::Services)), (vec![], 0));
        let mut last = 0;
        for count in 100..10_000 {
            sizes.count(&BTreeMap::from([(SetId::Services, 1)]));
            let grown = !sizes.grow().is_empty();
            let size = sizes.of(SetId::Services);
            assert_eq!(grown, size != last);
            assert!(count * 4 <= size * 3 && (last == 0 || !grown || size == 2 * last), "{count} in {size}");
            last = size;
        }
    }

    #[test]
    fn a_restart_keeps_sizes_that_will_do() {
        let chosen = |count, existing| {
            let mut sizes = sizes(count);
            sizes.choose(&BTreeMap::from([(SetId::Services, existing)]));
            sizes.of(SetId::Services)
        };
        for (count, existing, expected) in
            [(99, 0, 0), (100, 0, 256), (192, 256, 256), (193, 256, 512), (10, 256, 256), (200, 16_384, 16_384)]
        {
            assert_eq!(chosen(count, existing), expected, "{count} in {existing}");
        }
    }

    #[test]
    fn more_headroom_makes_the_same_map_too_small() {
        let mut sizes = sizes(192);
        sizes.sizing.headroom = 4;
        sizes.choose(&BTreeMap::from([(SetId::Services, 256)]));
        assert_eq!(sizes.of(SetId::Services), 1_024);
        assert!(sizes.grow().is_empty());
    }
}
