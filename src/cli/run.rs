//! `portway run`: wires a source to the sync loop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::node::{self, NODE_WAIT, NodeObserver, NodeState};
use crate::config::{self, Configuration, Options};
use crate::controller::Controller;
use crate::model::{Event, Family};
use crate::netlink::NftKernel;
use crate::source::{KubeOptions, KubeSource, ManifestSource};
use crate::{host, netlink};

/// Batches on their way to the sync loop; a source that is faster waits.
const QUEUE: usize = 1024;

pub(super) fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let (kernel, options) = prepare(configuration)?;
    info!(node = &*options.node_name, families = ?options.families, "portway {}", env!("CARGO_PKG_VERSION"));

    let (sender, receiver) = mpsc::channel(QUEUE);
    let (mut controller, _reports) = Controller::new(kernel, options.clone());
    let (observer, node) = NodeObserver::new();
    controller.observe(observer);
    let sync_loop = std::thread::Builder::new().name("sync".into()).spawn(move || controller.run(receiver))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(feed(configuration, &options, node, sender));
    // All senders are gone: the loop ends when the kernel has what was sent. Rules stay in force.
    runtime.shutdown_background();
    result?;
    sync_loop.join().map_err(|_| anyhow::anyhow!("the sync loop died"))
}

/// `--init-only`: what needs more privileges than serving does.
pub(super) fn init(configuration: &Configuration) -> anyhow::Result<()> {
    prepare(configuration)?;
    info!("this node is ready for Portway; ending because of --init-only");
    Ok(())
}

/// Start-up as far as `--init-only` goes.
fn prepare(configuration: &Configuration) -> anyhow::Result<(NftKernel, Options)> {
    let mut options = configuration.options();
    options.families = host::families();
    options.needs_addresses = true;
    if configuration.manifests.is_none() {
        options.node_wait = NODE_WAIT;
    }
    if let Some(ip) = options.bind_address.filter(|ip| !options.families.contains(&Family::of(*ip))) {
        anyhow::bail!("bindAddress is {ip}, but this host has no {}", Family::of(ip));
    }
    let kernel = kernel(configuration.table_ownership)?;
    Ok((kernel, options))
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

/// Runs the sources until a signal comes, one of them gives up, or something ends the process.
async fn feed(
    configuration: &Configuration,
    options: &Options,
    node: watch::Receiver<NodeState>,
    sender: mpsc::Sender<Vec<Event>>,
) -> anyhow::Result<()> {
    let addresses = tokio::spawn(host::watch_addresses(sender.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = source(configuration, options, sender) => result,
        path = config_changed(configuration) => {
            Err(anyhow::anyhow!("{path} was updated; ending, so that a new process reads it"))
        }
        fatal = node::supervise(node, configuration, &options.families) => Err(fatal),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    addresses.abort();
    info!("stopping; the rules stay in force");
    result
}

/// Returns the path of the configuration file when its content is another one (specification 1.7).
async fn config_changed(configuration: &Configuration) -> String {
    match &configuration.file {
        Some(file) => {
            config::changed(file).await;
            file.path.display().to_string()
        }
        None => std::future::pending().await,
    }
}

async fn source(
    configuration: &Configuration,
    options: &Options,
    sender: mpsc::Sender<Vec<Event>>,
) -> anyhow::Result<()> {
    match &configuration.manifests {
        Some(folder) => Ok(ManifestSource::open(folder, &options.node_name)?.run(sender).await?),
        None => {
            let client = &configuration.client;
            let access = KubeOptions { kubeconfig: client.kubeconfig.clone(), master: client.master.clone() };
            Ok(KubeSource::connect(&access, &options.node_name).await?.run(sender).await?)
        }
    }
}
