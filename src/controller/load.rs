//! The first load, in slices.

use std::time::{Duration, Instant};

use super::{Failure, apply};
use crate::diff::{Load, Mirror};
use crate::ruleset::Kernel;

/// How long a slice should take: so long others wait for their turn with nf_tables.
const SLICE: Duration = Duration::from_millis(50);
/// Elements of the first slice: a slow machine takes 5 microseconds for each.
const FIRST: usize = 8 * 1024;
/// The fewest and the most elements of a slice. Memory for a slice is about 300 bytes for each.
const FEWEST: usize = 1024;
const MOST: usize = 64 * 1024;

/// Makes a table; the number of its elements.
pub(super) fn load<K: Kernel>(kernel: &mut K, mirror: &Mirror, mut load: Load<'_>) -> Result<usize, Failure> {
    let (mut size, mut loaded) = (FIRST, 0);
    while let Some(part) = load.next(size) {
        let start = Instant::now();
        apply(kernel, mirror, &part)?;
        let (added, _) = part.element_counts();
        loaded += added;
        if added == size {
            size = next_size(size, start.elapsed());
        }
    }
    Ok(loaded)
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
