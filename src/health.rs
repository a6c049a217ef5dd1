//! Whether the proxy does its work: what `/healthz`, `/livez` and `/readyz` say, and how many endpoints a load balancer
//! may count on (specification 5.6 and 10.4).
//!
//! [`HealthState`] is the pure rule, [`Health`] shares it between the sync loop and the servers. [`CheckObserver`] works out
//! what the servers behind `healthCheckNodePort` have to say; `serve` opens them.

mod body;
mod checks;
mod state;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use body::{HealthAnswer, check_body};
pub use checks::{CheckChanges, CheckId, CheckObserver, CheckReceiver, CheckSender, CheckServer, check_channel};
pub use state::{FamilyVerdict, HealthState, HealthVerdict, Moment};

use crate::controller::{Observer, Synced};
use crate::model::{Event, Family};

/// The proxy's health, as observers write and servers read it.
#[derive(Debug)]
pub struct Health {
    state: Mutex<HealthState>,
}

impl Health {
    /// The sync loop starts now and serves these families; `sync_period` is kube-proxy's `syncPeriod`.
    pub fn new(sync_period: Duration, families: impl IntoIterator<Item = Family>) -> Arc<Self> {
        let mut state = HealthState::new(sync_period);
        let now = Moment::now();
        families.into_iter().for_each(|family| state.begin(family, now));
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// All families are healthy.
    pub fn is_healthy(&self) -> bool {
        self.verdict().is_healthy()
    }

    /// There was a successful sync of every family.
    pub fn is_ready(&self) -> bool {
        self.with(|state| state.is_ready())
    }

    /// The present state.
    pub fn verdict(&self) -> HealthVerdict {
        self.with(|state| state.verdict(Moment::now()))
    }

    /// The answer on `/healthz`: the proxy works and load balancers may use the node.
    pub fn healthz(&self) -> HealthAnswer {
        HealthAnswer::healthz(&self.verdict())
    }

    /// The answer on `/livez`: the proxy works.
    pub fn livez(&self) -> HealthAnswer {
        HealthAnswer::livez(&self.verdict())
    }

    fn with<T>(&self, work: impl FnOnce(&mut HealthState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells a [`Health`] what the sync loop does.
#[derive(Debug)]
pub struct HealthObserver(Arc<Health>);

impl HealthObserver {
    /// An observer that writes here.
    pub fn new(health: Arc<Health>) -> Self {
        Self(health)
    }
}

impl Observer for HealthObserver {
    fn received(&mut self, batch: &[Event]) {
        for event in batch {
            if let Event::Node(node) = event {
                self.0.with(|state| state.set_eligible(!node.deleting));
            }
        }
    }

    fn requested(&mut self) {
        self.0.with(|state| state.requested(Moment::now()));
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        self.0.with(|state| state.succeeded(sync.family, Moment::now()));
    }
}

#[cfg(test)]
mod tests;
