//! Faults of Services that no field alone shows: told in the log, and as Events where they close or take something.

use std::collections::{HashMap, HashSet};

use tracing::warn;

use super::{EventSink, EventWanted};
use crate::controller::{Observer, Synced};
use crate::diff::{Conflict, Objection};
use crate::model::{Family, ObjectKey};
use crate::plan::{FrontendKey, Mismatch, mismatches};

/// Lines a sync logs of mismatches.
const MISMATCHES_TOLD: usize = 20;

/// Follows the sync loop and tells of each fault once, until it is mended.
#[derive(Debug)]
pub struct FaultObserver {
    events: EventSink,
    mismatches: HashMap<ObjectKey, Vec<Mismatch>>,
    /// Services with a source range that cannot be read.
    closed: HashSet<ObjectKey>,
    /// What Services do not get, by the Service.
    lost: HashMap<ObjectKey, HashSet<FrontendKey>>,
}

impl FaultObserver {
    /// Wants Events here.
    pub fn new(events: EventSink) -> Self {
        Self { events, mismatches: HashMap::new(), closed: HashSet::new(), lost: HashMap::new() }
    }

    /// What is new between a Service and its slices.
    fn compare(&mut self, key: &ObjectKey, sync: &Synced<'_>, families: &[Family]) -> Vec<Mismatch> {
        let found = match sync.model.service(key) {
            Some(service) => mismatches(service, || sync.model.slices(key), families),
            None => Vec::new(),
        };
        if found.is_empty() {
            self.mismatches.remove(key);
            return found;
        }
        let before = self.mismatches.insert(key.clone(), found.clone()).unwrap_or_default();
        found.into_iter().filter(|mismatch| !before.contains(mismatch)).collect()
    }

    fn look_at_ranges(&mut self, key: &ObjectKey, sync: &Synced<'_>) {
        if !sync.model.service(key).is_some_and(|service| service.bad_source_ranges) {
            self.closed.remove(key);
        } else if self.closed.insert(key.clone()) {
            let note = "spec.loadBalancerSourceRanges has an entry that cannot be read; it lets nobody in: correct it";
            self.wanted(key, "UnreadableSourceRange", note.to_owned());
        }
    }

    fn wanted(&self, service: &ObjectKey, reason: &'static str, note: String) {
        self.events.wanted(EventWanted::ServiceFault { service: service.clone(), reason, note });
    }
}

impl Observer for FaultObserver {
    fn objected(&mut self, objections: &[Objection]) {
        let mut new: HashMap<&ObjectKey, Vec<&Conflict>> = HashMap::new();
        for objection in objections {
            let Objection::Contested(conflict) = objection else { continue };
            let lost = self.lost.entry(conflict.loser.clone()).or_default();
            if lost.insert(conflict.frontend) {
                new.entry(&conflict.loser).or_default().push(conflict);
            }
        }
        for (service, conflicts) in new {
            let more = if conflicts.len() > 1 { format!(" (and {} more)", conflicts.len() - 1) } else { String::new() };
            self.wanted(service, "PortConflict", format!("{}{more}", conflicts[0]));
        }
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        let families: Vec<Family> = sync.mirror.settings().families().map(|(family, _)| family).collect();
        self.lost.retain(|service, lost| {
            lost.retain(|key| families.iter().any(|family| sync.mirror.holder(*family, *key, service).is_some()));
            !lost.is_empty() && sync.model.service(service).is_some()
        });
        let keys: HashSet<ObjectKey> = if sync.full {
            let gone = self.mismatches.keys().chain(&self.closed).cloned();
            sync.model.services().map(|service| service.key.clone()).chain(gone).collect()
        } else {
            sync.changes.services.iter().cloned().collect()
        };
        let mut told = 0;
        for key in keys {
            self.look_at_ranges(&key, sync);
            for mismatch in self.compare(&key, sync, &families) {
                told += 1;
                if told <= MISMATCHES_TOLD {
                    warn!(service = %key, "Service {key}: {mismatch}");
                }
            }
        }
        if told > MISMATCHES_TOLD {
            warn!(more = told - MISMATCHES_TOLD, "more of the kind; `portway faults` shows them");
        }
    }
}
