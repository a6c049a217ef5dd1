//! Answers the operator's commands (`portway status`, `services`, ...): HTTP on a unix socket that only root can open.
//!
//! The sync loop gives out snapshots and nothing else ([`crate::controller::Snapshots`]); the kernel is read through a
//! socket of our own. Questions are answered one at a time on a thread of their own, so at most one snapshot is being
//! worked on, whoever asks.

mod activity;
mod client;
mod comparison;
mod endpoints;
mod explain;
mod faults;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod kernel;
mod rows;
mod server;
mod services;
mod status;

pub use activity::Activity;
pub use client::{Client, ClientError};
pub use kernel::KernelView;
pub use rows::{DiffRow, EndpointRow, ExplainRows, FaultRow, Refusal, ServiceRow, State, StatusRow};
pub use server::{Admin, start};

use crate::controller::SnapshotError;
use crate::ruleset::KernelError;

/// Where the socket is when nobody says otherwise.
pub const SOCKET: &str = "/run/portway/admin.sock";

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
    /// Not a destination.
    #[error("want ?to=IP:PORT/PROTOCOL")]
    Destination,
}
