//! `portway run`: wires a source to the sync loop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::args::RunArgs;
use crate::config::Options;
use crate::conntrack::ConntrackObserver;
use crate::controller::{Controller, Report};
use crate::host::sysctl::{self, ConntrackSettings, Roots};
use crate::model::Event;
use crate::netlink::NftKernel;
use crate::source::{KubeOptions, KubeSource, ManifestSource};
use crate::{host, netlink};

/// Batches on their way to the sync loop; a source that is faster waits.
const QUEUE: usize = 1024;
/// How long the first sync waits for the Node object (specification 2.3).
const NODE_WAIT: Duration = Duration::from_secs(30);

/// kube-proxy's default for `oomScoreAdj`.
const OOM_SCORE: i32 = -999;

pub(super) fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut options = args.plan.options()?;
    options.families = host::families();
    options.needs_addresses = true;
    if args.manifests.is_none() {
        options.node_wait = NODE_WAIT;
    }
    let owned = !args.no_table_ownership;
    let kernel = NftKernel::open_with(netlink::Options { owned, ..netlink::Options::default() })?;
    info!(node = &*options.node_name, families = ?options.families, "portway {}", env!("CARGO_PKG_VERSION"));

    let (sender, receiver) = mpsc::channel(QUEUE);
    host_settings();
    let (mut controller, reports) = Controller::new(kernel, options.clone());
    if let Some(observer) = conntrack() {
        controller.observe(observer);
    }
    let sync_loop = std::thread::Builder::new().name("sync".into()).spawn(move || controller.run(receiver))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(feed(args, options, sender, reports))?;
    // All senders are gone: the loop ends when the kernel has what was sent. Rules stay in force.
    runtime.shutdown_background();
    sync_loop.join().map_err(|_| anyhow::anyhow!("the sync loop died"))
}

/// Comes back when the first sync failed because the kernel lacks something or we may not do it. Asked only then: trying
/// every feature takes half a second that a healthy start should not wait for.
async fn kernel_fails(mut reports: watch::Receiver<Report>) -> anyhow::Error {
    let failed = reports.wait_for(|report| report.syncs > 0 || report.failures > 0).await;
    if failed.is_ok_and(|report| report.syncs == 0) {
        let missing = tokio::task::spawn_blocking(|| NftKernel::open().map(|mut kernel| kernel.preflight())).await;
        if let Ok(Ok(missing)) = missing
            && !missing.is_empty()
        {
            let sentences: Vec<String> = missing.iter().map(ToString::to_string).collect();
            return anyhow::anyhow!("{}", sentences.join("\nportway: "));
        }
    }
    std::future::pending().await
}

/// Removes kube-proxy's rules as soon as ours are in force; comes back only when that fails.
async fn take_over(wanted: bool, mut reports: watch::Receiver<Report>) -> anyhow::Error {
    if wanted && reports.wait_for(|report| report.syncs > 0).await.is_ok() {
        let removal = || NftKernel::open().and_then(|mut kernel| kernel.remove_kube_proxy());
        match tokio::task::spawn_blocking(removal).await {
            Ok(Ok(found)) => found.to_string().lines().for_each(|line| info!("{line}")),
            Ok(Err(cause)) => return anyhow::Error::new(cause).context("cannot remove what kube-proxy left"),
            Err(_) => {}
        }
        if netlink::legacy_iptables_in_use() {
            warn!("legacy iptables has NAT rules; if they are kube-proxy's, remove them with `kube-proxy --cleanup`");
        }
    }
    std::future::pending().await
}

/// Sets what the node's kernel is to do besides our tables, and what it is to do with this process when memory is short.
fn host_settings() {
    let roots = Roots::default();
    sysctl::apply_or_warn(&ConntrackSettings::default(), &roots);
    if let Err(cause) = sysctl::set_oom_score(OOM_SCORE, &roots) {
        warn!(%cause, "cannot set the OOM score of this process to {OOM_SCORE}");
    }
}

/// Has stale conntrack entries deleted after syncs. Without that everything else still works.
fn conntrack() -> Option<ConntrackObserver> {
    let failed = |cause| warn!(%cause, "cannot open the kernel's table of flows: UDP flows may keep going to endpoints that are gone");
    ConntrackObserver::start(|_| {}).map_err(failed).ok()
}

/// Runs the sources until a signal comes or one of them gives up.
async fn feed(
    args: RunArgs,
    options: Options,
    sender: mpsc::Sender<Vec<Event>>,
    reports: watch::Receiver<Report>,
) -> anyhow::Result<()> {
    let addresses = tokio::spawn(host::watch_addresses(sender.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = source(&args, &options, sender) => result,
        cause = kernel_fails(reports.clone()) => Err(cause),
        cause = take_over(args.takeover, reports) => Err(cause),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    addresses.abort();
    info!("stopping; the rules stay in force");
    result
}

async fn source(args: &RunArgs, options: &Options, sender: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
    match &args.manifests {
        Some(folder) => Ok(ManifestSource::open(folder, &options.node_name)?.run(sender).await?),
        None => {
            let access = KubeOptions { kubeconfig: args.kubeconfig.clone(), master: args.master.clone() };
            Ok(KubeSource::connect(&access, &options.node_name).await?.run(sender).await?)
        }
    }
}
