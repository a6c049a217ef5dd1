//! What is to be said of the fast path.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use crate::instruments::FaultCounts;
use crate::ruleset::FastDevices;

/// How the fast path is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FastStatus {
    /// Interfaces, or beginnings of their names, that were named.
    pub configured: Vec<Arc<str>>,
    /// The table in force has these interfaces; `None`: there should be no table.
    pub devices: Option<FastDevices>,
    /// Why connections take the ordinary path that should not: a sentence each.
    pub troubles: Vec<String>,
}

/// A [`FastStatus`] that is kept up to date.
#[derive(Debug, Clone)]
pub struct FastStatusHandle {
    status: Arc<Mutex<Option<FastStatus>>>,
    faults: FaultCounts,
}

impl FastStatusHandle {
    /// Nothing is known yet.
    pub(super) fn new(faults: FaultCounts) -> Self {
        Self { status: Arc::default(), faults }
    }

    /// The present state; `None` before the first sync.
    pub fn get(&self) -> Option<FastStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there may be flows in a flow table: before the first sync perhaps those of a process before this one.
    pub fn may_be_on(&self) -> bool {
        self.get().is_none_or(|status| status.devices.is_some())
    }

    /// Notes a state, and logs what is new in it.
    pub(super) fn set(&self, status: FastStatus) {
        let old = self.status.lock().unwrap_or_else(PoisonError::into_inner).replace(status.clone());
        let old = old.unwrap_or_default();
        for trouble in status.troubles.iter().filter(|trouble| !old.troubles.contains(trouble)) {
            warn!("fast path: {trouble}");
        }
        if !old.troubles.is_empty() && status.troubles.is_empty() {
            info!("fast path: no connection takes the ordinary path any more that should not");
        }
        self.faults.set("FastPath", status.troubles.len());
    }
}
