//! What all kinds share about the server: when to ask it, and how far its history has come.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::sleep_until;

use super::ask::is_older;
use super::fault::Fault;
use super::gate::{RequestGate, RequestOutcome, RetryPolicy, Turn};

/// The gate, and who waits at it.
pub(super) struct ApiServer {
    gate: Mutex<RequestGate>,
    opened: watch::Sender<()>,
    /// The last version the server called its present one, and when it was asked.
    present: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// Tells that the history is another one, and when that was found out.
    rewound: watch::Sender<Option<Instant>>,
}

impl ApiServer {
    pub(super) fn new(retry_policy: RetryPolicy) -> Self {
        Self {
            gate: Mutex::new(RequestGate::random(retry_policy)),
            opened: watch::Sender::new(()),
            present: tokio::sync::Mutex::default(),
            rewound: watch::Sender::new(None),
        }
    }

    /// Waits until this kind may ask.
    pub(super) async fn pass(&self, turn: &mut Turn) {
        let mut opened = self.opened.subscribe();
        loop {
            let Err(until) = lock(&self.gate).ask(turn, Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(until.into()) => {}
                // The sender is ours, so this is no error.
                _ = opened.changed() => {}
            }
        }
    }

    /// What became of a request.
    pub(super) fn note(&self, turn: &mut Turn, outcome: RequestOutcome) {
        if lock(&self.gate).note(turn, outcome, Instant::now()) {
            self.opened.send_replace(());
        }
    }

    /// The server's present version: asked for once after `since` for all kinds, and again only if it is not as new as the
    /// version that is known.
    pub(super) async fn present(
        &self,
        since: Instant,
        known: &str,
        ask: impl Future<Output = Result<String, Fault>>,
    ) -> Result<String, Fault> {
        // Whoever comes second waits for the answer to the first.
        let mut present = self.present.lock().await;
        if let Some((_, version)) =
            present.as_ref().filter(|(asked, version)| *asked >= since && !is_older(version, known))
        {
            return Ok(version.clone());
        }
        let asked = Instant::now();
        let version = ask.await?;
        *present = Some((asked, version.clone()));
        Ok(version)
    }

    /// A kind that has been in doubt since then has found that the server went back. It is news unless another one, which
    /// had the same reason to look, has found so already.
    pub(super) fn has_gone_back(&self, since: Instant) {
        self.rewound.send_if_modified(|found| {
            let news = found.is_none_or(|found| found < since);
            if news {
                *found = Some(Instant::now());
            }
            news
        });
    }

    /// Changes whenever what kinds know, and their versions, belongs to a history that is no more.
    pub(super) fn history(&self) -> watch::Receiver<Option<Instant>> {
        self.rewound.subscribe()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
