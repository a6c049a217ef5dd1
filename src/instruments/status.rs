//! How something beside the tables of Services is doing, for `portway status` and the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use super::FaultCounts;

/// A state that may have troubles.
pub trait Troubled {
    /// What it is of, in the log.
    const OF: &'static str;
    /// The reason its troubles are counted as.
    const REASON: &'static str;

    /// Why connections take the ordinary path that should not: a sentence each.
    fn troubles(&self) -> &[String];
}

/// A state that is kept up to date.
#[derive(Debug, Clone)]
pub struct StatusHandle<S> {
    status: Arc<Mutex<Option<S>>>,
    faults: FaultCounts,
}

impl<S: Troubled + Clone> StatusHandle<S> {
    /// Nothing is known yet.
    pub(crate) fn new(faults: FaultCounts) -> Self {
        Self { status: Arc::default(), faults }
    }

    /// The present state; `None` before the first sync.
    pub fn get(&self) -> Option<S> {
        self.lock().clone()
    }

    /// Something about the present state, which is not copied for that.
    pub(crate) fn look<R>(&self, at: impl FnOnce(Option<&S>) -> R) -> R {
        at(self.lock().as_ref())
    }

    /// Notes a state, and logs what is new in it.
    pub(crate) fn set(&self, status: S) {
        let old = self.lock().replace(status.clone());
        let old = old.as_ref().map(S::troubles).unwrap_or_default();
        let (of, new) = (S::OF, status.troubles());
        for trouble in new.iter().filter(|trouble| !old.contains(trouble)) {
            warn!("{of}: {trouble}");
        }
        if !old.is_empty() && new.is_empty() {
            info!("{of}: no connection takes the ordinary path any more that should not");
        }
        self.faults.set(S::REASON, new.len());
    }

    fn lock(&self) -> MutexGuard<'_, Option<S>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
