//! Notices that files of the folder have changed, and that their writers are done.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::folder::ManifestFolder;

/// Changes that come closer together than this are one.
const SETTLE: Duration = Duration::from_millis(5);
/// How long to wait for a writer to close its file, and for a busy folder to settle.
const PATIENCE: Duration = Duration::from_millis(500);

/// The notifications of one folder.
#[derive(Debug, Default)]
pub(super) struct FolderWatch {
    watcher: Option<((u64, u64), RecommendedWatcher)>,
    shared: Arc<WatchState>,
    failed: bool,
}

#[derive(Debug, Default)]
struct WatchState {
    changed: Notify,
    /// Files written to and not closed yet: reading them now could see half of them.
    writing: Mutex<HashSet<PathBuf>>,
}

impl FolderWatch {
    /// Watches the folder that is at the path now; another one than before if it was replaced.
    pub(super) fn renew(&mut self, folder: &ManifestFolder) {
        let identity = folder.identity();
        if identity.is_some() && self.watcher.as_ref().map(|(watched, _)| *watched) == identity {
            return;
        }
        self.watcher = None;
        self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let Some(identity) = identity else { return };
        let shared = self.shared.clone();
        let started = notify::recommended_watcher(move |event| shared.take(event)).and_then(|mut watcher| {
            watcher.watch(folder.path(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match started {
            Ok(watcher) => {
                self.watcher = Some((identity, watcher));
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                warn!(%error, "cannot watch {}; it is looked at every 2 s instead", folder.path().display());
            }
            Err(_) => {}
        }
    }

    /// Waits for a change.
    pub(super) async fn noticed(&self) {
        self.shared.changed.notified().await;
    }

    /// Waits until nothing has changed for a moment and all writers are done.
    pub(super) async fn settled(&self) {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            if timeout(SETTLE, self.shared.changed.notified()).await.is_ok() {
                continue;
            }
            if self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            sleep(SETTLE).await;
        }
        // A writer that keeps its file open must not hold up all others for ever.
        self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl WatchState {
    fn take(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) => {
                let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                match event.kind {
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                        event.paths.iter().for_each(|path| {
                            writing.remove(path);
                        });
                    }
                    // Our own reading is reported too.
                    EventKind::Access(_) => return,
                    EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths),
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                        event.paths.iter().for_each(|path| {
                            writing.remove(path);
                        });
                    }
                    _ => {}
                }
            }
            // Overflow and the like: look at everything.
            Err(error) => debug!(%error, "notification failed"),
        }
        self.changed.notify_one();
    }
}
