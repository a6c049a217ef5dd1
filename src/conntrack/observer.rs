//! What follows the sync loop.

use std::io;
use std::sync::Arc;

use super::cleaner::{self, Slot};
use super::{Cleaning, FlowTable, KernelTable, UdpFrontends};
use crate::controller::{Observer, Synced};

/// Has the kernel's table of flows cleaned after syncs, on a thread of its own that ends with this value.
#[derive(Debug)]
pub struct ConntrackObserver {
    frontends: UdpFrontends,
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
        Ok(Self { frontends: UdpFrontends::default(), slot })
    }
}

impl Observer for ConntrackObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        let sweep = self.frontends.follow(sync);
        if !sweep.is_empty() {
            self.slot.put(sweep);
        }
    }
}

impl Drop for ConntrackObserver {
    fn drop(&mut self) {
        self.slot.close();
    }
}
