//! Faults of Services that no field alone shows: told in the log, and as Events where they close or take something.

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use tracing::warn;

use super::{EventSink, EventWanted};
use crate::controller::{Observer, Synced};
use crate::diff::{Mirror, Objection};
use crate::instruments::FaultCounts;
use crate::model::{Family, ObjectKey, Service};
use crate::plan::{FrontendKey, Mismatch, mismatches};

/// Lines a sync logs of mismatches.
const MISMATCHES_TOLD: usize = 20;

/// Follows the sync loop, tells of each fault once, until it is mended, and counts those that are there.
#[derive(Debug)]
pub struct FaultObserver {
    events: EventSink,
    mismatches: HashMap<ObjectKey, Vec<Mismatch>>,
    /// Services with a source range that cannot be read.
    closed: HashSet<ObjectKey>,
    /// Annotations of Services and their slices that cannot be used.
    unusable: HashMap<ObjectKey, Vec<String>>,
    /// What Services do not get, by the Service.
    lost: HashMap<ObjectKey, HashSet<FrontendKey>>,
    /// Services that are left out for their size.
    oversized: HashSet<(Family, ObjectKey)>,
    counts: FaultCounts,
}

impl FaultObserver {
    /// Wants Events here, and counts there.
    pub fn new(events: EventSink, counts: FaultCounts) -> Self {
        Self {
            events,
            mismatches: HashMap::new(),
            closed: HashSet::new(),
            unusable: HashMap::new(),
            lost: HashMap::new(),
            oversized: HashSet::new(),
            counts,
        }
    }

    fn count(&self, sync: &Synced<'_>) {
        let all = || self.mismatches.values().flatten();
        let of_ports = all().filter(|mismatch| matches!(mismatch, Mismatch::Port { .. })).count();
        self.counts.set("PortMismatch", of_ports);
        self.counts.set("FamilyMismatch", all().count() - of_ports);
        self.counts.set("PortConflict", self.lost.values().map(HashSet::len).sum());
        let oversized: HashSet<&ObjectKey> = self.oversized.iter().map(|(_, service)| service).collect();
        self.counts.set("Oversized", oversized.len());
        self.counts.set("SetAside", sync.model.all_set_aside().len());
    }

    /// Looks at a Service, which may be gone; what is new between it and its slices.
    fn look_at(
        &mut self,
        key: &ObjectKey,
        service: Option<&Service>,
        sync: &Synced<'_>,
        families: &[Family],
    ) -> Vec<Mismatch> {
        self.look_at_ranges(key, service);
        self.look_at_annotations(key, service, sync);
        let found = service.map_or_else(Vec::new, |service| mismatches(service, || sync.model.slices(key), families));
        if found.is_empty() {
            self.mismatches.remove(key);
            return found;
        }
        let before = self.mismatches.insert(key.clone(), found.clone()).unwrap_or_default();
        found.into_iter().filter(|mismatch| !before.contains(mismatch)).collect()
    }

    fn look_at_ranges(&mut self, key: &ObjectKey, service: Option<&Service>) {
        if !service.is_some_and(|service| service.bad_source_ranges) {
            self.closed.remove(key);
        } else if self.closed.insert(key.clone()) {
            let note = "spec.loadBalancerSourceRanges has an entry that cannot be read; it lets nobody in: correct it";
            self.wanted(key, "UnreadableSourceRange", note.to_owned());
        }
    }

    fn look_at_annotations(&mut self, key: &ObjectKey, service: Option<&Service>, sync: &Synced<'_>) {
        let faults = service.map_or_else(Vec::new, |service| sync.model.annotation_faults(service));
        if faults.is_empty() {
            self.unusable.remove(key);
            return;
        }
        let before = self.unusable.insert(key.clone(), faults.clone()).unwrap_or_default();
        if faults.iter().any(|fault| !before.contains(fault)) {
            let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
            self.wanted(key, "UnusableAnnotation", format!("{}{more}", faults[0]));
        }
    }

