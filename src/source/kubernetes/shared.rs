//! What all kinds share.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::access::Access;
use super::ask::{Selector, is_older};
use super::fault::Fault;
use super::server::ApiServer;
use crate::source::EventSender;
use crate::source::convert::{Convert, Converter};
use crate::source::problem::{Reporter, SourceStats};

/// A server whose history does not reach back to our version says so at once. Only one that keeps silent is asked.
const DOUBT: Duration = Duration::from_millis(200);

/// What all kinds share.
pub(super) struct KindsContext {
    pub(super) converter: Mutex<Converter>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) stats: Arc<SourceStats>,
    pub(super) sender: EventSender,
    pub(super) access: Access,
    pub(super) server: ApiServer,
}

impl KindsContext {
    /// Ends when a watch from this version is in vain, because the server has gone back to an older state. Kinds share one
    /// history: what one of them finds out holds for all.
    ///
    /// A server restored from an older backup keeps silent until it is past our version: where one may stand behind the
    /// watch (`doubt`), its version is asked for.
    pub(super) async fn history_lost<T: Convert>(
        self: Arc<Self>,
        selector: Selector,
        version: String,
        doubt: Option<Instant>,
        mut history: watch::Receiver<Option<Instant>>,
    ) -> Fault {
        let check = async {
            if let Some(since) = doubt {
                sleep(DOUBT).await;
                let present = self.server.present(since, &version, selector.present::<T>(&self.access)).await?;
                if is_older(&present, &version) {
                    self.server.has_gone_back(since);
                    return Err(Fault::Behind { present, version });
                }
            }
            std::future::pending::<Result<(), Fault>>().await
        };
        tokio::select! {
            biased;
            checked = check => checked.err().unwrap_or(Fault::Rewound),
            // The sender lives as long as we do.
            _ = history.changed() => Fault::Rewound,
        }
    }
}
