//! The sync loop on a thread of its own, and how it ends.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Controller;
use crate::model::Event;
use crate::ruleset::Kernel;

/// How long the sync loop may take to end. It may be in a call to the kernel, which nothing can cancel.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A sync loop that runs.
#[derive(Debug)]
pub struct SyncThread {
    thread: JoinHandle<()>,
    /// Closed when the loop has returned.
    ended: Receiver<()>,
}

/// Why a sync loop has not ended as it should.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// It still waits for the kernel. Its thread ends with the process.
    #[error("the sync loop does not end within {END_LIMIT:?}; ending without its last changes")]
    Late,
    /// It panicked.
    #[error("the sync loop died")]
    Died,
}

impl SyncThread {
    /// Starts the loop. It ends when all senders of events are gone and the kernel has what was sent.
    pub fn start<K: Kernel + 'static>(
        controller: Controller<K>,
        events: mpsc::Receiver<Vec<Event>>,
    ) -> io::Result<Self> {
        let (running, ended) = channel::<()>();
        let thread = std::thread::Builder::new().name("sync".into()).spawn(move || {
            controller.run(events);
            drop(running);
        })?;
        Ok(Self { thread, ended })
    }

    /// Waits until the loop has ended, for 5 s at most.
    pub fn end(self) -> Result<(), EndError> {
        match self.ended.recv_timeout(END_LIMIT) {
            Err(RecvTimeoutError::Timeout) => Err(EndError::Late),
            _ => self.thread.join().map_err(|_| EndError::Died),
        }
    }
}
