//! How much at once is loaded of what packets do not see yet.

use std::time::Duration;

/// How long a slice should take: so long others wait for their turn with nf_tables.
const SLICE: Duration = Duration::from_millis(50);
/// Elements of the first slice: a slow machine takes 5 microseconds for each.
const FIRST: usize = 8 * 1024;
/// The fewest and the most elements of a slice. Memory for a slice is about 300 bytes for each.
const FEWEST: usize = 1024;
const MOST: usize = 64 * 1024;

/// The size of slices, in elements.
#[derive(Debug)]
pub(super) struct Slice(usize);

impl Default for Slice {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Slice {
    /// The size of the next one.
    pub(super) fn size(&self) -> usize {
        self.0
    }

    /// So many elements took so long.
    pub(super) fn took(&mut self, elements: usize, time: Duration) {
        if elements == self.0 {
            self.0 = next_size(elements, time);
        }
    }
}

/// The size of the next slice when one of this size took so long.
fn next_size(size: usize, took: Duration) -> usize {
    let fitting = size as f64 * SLICE.as_secs_f64() / took.as_secs_f64().max(1e-6);
    // Not at once up to it: a single measurement may be off.
    (fitting as usize).clamp(size / 2, size * 2).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_the_speed_of_the_kernel() {
        let after = |size, milliseconds| next_size(size, Duration::from_millis(milliseconds));
        assert_eq!(after(8_192, 50), 8_192);
        assert_eq!(after(8_192, 40), 10_240);
        assert_eq!(after(8_192, 1), 16_384);
        assert_eq!(after(8_192, 10_000), 4_096);
        assert_eq!(after(1_024, 10_000), FEWEST);
        assert_eq!(after(MOST, 0), MOST);
    }
}
