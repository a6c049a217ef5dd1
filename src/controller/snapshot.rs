//! What the sync loop knows, for those who ask.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Report;
use crate::diff::Mirror;
use crate::model::Model;

/// All the loop knows, as of one moment between two syncs.
#[derive(Debug)]
pub struct Snapshot {
    /// All objects.
    pub model: Model,
    /// What the kernel should hold; `None` before the first sync and after a failed one.
    pub mirror: Option<Mirror>,
    /// What the last sync did.
    pub report: Report,
}

/// Asks the loop for snapshots.
///
/// A copy shares the objects and the compiled Services, so it costs the loop some 200 ns for each Service (see
/// benches/README.md) and no call to the kernel; whatever is made of it is made elsewhere. One question can wait at a time.
#[derive(Debug, Clone)]
pub struct Snapshots(pub(super) mpsc::Sender<SyncSender<Snapshot>>);

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The loop has ended.
    #[error("the sync loop has ended")]
    Ended,
    /// The loop is in the middle of something long, as the first load of a big cluster.
    #[error("the sync loop is busy; try again")]
    Busy,
}

impl Snapshots {
    /// Waits until the loop is between two syncs.
    pub fn take(&self, limit: Duration) -> Result<Snapshot, SnapshotError> {
        let (sender, receiver) = sync_channel(1);
        self.0.try_send(sender).map_err(|error| match error {
            TrySendError::Full(_) => SnapshotError::Busy,
            TrySendError::Closed(_) => SnapshotError::Ended,
        })?;
        receiver.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => SnapshotError::Busy,
            RecvTimeoutError::Disconnected => SnapshotError::Ended,
        })
    }
}
