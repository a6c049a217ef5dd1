//! Where the program's objects come from: the API, or a folder.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::config::{Configuration, Options};
use crate::events::{EventQueue, EventSink, EventWanted, Rate, Recorder};
use crate::host;
use crate::metrics::Metrics;
use crate::source::{EventSender, KubeOptions, KubeSource, ManifestSource, SourceError};

/// Where the objects come from.
pub(in crate::cli) enum Source {
    Manifests(Box<ManifestSource>),
    Kubernetes(Box<KubeSource>),
}

impl Source {
    /// Finds the way to the objects; the API server need not answer yet.
    pub(in crate::cli) async fn open(
        configuration: &Configuration,
        options: &Options,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SourceError> {
        let proxy_name = options.service_proxy_name.clone();
        let all_nodes = !options.direct_return_devices.is_empty();
        if let Some(folder) = &configuration.manifests {
            let source = ManifestSource::open(folder, &options.node_name)?
                .on_host(host::primary_ips)
                .serving(proxy_name)
                .with_all_nodes(all_nodes);
            metrics.watch_source("manifests", source.stats());
            return Ok(Self::Manifests(Box::new(source)));
        }
        let client = &configuration.client;
        let access = KubeOptions {
            kubeconfig: client.kubeconfig.clone(),
            master: client.master.clone(),
            ..KubeOptions::default()
        };
        let source = KubeSource::connect(&access, &options.node_name, Some(metrics.rest_client_layer())).await?;
        let source = source.serving(proxy_name).with_all_nodes(all_nodes);
        metrics.watch_source("kubernetes", source.stats());
        Ok(Self::Kubernetes(Box::new(source)))
    }

    /// Has Events created where there is an API server.
    pub(super) fn record(&self, configuration: &Configuration, options: &Options, queue: EventQueue, runtime: &Handle) {
        if let Self::Kubernetes(source) = self {
            let client = &configuration.client;
            let host = host::name().unwrap_or_else(|| options.node_name.to_string());
            let rate = Rate::new(client.qps, client.burst);
            runtime.spawn(Recorder::new(source.client(), &options.node_name, &host, rate).run(queue));
        }
    }

    /// Sends what the source has to say until the receiver is gone.
    pub(in crate::cli) async fn run(self, sender: EventSender, events: EventSink) -> Result<(), SourceError> {
        events.wanted(EventWanted::Starting);
        match self {
            Self::Manifests(source) => source.run(sender).await,
            Self::Kubernetes(source) => source.run(sender).await,
        }
    }
}
