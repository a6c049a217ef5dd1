//! On a terminal: how far the first load has got. The log says the same when it is over, and is all there is elsewhere.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::admin::count;
use crate::cli::progress::Progress;
use crate::controller::{Observer, Synced};
use crate::model::{Event, Family, Kind};
use crate::ruleset::KernelError;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// What is there so far.
#[derive(Debug, Default, Clone)]
struct Seen {
    services: usize,
    slices: usize,
    listed: HashSet<Kind>,
    /// Why nothing can be written.
    waiting: Option<String>,
    /// Families whose rules are in force.
    synced: BTreeSet<Family>,
}

/// Follows the sync loop until all families have their rules.
pub(super) struct FirstLoad(Arc<Mutex<Seen>>);

impl FirstLoad {
    /// An observer, where there is a terminal to show it on.
    pub(super) fn show(runtime: &Handle, families: usize, source: &'static str) -> Option<Self> {
        let mut progress = Progress::on_terminal()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let this = Self(seen.clone());
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if seen.synced.len() >= families {
                    return;
                }
                progress.say(&seen.line(source));
            }
        });
        Some(this)
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Seen {
    fn line(&self, source: &str) -> String {
        let (services, slices) = (count(self.services as u64, "Service"), count(self.slices as u64, "EndpointSlice"));
        let objects = format!("{services} and {slices}");
        if let Some(cause) = &self.waiting {
            format!("first load: waiting: {cause}")
        } else if [Kind::Service, Kind::EndpointSlice].iter().all(|kind| self.listed.contains(kind)) {
            format!("first load: writing rules for {objects}")
        } else if self.services + self.slices == 0 {
            format!("first load: waiting for {source}")
        } else {
            format!("first load: {objects} so far, from {source}")
        }
    }
}

impl Observer for FirstLoad {
    fn received(&mut self, batch: &[Event]) {
        let count = |is_one: fn(&Event) -> bool| batch.iter().filter(|event| is_one(event)).count();
        let services = count(|event| matches!(event, Event::Service(_)));
        let slices = count(|event| matches!(event, Event::Slice(_)));
        self.note(|seen| {
            for event in batch {
                match event {
                    // A list that breaks off begins anew.
                    Event::ListStarted(Kind::Service) => seen.services = 0,
                    Event::ListStarted(Kind::EndpointSlice) => seen.slices = 0,
                    Event::ListDone(kind) => drop(seen.listed.insert(*kind)),
                    _ => {}
                }
            }
            seen.services += services;
            seen.slices += slices;
        });
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        self.note(|seen| {
            seen.waiting = None;
            seen.synced.insert(sync.family);
        });
    }

    fn waiting(&mut self, cause: &KernelError) {
        self.note(|seen| seen.waiting = Some(cause.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{added, service};

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut load = FirstLoad(Arc::default());
        let line = |load: &FirstLoad| load.0.lock().expect("no panic").line("the API server");
        assert_eq!(line(&load), "first load: waiting for the API server");
        load.received(&[Event::ListStarted(Kind::Service), added(service("a", "10.96.0.1"))]);
        assert_eq!(line(&load), "first load: 1 Service and 0 EndpointSlices so far, from the API server");
        load.received(&[Event::ListDone(Kind::Service), Event::ListDone(Kind::EndpointSlice)]);
        assert_eq!(line(&load), "first load: writing rules for 1 Service and 0 EndpointSlices");
        load.received(&[Event::ListStarted(Kind::Service), added(service("a", "10.96.0.1"))]);
        assert_eq!(line(&load), "first load: writing rules for 1 Service and 0 EndpointSlices");
    }
}
