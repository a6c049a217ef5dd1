//! Where the cluster's state comes from: a folder of manifests ([`ManifestSource`]) or an API server ([`KubeSource`]).
//!
//! A source turns objects into model [`Event`]s and sends them in batches; a batch is meant to become one transaction.
//! Faulty objects are reported as [`Problem`]s and never stop the rest.

pub mod api;
mod convert;
mod intern;
mod manifests;
mod problem;

use std::io;
use std::path::PathBuf;

pub use convert::{Converted, Converter, Origin};
pub use manifests::{ManifestSource, load_dir};
pub use problem::{Problem, SourceStats};

use crate::model::Event;

/// Where a source sends its batches. It ends when the receiver is dropped.
pub type EventSender = tokio::sync::mpsc::Sender<Vec<Event>>;

/// Why a source cannot start. Once started it retries instead.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder of manifests is not there.
    #[error("the folder of manifests {0} does not exist; create it or correct the path")]
    NoFolder(PathBuf),
    /// The path is not a folder.
    #[error("{0} is not a folder; give the folder that holds the manifests")]
    NotAFolder(PathBuf),
    /// The folder cannot be listed.
    #[error("cannot read {path}: {error}; check its permissions")]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A task of the program itself failed.
    #[error("internal error while reading manifests: {0}")]
    Internal(String),
}
