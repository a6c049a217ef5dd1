//! What is to be said of direct return.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use crate::instruments::FaultCounts;
use crate::ruleset::DirectTable;

/// How direct return is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectStatus {
    /// Frontends that hand on packets.
    pub frontends: usize,
    /// Nodes these lead to.
    pub nodes: usize,
    /// Interfaces on which it is to happen.
    pub configured: Vec<String>,
    /// Interfaces on which that happens.
    pub devices: Vec<String>,
    /// Those of them with a strict `rp_filter`: IPv4 clients whose way back leaves by another interface go the ordinary way.
    pub strict: Vec<String>,
    /// The table that does it.
    pub table: Arc<DirectTable>,
    /// What goes the ordinary way although it should not, and why: a sentence each.
    pub troubles: Vec<String>,
}

/// A [`DirectStatus`] that is kept up to date.
#[derive(Debug, Clone)]
pub struct DirectStatusHandle {
    status: Arc<Mutex<Option<DirectStatus>>>,
    faults: FaultCounts,
}

impl DirectStatusHandle {
    /// Nothing is known yet.
    pub(super) fn new(faults: FaultCounts) -> Self {
        Self { status: Arc::default(), faults }
    }

    /// The present state; `None` before the first sync.
    pub fn get(&self) -> Option<DirectStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a state, and logs what is new in it.
    pub(super) fn set(&self, status: DirectStatus) {
        let old = self.status.lock().unwrap_or_else(PoisonError::into_inner).replace(status.clone());
        let old = old.unwrap_or_default();
        for trouble in status.troubles.iter().filter(|trouble| !old.troubles.contains(trouble)) {
            warn!("direct return: {trouble}");
        }
        if old.troubles.len() > status.troubles.len() && status.troubles.is_empty() {
            info!("direct return: no connection takes the ordinary path any more that should not");
        }
        self.faults.set("DirectReturn", status.troubles.len());
    }
}
