//! What the sync loop knows, for those who ask.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Report;
use crate::diff::Mirror;
use crate::model::Model;
use crate::ruleset::{KernelError, Transaction};

/// All the loop knows, as of one moment between two syncs.
#[derive(Debug)]
pub struct Snapshot {
    /// All objects.
    pub model: Model,
    /// What the kernel should hold, of the families whose table is known; `None` when that is none, as before the first sync.
    pub mirror: Option<Mirror>,
    /// What the last sync did.
    pub report: Report,
}

/// Asks the loop for snapshots.
///
/// A copy shares the objects and the compiled Services, so it costs the loop some 200 ns for each Service (see
/// benches/README.md) and no call to the kernel; whatever is made of it is made elsewhere. One question can wait at a time.
#[derive(Debug, Clone)]
pub struct Snapshots(mpsc::Sender<Question>);

/// What the loop is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// All it knows.
    Snapshot(SyncSender<Snapshot>),
    /// Which of these changes the kernel still lacks.
    Confirm(Transaction, SyncSender<Result<Transaction, KernelError>>),
}

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
    pub(super) fn new(asking: mpsc::Sender<Question>) -> Self {
        Self(asking)
    }

    /// Waits until the loop is between two syncs.
    pub fn take(&self, limit: Duration) -> Result<Snapshot, SnapshotError> {
        self.ask(Question::Snapshot, limit)
    }

    /// What of these changes would make the kernel equal to what is desired between two syncs: the loop reads what they
    /// concern, and nothing else. Where that does not tell, as of a table that is not there, they are returned as they are.
    pub fn confirm(
        &self,
        changes: Transaction,
        limit: Duration,
    ) -> Result<Result<Transaction, KernelError>, SnapshotError> {
        self.ask(|sender| Question::Confirm(changes, sender), limit)
    }

    fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Question, limit: Duration) -> Result<T, SnapshotError> {
        let (sender, receiver) = sync_channel(1);
        self.0.try_send(question(sender)).map_err(|error| match error {
            TrySendError::Full(_) => SnapshotError::Busy,
            TrySendError::Closed(_) => SnapshotError::Ended,
        })?;
        receiver.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => SnapshotError::Busy,
            RecvTimeoutError::Disconnected => SnapshotError::Ended,
        })
    }
}
