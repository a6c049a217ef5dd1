//! What all kinds share.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::access::Access;
use super::ask::{Selector, is_older};
use super::fault::Fault;
use super::server::Server;
use crate::source::EventSender;
use crate::source::convert::{Convert, Converter};
use crate::source::problem::{Reporter, SourceStats};

/// A server whose history does not reach back to our version says so at once. Only one that keeps silent is asked.
const DOUBT: Duration = Duration::from_millis(200);

/// What all kinds share.
pub(super) struct Shared {
    pub(super) converter: Mutex<Converter>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) stats: Arc<SourceStats>,
    pub(super) sender: EventSender,
    pub(super) access: Access,
    pub(super) server: Server,
}

impl Shared {
    /// A server restored from an older backup keeps silent until it is past our version: where one may stand behind a watch,
    /// its version is asked for. Kinds share one history, so one of them asks and the others look at the answer.
    pub(super) async fn check_history<T: Convert>(
        self: Arc<Self>,
        selector: Selector,
        version: String,
        since: Instant,
    ) -> Result<(), Fault> {
        sleep(DOUBT).await;
        let present = self.server.present(since, &version, selector.present::<T>(&self.access)).await?;
        if is_older(&present, &version) { Err(Fault::Behind { present, version }) } else { Ok(()) }
    }
}
