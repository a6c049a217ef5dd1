//! An API server as the source, through the crate `kube`.
//!
//! Watches are folded straight into events; no second copy of the objects is kept here.

mod backoff;
mod fault;
mod follow;
mod token;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Uri, header};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use tokio::task::JoinSet;
use tower::util::MapRequestLayer;
use tracing::warn;

use self::follow::{Follow, Shared};
use self::token::TokenFile;
use super::api;
use super::convert::{Converter, Origin};
use super::problem::{Reporter, SourceStats};
use super::{EventSender, SourceError};
use crate::metrics::RestClientLayer;

/// Selectors of specification 2.1.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// How to reach the API server. With neither field set: as a pod, by its service account.
#[derive(Debug, Clone, Default)]
pub struct KubeOptions {
    /// A kubeconfig file; its current context is used.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, over the one in the kubeconfig.
    pub master: Option<String>,
}

/// Follows Services, EndpointSlices, ServiceCIDRs and one Node of a cluster.
///
/// A list is sent as one batch, later changes in batches of what arrives together. Failures are retried for ever.
pub struct KubeSource {
    client: Client,
    node_name: Arc<str>,
    proxy_name: Option<Arc<str>>,
    stats: Arc<SourceStats>,
    list_patience: Duration,
}

impl KubeSource {
    /// Sets up the client. The API server need not answer yet.
    pub async fn connect(options: &KubeOptions, node_name: &str) -> Result<Self, SourceError> {
        Ok(Self::new(client(options, None).await?, node_name))
    }

    /// The same, with a layer that measures requests.
    pub async fn connect_measured(
        options: &KubeOptions,
        node_name: &str,
        layer: &RestClientLayer,
    ) -> Result<Self, SourceError> {
        Ok(Self::new(client(options, Some(layer)).await?, node_name))
    }

    /// A source over a client of the caller's.
    pub fn new(client: Client, node_name: &str) -> Self {
        Self {
            client,
            node_name: node_name.into(),
            proxy_name: None,
            stats: Arc::default(),
            list_patience: Duration::from_secs(30),
        }
    }

    /// Takes the Services with this label `service.kubernetes.io/service-proxy-name`; `None`: those without it.
    #[must_use]
    pub fn serving(mut self, proxy_name: Option<Arc<str>>) -> Self {
        self.proxy_name = proxy_name;
        self
    }

    /// How long a streaming list may stay silent before paged lists are used instead (default 30 s).
    #[must_use]
    pub fn list_patience(mut self, patience: Duration) -> Self {
        self.list_patience = patience;
        self
    }

    /// The client, for other requests to the same API server.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The counters, which outlive [`KubeSource::run`].
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Lists and watches until the receiver is dropped.
    pub async fn run(self, sender: EventSender) -> Result<(), SourceError> {
        let converter = Converter::new(Origin::Api, self.node_name.clone()).serving(self.proxy_name.clone());
        let shared = Arc::new(Shared {
            converter: Mutex::new(converter),
            reporter: Mutex::new(Reporter::default()),
            stats: self.stats.clone(),
            sender: sender.clone(),
            list_patience: self.list_patience,
        });
        let config = watcher::Config::default();
        let node = format!("metadata.name={}", self.node_name);
        // Dropping the set ends them all.
        let mut tasks = JoinSet::new();
        tasks.spawn(self.follow::<api::Node>(&shared, config.clone().fields(&node)).run());
        tasks.spawn(self.follow::<api::ServiceCidr>(&shared, config.clone()).optional().run());
        let ours = match &self.proxy_name {
            None => format!("!{PROXY_NAME_LABEL}"),
            Some(name) => format!("{PROXY_NAME_LABEL}={name}"),
        };
        let services = config.clone().labels(&ours).fields(SERVICE_FIELDS);
        tasks.spawn(self.follow::<api::Service>(&shared, services).run());
        tasks.spawn(self.follow::<api::EndpointSlice>(&shared, config.labels(SLICE_LABELS)).run());
        tokio::select! {
            () = sender.closed() => Ok(()),
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => Err(SourceError::Internal(error.to_string())),
                _ => Ok(()),
            }
        }
    }

    fn follow<T: super::convert::Convert>(&self, shared: &Arc<Shared>, config: watcher::Config) -> Follow<T> {
        Follow::new(Api::all(self.client.clone()), config, shared.clone())
    }
}

async fn client_config(options: &KubeOptions) -> Result<Config, SourceError> {
    let mut config = load_config(options).await?;
    if let Some(master) = &options.master {
        config.cluster_url = parse_master(master)?;
    }
    // HTTPS_PROXY in a node's environment is not meant for the way to its own API server.
    if let Some(proxy) = config.proxy_url.take() {
        warn!(%proxy, "proxies are not used for the API server, it is contacted directly");
    }
    let agent = HeaderValue::from_static(concat!("portway/", env!("CARGO_PKG_VERSION")));
    config.headers.push((header::USER_AGENT, agent));
    Ok(config)
}

async fn client(options: &KubeOptions, measure: Option<&RestClientLayer>) -> Result<Client, SourceError> {
    let mut config = client_config(options).await?;
    let server = config.cluster_url.clone();
    let token = config.auth_info.token_file.take().map(PathBuf::from);
    let token = token.map(|path| TokenFile::open(&path).map_err(|error| SourceError::TokenFile { path, error }));
    let token = token.transpose()?;
    let no_client = |error| SourceError::Client { server: server.to_string(), error: Box::new(error) };
    let client = ClientBuilder::try_from(config).map_err(no_client)?;
    let client = client.with_layer(&MapRequestLayer::new(move |request| match &token {
        Some(token) => token.sign(request),
        None => request,
    }));
    Ok(match measure {
        Some(layer) => client.with_layer(&layer.for_server(&server)).build(),
        None => client.build(),
    })
}

async fn load_config(options: &KubeOptions) -> Result<Config, SourceError> {
    match (&options.kubeconfig, &options.master) {
        (Some(path), _) => {
            let failed = |error| SourceError::Kubeconfig { path: path.clone(), error: Box::new(error) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)
        }
        (None, Some(master)) => Ok(Config::new(parse_master(master)?)),
        (None, None) => Config::incluster().map_err(|error| SourceError::InCluster(Box::new(error))),
    }
}

fn parse_master(master: &str) -> Result<Uri, SourceError> {
    let text = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    match text.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => Ok(uri),
        _ => Err(SourceError::Master(master.to_owned())),
    }
}
