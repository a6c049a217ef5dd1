//! An API server as the source, through the crate `kube`.
//!
//! Watches are folded straight into events; no second copy of the objects is kept here. `kube`'s own `watcher` is not
//! used: it resumes a watch that ends at once without any pause, goes on after a line it could not read as if nothing
//! was missing, and cannot see that the server's history is another one.

mod access;
mod backoff;
mod client;
mod fault;
mod follow;

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use self::access::Access;
pub use self::access::KubeOptions;
pub use self::client::Timing;
use self::follow::{Follow, Selector, Shared};
use super::api;
use super::convert::{Converter, Origin};
use super::problem::{Reporter, SourceStats};
use super::{EventSender, SourceError};
use crate::metrics::RestClientLayer;

/// Selectors of specification 2.1.
const SERVICE_LABELS: &str = "!service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Follows Services, EndpointSlices, ServiceCIDRs and one Node of a cluster.
///
/// A list is sent as one batch, later changes in batches of what arrives together. Failures are retried for ever.
pub struct KubeSource {
    access: Access,
    node_name: Arc<str>,
    stats: Arc<SourceStats>,
}

impl KubeSource {
    /// Sets up the client. The API server need not answer yet.
    pub async fn connect(options: &KubeOptions, node_name: &str) -> Result<Self, SourceError> {
        Ok(Self::over(Access::new(options, None).await?, node_name))
    }

    /// The same, with a layer that measures requests.
    pub async fn connect_measured(
        options: &KubeOptions,
        node_name: &str,
        layer: &RestClientLayer,
    ) -> Result<Self, SourceError> {
        Ok(Self::over(Access::new(options, Some(layer.clone())).await?, node_name))
    }

    fn over(access: Access, node_name: &str) -> Self {
        Self { access, node_name: node_name.into(), stats: Arc::default() }
    }

    /// The counters, which outlive [`KubeSource::run`].
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Lists and watches until the receiver is dropped.
    pub async fn run(self, sender: EventSender) -> Result<(), SourceError> {
        let node = format!("metadata.name={}", self.node_name);
        let shared = Arc::new(Shared {
            converter: Mutex::new(Converter::new(Origin::Api, self.node_name)),
            reporter: Mutex::new(Reporter::default()),
            stats: self.stats,
            sender: sender.clone(),
            access: self.access,
        });
        let slices = Selector::default().labels(SLICE_LABELS);
        let services = Selector::default().labels(SERVICE_LABELS).fields(SERVICE_FIELDS);
        // Dropping the set ends them all.
        let mut tasks = JoinSet::new();
        tasks.spawn(Follow::<api::Node>::new(&shared, Selector::default().fields(&node)).run());
        tasks.spawn(Follow::<api::ServiceCidr>::new(&shared, Selector::default()).optional().run());
        tasks.spawn(Follow::<api::Service>::new(&shared, services).run());
        tasks.spawn(Follow::<api::EndpointSlice>::new(&shared, slices).run());
        tokio::select! {
            () = sender.closed() => Ok(()),
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => Err(SourceError::Internal(error.to_string())),
                _ => Ok(()),
            }
        }
    }
}
