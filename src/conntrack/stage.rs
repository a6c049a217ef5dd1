//! A sync loop for tests, and what it asks to be swept.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{FamilySweep, Sweep};
use crate::config::Options;
use crate::controller::{Controller, Observer, Synced};
use crate::model::{Event, Family};
use crate::ruleset::FakeKernel;
use crate::testing::all_listed;

/// Keeps what a follower adds to the sweeps of the last sync, of all families.
struct Follower<F>(F, Arc<Mutex<Sweep>>);

impl<F: FnMut(&Synced<'_>, &mut Sweep) + Send> Observer for Follower<F> {
    fn synced(&mut self, sync: &Synced<'_>) {
        (self.0)(sync, &mut self.1.lock().expect("no panic"));
    }
}

pub(super) struct Stage {
    pub(super) controller: Controller<FakeKernel>,
    pub(super) last: Arc<Mutex<Sweep>>,
}

impl Stage {
    /// After a first sync with these events.
    pub(super) fn over(
        kernel: FakeKernel,
        options: Options,
        follow: impl FnMut(&Synced<'_>, &mut Sweep) + Send + 'static,
        events: impl IntoIterator<Item = Event>,
    ) -> Self {
        let (mut controller, _) = Controller::new(kernel, options);
        let last = Arc::new(Mutex::new(Sweep::default()));
        controller.observe(Follower(follow, last.clone()));
        controller.handle(events.into_iter().chain(all_listed()), Instant::now());
        Self { controller, last }
    }

    pub(super) fn sync(&mut self, events: impl IntoIterator<Item = Event>) -> FamilySweep {
        *self.last.lock().expect("no panic") = Sweep::default();
        self.controller.handle(events, Instant::now());
        self.sweep()
    }

    pub(super) fn sweep(&self) -> FamilySweep {
        self.last.lock().expect("no panic").family(Family::Ipv4).clone()
    }
}
