//! What sources count.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a source, for metrics. All only grow.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Problems reported; one that stays is counted once.
    pub problems: AtomicU64,
    /// Objects, documents or files that were left out as a whole.
    pub skipped: AtomicU64,
    /// Failed requests, watches and reads.
    pub errors: AtomicU64,
    /// Complete lists and reloads delivered.
    pub lists: AtomicU64,
}

impl SourceStats {
    /// One more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
