//! An API server as the source, through the crate `kube`.
//!
//! Watches become events at once; no second copy of the objects is kept here. `kube`'s own `watcher` is not used: it
//! resumes a watch that ends at once without any pause, goes on after a line it could not read as if nothing was missing,
//! and does not notice a server that was restored from a backup.

mod access;
mod ask;
mod client;
mod fault;
mod follow;
mod gate;
mod gunzip;
mod proxy;
mod server;
mod shared;
mod throttle;
mod timing;
mod token;

use std::sync::{Arc, Mutex};

use kube::Client;
use tokio::task::JoinSet;

use self::access::Access;
pub use self::access::KubeOptions;
use self::ask::Selector;
use self::follow::Follow;
pub use self::gate::{RequestGate, RequestOutcome, RetryPolicy, Turn};
use self::server::ApiServer;
use self::shared::KindsContext;
pub use self::timing::Timing;
use super::api;
use super::convert::{Converter, Origin};
use super::problem::{Reporter, SourceStats};
use super::{EventSender, SourceError};
use crate::instruments::RestClientLayer;

/// Selectors of specification 2.1.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Follows Services, EndpointSlices, ServiceCIDRs and one Node of a cluster.
///
/// The first list of a kind is sent in parts, later ones as one batch, and changes in batches of what arrives together.
/// Failures are retried for ever.
pub struct KubeSource {
    access: Access,
    node_name: Arc<str>,
    proxy_name: Option<Arc<str>>,
    all_nodes: bool,
    stats: Arc<SourceStats>,
}

impl KubeSource {
    /// Sets up the client, whose requests `measure` may measure. The API server need not answer yet.
    pub async fn connect(
        options: &KubeOptions,
        node_name: &str,
        measure: Option<RestClientLayer>,
    ) -> Result<Self, SourceError> {
        let access = Access::new(options, measure).await?;
        let stats = Arc::new(SourceStats::of(access.server()));
        Ok(Self { access, node_name: node_name.into(), proxy_name: None, all_nodes: false, stats })
    }

    /// Takes the Services with this label `service.kubernetes.io/service-proxy-name`; `None`: those without it.
    #[must_use]
    pub fn serving(mut self, proxy_name: Option<Arc<str>>) -> Self {
        self.proxy_name = proxy_name;
        self
    }

    /// Follows the addresses of all nodes, too, where direct return needs them.
    #[must_use]
    pub fn with_all_nodes(mut self, all_nodes: bool) -> Self {
        self.all_nodes = all_nodes;
        self
    }

    /// The client in use, for other requests to the same API server.
    pub fn client(&self) -> Client {
        self.access.client()
    }

    /// The counters, which outlive [`KubeSource::run`].
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Lists and watches until the receiver is dropped.
    pub async fn run(self, sender: EventSender) -> Result<(), SourceError> {
        let node = format!("metadata.name={}", self.node_name);
        let ours = match &self.proxy_name {
            None => format!("!{PROXY_NAME_LABEL}"),
            Some(name) => format!("{PROXY_NAME_LABEL}={name}"),
        };
        let converter = Converter::new(Origin::Api, self.node_name).serving(self.proxy_name);
        let shared = Arc::new(KindsContext {
            converter: Mutex::new(converter),
            reporter: Mutex::new(Reporter),
            stats: self.stats,
            sender: sender.clone(),
            server: ApiServer::new(self.access.timing().retry_policy.clone()),
            access: self.access,
        });
        let slices = Selector::default().labels(SLICE_LABELS);
        let services = Selector::default().labels(&ours).fields(SERVICE_FIELDS);
        // Dropping the set ends them all.
        let mut tasks = JoinSet::new();
        tasks.spawn(Follow::<api::Node>::new(&shared, Selector::default().fields(&node)).run());
        if self.all_nodes {
            tasks.spawn(Follow::<api::NodeAddresses>::new(&shared, Selector::default()).called("all nodes").run());
        }
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
