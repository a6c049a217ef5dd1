//! What a source cannot read at present, and since when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A source, or a kind of its objects, that cannot be read at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// The first failure that no success has followed.
    pub since: Instant,
    /// Why the last attempt failed, with the address.
    pub error: String,
    /// What of it: kinds by their plural (`services`), or `folder`.
    pub parts: Vec<String>,
}

/// The parts of a source that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<BTreeMap<String, PartOutage>>);

#[derive(Debug)]
struct PartOutage {
    since: Instant,
    failed: Instant,
    error: String,
}

impl Outages {
    /// An attempt to read `part` has failed.
    pub(super) fn fails(&self, part: &str, error: String) {
        let failed = Instant::now();
        let mut parts = self.lock();
        let since = parts.get(part).map_or(failed, |known| known.since);
        parts.insert(part.to_owned(), PartOutage { since, failed, error });
    }

    /// `part` can be read.
    pub(super) fn works(&self, part: &str) {
        self.lock().remove(part);
    }

    /// Since the first part fails, with the error of the last attempt; `None` when all work.
    pub(super) fn present(&self) -> Option<Outage> {
        let parts = self.lock();
        let since = parts.values().map(|part| part.since).min()?;
        let error = parts.values().max_by_key(|part| part.failed)?.error.clone();
        Some(Outage { since, error, parts: parts.keys().cloned().collect() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PartOutage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_its_first_failure_until_all_parts_work() {
        let outages = Outages::default();
        assert_eq!(outages.present(), None);
        outages.fails("services", "one".into());
        let since = outages.present().expect("fails").since;
        outages.fails("nodes", "two".into());
        outages.fails("services", "three".into());
        let outage = outages.present().expect("fails");
        assert_eq!((outage.since, outage.error.as_str()), (since, "three"));
        assert_eq!(outage.parts, ["nodes", "services"]);
        outages.works("services");
        let outage = outages.present().expect("one part fails");
        assert!(outage.error == "two" && outage.since >= since);
        outages.works("nodes");
        assert_eq!(outages.present(), None);
    }
}
