//! Memory that only lists and comparisons of everything need is given back.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::controller::{Observer, Synced};
use crate::host::memory;
use crate::model::Event;

/// From a list or a comparison of everything until what it needed is free.
const MEMORY_DELAY: Duration = Duration::from_secs(1);

/// Gives back what only lists and comparisons of everything need; a little later, when it is free.
pub(super) struct MemoryObserver(Arc<Notify>);

impl MemoryObserver {
    pub(super) fn start(runtime: &Handle) -> Self {
        let wanted = Arc::new(Notify::new());
        let this = Self(wanted.clone());
        runtime.spawn(async move {
            loop {
                wanted.notified().await;
                tokio::time::sleep(MEMORY_DELAY).await;
                // It may take long, and nothing depends on how it ends.
                tokio::task::spawn_blocking(memory::give_back).await.ok();
            }
        });
        this
    }
}

impl Observer for MemoryObserver {
    fn received(&mut self, batch: &[Event]) {
        if let Some(Event::ListDone(_)) = batch.last() {
            self.0.notify_one();
        }
    }

    fn synced(&mut self, sync: &Synced<'_>) {
        if sync.full {
            self.0.notify_one();
        }
    }
}
