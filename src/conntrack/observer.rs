//! What follows the sync loop.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::cleaner::{self, Slot};
use super::departures::Departures;
use super::{Cleaning, FlowTable, KernelTable, UdpFrontends};
use crate::controller::{Observer, Synced};

/// Has the kernel's table of flows cleaned after syncs, on a thread of its own that ends with this value.
pub struct ConntrackObserver {
    frontends: UdpFrontends,
    departures: Departures,
    cuts_tcp: Box<dyn Fn() -> bool + Send>,
    slot: Arc<Slot>,
}

impl ConntrackObserver {
    /// Starts the cleaner for the network namespace of the calling thread. `report` is told of every cleaning run, on the
    /// cleaner's thread.
    pub fn start(report: impl FnMut(&Cleaning) + Send + 'static) -> io::Result<Self> {
        Self::with_table(KernelTable::open()?, report)
    }

    /// As [`ConntrackObserver::start`], with a table of one's own.
    pub fn with_table(
        table: impl FlowTable + 'static,
        report: impl FnMut(&Cleaning) + Send + 'static,
    ) -> io::Result<Self> {
        let slot = Arc::new(Slot::default());
        cleaner::start(slot.clone(), table, Box::new(report))?;
        Ok(Self {
            frontends: UdpFrontends::default(),
            departures: Departures::default(),
            cuts_tcp: Box::new(|| false),
            slot,
        })
    }

    /// Has TCP flows to endpoints that have left all slices deleted, too, as long as this says so. Where the model tells of
    /// departures ([`crate::model::Model::watch_departures`]).
    pub fn cut_tcp(mut self, wanted: impl Fn() -> bool + Send + 'static) -> Self {
        self.cuts_tcp = Box::new(wanted);
        self
    }
}

impl Observer for ConntrackObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        let mut sweep = self.frontends.follow(sync);
        if (self.cuts_tcp)() {
            self.departures.follow(sync, Instant::now(), &mut sweep);
        }
        if !sweep.is_empty() {
            self.slot.put(sweep);
        }
    }
}

impl fmt::Debug for ConntrackObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConntrackObserver").field("departures", &self.departures).finish_non_exhaustive()
    }
}

impl Drop for ConntrackObserver {
    fn drop(&mut self) {
        self.slot.close();
    }
}