    fn wanted(&self, service: &ObjectKey, reason: &'static str, note: String) {
        self.events.wanted(EventWanted::ServiceFault { service: service.clone(), reason, note });
    }
}

/// A frontend, or the port of a health check, is claimed in vain.
fn is_lost(mirror: &Mirror, family: Family, key: FrontendKey, service: &ObjectKey) -> bool {
    mirror.lost_by(family, service).contains(&key)
        || (mirror.checks_of(family, service).contains(&key) && mirror.owner(family, key) != Some(service))
}

impl Observer for FaultObserver {
    fn objected(&mut self, objections: &[Objection]) {
        let mut new: HashMap<&ObjectKey, Vec<String>> = HashMap::new();
        for objection in objections {
            match objection {
                Objection::Contested(conflict) => {
                    let lost = self.lost.entry(conflict.loser.clone()).or_default();
                    if lost.insert(conflict.frontend) {
                        new.entry(&conflict.loser).or_default().push(conflict.to_string());
                    }
                }
                Objection::Oversized { service, family, .. } => {
                    self.oversized.insert((*family, service.clone()));
                }
            }
        }
        for (service, mut conflicts) in new {
            // All nodes say the same, and so want the same Event.
            conflicts.sort_unstable();
            let more = if conflicts.len() > 1 { format!(" (and {} more)", conflicts.len() - 1) } else { String::new() };
            self.wanted(service, "PortConflict", format!("{}{more}", conflicts[0]));
        }
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        let families: Vec<Family> = sync.mirror.settings().families().map(|(family, _)| family).collect();
        self.lost.retain(|service, lost| {
            lost.retain(|key| families.iter().any(|family| is_lost(sync.mirror, *family, *key, service)));
            !lost.is_empty()
        });
        let mut told = 0;
        let mut look_at = |key: &ObjectKey, service: Option<&Service>| {
            for mismatch in self.look_at(key, service, sync, &families) {
                told += 1;
                if told <= MISMATCHES_TOLD {
                    warn!(service = %key, "Service {key}: {mismatch}");
                }
            }
        };
        let model = sync.model;
        if sync.full {
            model.services().for_each(|service| look_at(&service.key, Some(service)));
            self.mismatches.retain(|key, _| model.service(key).is_some());
            self.closed.retain(|key| model.service(key).is_some());
            self.unusable.retain(|key, _| model.service(key).is_some());
        } else {
            sync.changes.services.iter().for_each(|key| look_at(key, model.service(key).map(|service| &**service)));
        }
        self.oversized.retain(|(family, service)| {
            sync.model.service(service).is_some() && sync.mirror.frontends_of(*family, service).is_empty()
        });
        self.count(sync);
        if told > MISMATCHES_TOLD {
            warn!(more = told - MISMATCHES_TOLD, "more of the kind; `portway faults` shows them");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Options;
    use crate::controller::Controller;
    use crate::model::{EndpointWeights, ServiceOptions, ServicePort, ServiceType};
    use crate::ruleset::FakeKernel;
    use crate::testing::{self, added, added_slice, listed, service_port};

    fn service(name: &str, last: u8, node_port: u16) -> Service {
        Service {
            service_type: ServiceType::LoadBalancer,
            ports: vec![ServicePort { node_port: Some(node_port), ..service_port("web", 80) }],
            ..testing::service(name, &format!("10.96.0.{last}"))
        }
    }

    #[test]
    fn each_fault_is_wanted_as_an_event_once_until_it_is_mended() {
        let (sink, mut queue) = crate::events::queue();
        let (mut controller, _) = Controller::new(FakeKernel::new(), Options::new("n"));
        let counts = FaultCounts::default();
        controller.observe(FaultObserver::new(sink, counts.clone()));
        let put = |service: &Service| added(service.clone());
        let first =
            Service { health_check_node_port: Some(30_073), external_policy_local: true, ..service("first", 1, 0) };
        let second = service("second", 2, 30_073);
        let shut = Service { bad_source_ranges: true, ..service("shut", 3, 30_003) };
        let events = listed("n").into_iter().chain([put(&first), put(&second), put(&shut)]);
        controller.handle(events, Instant::now());
        let mut wanted = || {
            let named = |event| match event {
                EventWanted::ServiceFault { service, reason, note } => (service.name().to_owned(), reason, note),
                other => panic!("{other:?}"),
            };
            let mut all: Vec<_> = queue.take().into_iter().map(named).collect();
            all.sort();
            all.into_iter().map(|(name, reason, note)| (format!("{name} {reason}"), note)).collect::<Vec<_>>()
        };
        let said = wanted();
        assert_eq!(counts.all()["PortConflict"], 1);
        let reasons: Vec<&str> = said.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(reasons, ["second PortConflict", "shut UnreadableSourceRange"]);
        assert!(said[0].1.contains("healthCheckNodePort of Service ns/first"), "{said:?}");

        // Another change of the same Services is no news.
        let changed = |service: &Service| put(&Service { affinity_seconds: Some(5), ..service.clone() });
        controller.handle([changed(&second), changed(&shut)], Instant::now());
        assert_eq!(wanted(), []);
        // Mended, and broken again.
        let mended = [put(&service("second", 2, 30_075)), put(&service("shut", 3, 30_003))];
        controller.handle(mended, Instant::now());
        assert_eq!(wanted(), []);
        assert_eq!(counts.all().values().sum::<usize>(), 0, "none is left: {:?}", counts.all());
        controller.handle([put(&second), put(&shut)], Instant::now());
        assert_eq!(wanted().len(), 2);
        // An older one comes: who had the port loses it without a change of its own.
        let older = Service { created: Some(1), ..service("older", 4, 30_003) };
        controller.handle([put(&older)], Instant::now());
        let said = wanted();
        assert!(said.len() == 1 && said[0].0 == "shut PortConflict", "{said:?}");
    }

    #[test]
    fn annotations_that_cannot_be_used_are_wanted_as_an_event_once() {
        let (sink, mut queue) = crate::events::queue();
        let (mut controller, _) = Controller::new(FakeKernel::new(), Options::new("n"));
        controller.observe(FaultObserver::new(sink, FaultCounts::default()));
        let mut wanted = |events: Vec<_>| {
            controller.handle(events, Instant::now());
            let note = |event| match event {
                EventWanted::ServiceFault { reason, note, .. } => format!("{reason}: {note}"),
                other => panic!("{other:?}"),
            };
            queue.take().into_iter().map(note).collect::<Vec<_>>()
        };
        let with = |faults: &[&str]| {
            let faults = faults.iter().map(|fault| (*fault).into()).collect();
            let options = ServiceOptions { faults, ..ServiceOptions::DEFAULT };
            added(Service { annotated: Some(options.into()), ..service("web", 1, 30_001) })
        };
        let (one, two) = (["portway.io/balance: bad"], ["portway.io/balance: bad", "portway.io/x: bad"]);
        assert_eq!(wanted(listed("n")), [""; 0]);
        assert_eq!(wanted(vec![with(&one)]), ["UnusableAnnotation: portway.io/balance: bad"]);
        assert_eq!(wanted(vec![with(&one)]), [""; 0], "no news");
        assert_eq!(wanted(vec![with(&two)]), ["UnusableAnnotation: portway.io/balance: bad (and 1 more)"]);
        assert_eq!(wanted(vec![with(&[])]), [""; 0], "mended");
        // Of a slice, regarding its Service.
        let weights = EndpointWeights { faults: vec!["portway.io/weights: bad".into()], ..EndpointWeights::default() };
        let slice =
            crate::model::EndpointSlice { weights: Some(weights.into()), ..testing::slice("web", "n", &["10.1.0.1"]) };
        let said = wanted(vec![added_slice(slice)]);
        assert_eq!(said, ["UnusableAnnotation: EndpointSlice ns/web-ip: portway.io/weights: bad"]);
    }
}
