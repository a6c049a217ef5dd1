//! How many faults there are at present.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of present faults by reason, as `portway faults` calls it.
#[derive(Debug, Clone, Default)]
pub struct FaultCounts(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl FaultCounts {
    /// So many faults have this reason at present.
    pub fn set(&self, reason: &'static str, count: usize) {
        self.lock().insert(reason, count);
    }

    /// All that were ever set.
    pub fn all(&self) -> BTreeMap<&'static str, usize> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
