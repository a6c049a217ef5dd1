//! Where the cluster's state comes from: a folder of manifests ([`ManifestSource`]) or an API server ([`KubeSource`]).
//!
//! A source turns objects into model [`Event`]s and sends them in batches; a batch is meant to become one transaction.
//! Faulty objects are reported as [`Problem`]s and never stop the rest.

pub mod api;
mod convert;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod guard;
mod intern;
mod kubernetes;
mod manifests;
mod outage;
mod problem;

use std::io;
use std::path::PathBuf;

pub use convert::{Converted, Converter, Origin};
pub use guard::{Guarded, Unreadable};
pub use kubernetes::{KubeOptions, KubeSource, RequestGate, RequestOutcome, RetryPolicy, Timing, Turn};
pub use manifests::{ManifestSource, load_dir, load_dir_with_nodes};
pub use outage::Outage;
pub use problem::{Problem, SourceStats, Subject};

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
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}: {error}; check the file and that this user may read it")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<kube::config::KubeconfigError>,
    },
    /// The file with the token cannot be used.
    #[error("cannot use the token in {path}: {error}; check the file and that this user may read it")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// Not in a pod with a service account.
    #[error(
        "no kubeconfig and no master given, and not in a pod with a service account ({0}); give --kubeconfig, --master or \
         --manifests (in the chart: kubeconfig or k8sServiceHost)"
    )]
    InCluster(Box<kube::config::InClusterError>),
    /// The master override is not a URL.
    #[error("the master {0:?} is not a URL (want https://host:port)")]
    Master(String),
    /// The proxy on the way to the API server is of a kind that cannot be used.
    #[error(
        "{0}:// proxies cannot be used for the API server, only http:// ones; correct proxy-url in the kubeconfig, or \
         HTTPS_PROXY, or name the server in NO_PROXY"
    )]
    Proxy(String),
    /// The client cannot be set up from the configuration.
    #[error("cannot set up the client for {server}: {error}; check its certificates and credentials")]
    Client {
        /// The API server.
        server: String,
        /// What is wrong.
        error: Box<kube::Error>,
    },
    /// A task of the program itself failed.
    #[error("internal error in a source: {0}")]
    Internal(String),
}
