//! `portway run`: wires a source to the sync loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use super::args::RunArgs;
use crate::config::Options;
use crate::controller::Controller;
use crate::health::{CheckObserver, Health, HealthObserver};
use crate::logging::LogLevel;
use crate::metrics::{MeasuredKernel, Metrics, MetricsObserver};
use crate::model::Event;
use crate::netlink::NftKernel;
use crate::ruleset::Kernel;
use crate::serve::{self, CheckPorts, LogOnly, ServeError, ServeOptions};
use crate::source::{KubeOptions, KubeSource, ManifestSource};
use crate::{host, netlink};

/// Batches on their way to the sync loop; a source that is faster waits.
const QUEUE: usize = 1024;
/// How long the first sync waits for the Node object (specification 2.3).
const NODE_WAIT: Duration = Duration::from_secs(30);
/// kube-proxy's default `syncPeriod`.
const SYNC_PERIOD: Duration = Duration::from_secs(30);

pub(super) fn run(args: RunArgs, log: LogLevel) -> anyhow::Result<()> {
    let mut options = args.plan.options()?;
    options.families = host::families();
    options.needs_addresses = true;
    if args.manifests.is_none() {
        options.node_wait = NODE_WAIT;
    }
    let kernel = kernel(!args.no_table_ownership)?;
    info!(node = &*options.node_name, families = ?options.families, "portway {}", env!("CARGO_PKG_VERSION"));

    let (sender, receiver) = mpsc::channel(QUEUE);
    let metrics = Metrics::new();
    let kernel = MeasuredKernel::new(kernel, metrics.clone());
    let (mut controller, _reports) = Controller::new(kernel, options.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let serving = start_servers(ServeOptions::default(), &options, &mut controller, metrics.clone(), log, &runtime);
    let sync_loop = std::thread::Builder::new().name("sync".into()).spawn(move || controller.run(receiver))?;
    runtime.block_on(async {
        tokio::select! {
            result = feed(args, options, sender, &metrics) => result,
            error = serving => Err(error.into()),
        }
    })?;
    // All senders are gone: the loop ends when the kernel has what was sent. Rules stay in force.
    runtime.shutdown_background();
    sync_loop.join().map_err(|_| anyhow::anyhow!("the sync loop died"))
}

/// Lets health and metrics follow the sync loop and serves them. The future ends only when a server has failed for good.
fn start_servers<K: Kernel>(
    serve: ServeOptions,
    options: &Options,
    controller: &mut Controller<K>,
    metrics: Arc<Metrics>,
    log: LogLevel,
    runtime: &tokio::runtime::Runtime,
) -> impl Future<Output = ServeError> + use<K> {
    let health = Health::new(SYNC_PERIOD, options.families.iter().copied());
    let events = Arc::new(LogOnly);
    let (sender, changes) = mpsc::unbounded_channel();
    controller.observe(HealthObserver::new(health.clone()));
    controller.observe(MetricsObserver::new(metrics.clone(), &options.families));
    controller.observe(CheckObserver::new(sender));
    runtime.spawn(CheckPorts::new(health.clone(), events.clone()).run(changes));
    serve::serve(serve, serve::Sources { metrics, health, log: Some(log), events })
}

/// Opens nf_tables and makes sure that it can do all that is needed.
fn kernel(owned: bool) -> anyhow::Result<NftKernel> {
    let mut kernel = NftKernel::open_with(netlink::Options { owned, ..netlink::Options::default() })?;
    let missing = kernel.preflight();
    if !missing.is_empty() {
        let sentences: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!("{}", sentences.join("\nportway: "));
    }
    Ok(kernel)
}

/// Runs the sources until a signal comes or one of them gives up.
async fn feed(
    args: RunArgs,
    options: Options,
    sender: mpsc::Sender<Vec<Event>>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<()> {
    let addresses = tokio::spawn(host::watch_addresses(sender.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = source(args, &options, sender, metrics) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    addresses.abort();
    info!("stopping; the rules stay in force");
    result
}

async fn source(
    args: RunArgs,
    options: &Options,
    sender: mpsc::Sender<Vec<Event>>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<()> {
    match args.manifests {
        Some(folder) => {
            let source = ManifestSource::open(folder, &options.node_name)?;
            metrics.watch_source("manifests", source.stats());
            Ok(source.run(sender).await?)
        }
        None => {
            let access = KubeOptions { kubeconfig: args.kubeconfig, master: args.master };
            let source =
                KubeSource::connect_measured(&access, &options.node_name, &metrics.rest_client_layer()).await?;
            metrics.watch_source("kubernetes", source.stats());
            Ok(source.run(sender).await?)
        }
    }
}
