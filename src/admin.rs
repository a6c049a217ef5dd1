//! Answers the operator's commands (`portway status`, `services`, ...): HTTP on a unix socket that only root can open.
//!
//! The sync loop gives out snapshots and nothing else ([`crate::controller::Snapshots`]); the kernel is read through a
//! socket of our own; what seems to differ is looked at again by the sync loop, between two syncs ([`comparison`]). Questions
//! are answered one at a time on a thread of their own, so at most one snapshot is being worked on, whoever asks. Whether the
//! daemon is alive is answered at once.

mod activity;
mod client;
mod comparison;
mod endpoints;
mod explain;
mod faults;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod kernel;
mod place;
mod present;
mod rows;
mod server;
mod services;
mod sources;
mod status;
mod words;

pub use activity::Activity;
pub use client::{Client, ClientError};
pub use explain::rows as explain_rows;
pub use kernel::KernelView;
pub use rows::{
    DiffRow, EndpointRow, ExplainRows, FaultRow, Refusal, STATUS_VERSION, ServiceRow, State, StatusReport, StatusRow,
};
pub use server::start;
pub use words::count;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Options;
use crate::controller::{SnapshotError, Snapshots};
use crate::direct::DirectStatusHandle;
use crate::fast::FastStatusHandle;
use crate::health::Health;
use crate::host::sysctl::Maker;
use crate::logging::Recent;
use crate::metrics::Metrics;
use crate::model::Family;
use crate::ruleset::KernelError;

/// What is answered at once, whatever else is being worked on.
const ALIVE: &str = "/alive";

/// What the answers are made of.
#[derive(Debug)]
pub struct Admin {
    /// The sync loop.
    pub snapshots: Snapshots,
    /// What it did lately.
    pub activity: Activity,
    /// Health.
    pub health: Arc<Health>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The last warnings and errors of the log.
    pub recent: Recent,
    /// The options of the sync loop.
    pub options: Options,
    /// The kernel settings, and which of them could not be made.
    pub settings: Arc<Maker>,
    /// Direct return, where it is on.
    pub direct: Option<DirectStatusHandle>,
    /// The fast path, where it is on.
    pub fast: Option<FastStatusHandle>,
    /// What the process was started with.
    pub configuration: ConfigurationInForce,
}

/// The configuration of this process, and what has become of its file since.
#[derive(Debug)]
pub struct ConfigurationInForce {
    /// As `/configz` shows it.
    pub values: serde_json::Value,
    /// Where it was read, unless flags said all.
    pub file: Option<PathBuf>,
    /// Why the file's present content is not used; `None`: it is in use.
    pub refused: watch::Receiver<Option<String>>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The kernel could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Nothing is desired yet.
    #[error("there is no desired table: no sync has succeeded yet, or the last one failed (see `portway status`)")]
    NotSynced,
    /// Nothing is desired in one family.
    #[error(
        "it is not known what the {0} table holds: no sync of it has succeeded yet, or the last one failed (see `portway status`)"
    )]
    FamilyNotSynced(Family),
    /// Not a destination.
    #[error("want ?to=IP:PORT/PROTOCOL")]
    Destination,
}
