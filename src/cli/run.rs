//! `portway run`: wires a source to the sync loop.

mod direct;
mod fast;
mod first_load;
mod leftover;
mod memory;
mod objects;
mod reload;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::node::{self, NODE_WAIT, NodeObserver, NodeState};
use super::settings::{self, SettingsObserver};
use crate::admin::{self, Activity, Admin};
use crate::config::{Configuration, Options};
use crate::conntrack::ConntrackObserver;
use crate::controller::{Controller, EndError, Report, SyncThread};
use crate::direct::DirectStatusHandle;
use crate::events::{self, EventSink, FaultObserver};
use crate::fast::FastStatusHandle;
use crate::health::{self, CheckObserver, Health, HealthObserver};
use crate::host::sysctl::Maker;
use crate::logging::{Log, Recent};
use crate::metrics::{Metrics, MetricsObserver, Stopwatch};
use crate::migration::Missing;
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::ruleset::{Intercepted, Kernel};
use crate::serve::{self, CheckPorts, Runtimes, ServeError, ServeOptions};
use crate::source::{EventSender, SourceError};
use crate::{host, localhost, nftables};
use first_load::FirstLoad;
use memory::MemoryObserver;
pub(super) use objects::Source;
use reload::Refused;

/// How long the API server may take for the last Events of a process that ends.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// Batches on their way to the sync loop; a source that is faster waits.
const QUEUE: usize = 1024;

pub(super) fn run(configuration: &Configuration, log: Log) -> anyhow::Result<()> {
    host::memory::use_one_heap();
    let (kernel, options) = prepare(configuration)?;
    info!(node = &*options.node_name, families = ?options.families, "portway {}", env!("CARGO_PKG_VERSION"));

    let (sender, receiver) = mpsc::channel(QUEUE);
    let metrics = Metrics::new();
    let kernel = Stopwatch::before(kernel, metrics.clone());
    let (mut controller, reports) = Controller::new(kernel, options.clone());
    watch_others(&mut controller);
    let fast = fast::start(configuration, &options, &metrics, reports.clone());
    if let Some(observer) = conntrack(metrics.clone(), fast.clone()) {
        controller.observe(observer);
    }
    let (observer, node) = NodeObserver::new();
    controller.observe(observer);
    let runtimes = Runtimes::new()?;
    for runtime in [&runtimes.vital, &runtimes.operator] {
        metrics.watch_runtime(runtime.handle().clone());
    }
    controller.observe(MemoryObserver::start(runtimes.operator.handle()));
    let place = if configuration.manifests.is_some() { "the folder" } else { "the API server" };
    if let Some(observer) = FirstLoad::show(runtimes.operator.handle(), options.families.len(), place) {
        controller.observe(observer);
    }
    metrics.show_gates(configuration.gates());
    if configuration.frontend_metrics_max > 0 {
        // A socket of its own: the kernel lists maps without holding up transactions.
        let mut counters = NftKernel::open_to_read()?;
        let read = move |family| counters.frontend_counts(family);
        metrics.show_frontends(read, &options.families, configuration.frontend_metrics_max);
    }
    let (events, queue) = events::queue();
    controller.observe(events.clone());
    controller.observe(FaultObserver::new(events.clone(), metrics.faults()));
    relay_localhost(&options, &mut controller, &metrics, &events);
    let direct = direct::start(configuration, &options, &mut controller, &metrics);
    for (devices, feature) in
        [(&options.direct_return_devices, direct::TABLE), (&options.fast_path_devices, fast::TABLE)]
    {
        if devices.is_empty() {
            runtimes.vital.spawn(leftover::remove(feature, reports.clone()));
        }
    }
    let source = runtimes.vital.block_on(Source::open(configuration, &options, &metrics))?;
    source.record(configuration, &options, queue, runtimes.vital.handle());
    let (maker, faults) = (settings::maker(configuration), metrics.faults());
    runtimes.vital.spawn(settings::make(maker.clone(), reports.clone(), faults.clone()));
    controller.observe(SettingsObserver::new(options.clone(), faults));
    let sources = serve::Sources {
        health: Health::new(configuration.sync_period, options.families.iter().copied()),
        metrics,
        log: Some(log.level),
        events: events.clone(),
    };
    let refused = Refused::default();
    let shown = ForCommands { recent: log.recent, settings: maker, direct, fast, refused: refused.subscribe() };
    let serving = start_servers(configuration, &options, &mut controller, sources, shown, &runtimes);
    let sync_loop = SyncThread::start(controller, receiver)?;
    let objects = source.run(sender.clone(), events.clone());
    let result = runtimes.vital.block_on(async {
        tokio::select! {
            result = feed(configuration, &options, node, objects, sender, reports, refused) => result,
            error = serving => {
                events.flush(LAST_EVENTS).await;
                Err(error.into())
            }
        }
    });
    // All senders are gone: the loop ends when the kernel has what was sent. Rules stay in force.
    runtimes.shut_down();
    result?;
    match sync_loop.end() {
        Err(late @ EndError::Late) => warn!("{late}"),
        result => result?,
    }
    Ok(())
}

/// `--init-only`: what needs more privileges than serving does.
pub(super) fn init(configuration: &Configuration) -> anyhow::Result<()> {
    let (mut kernel, options) = prepare(configuration)?;
    settings::maker(configuration).make();
    let missing = kernel.preflight(&options.families);
    anyhow::ensure!(missing.is_empty(), "{}", in_lines(&missing));
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
    let owned = configuration.table_ownership;
    let mut kernel = NftKernel::open_with(nftables::KernelOptions::new(owned))?;
    let unfit = kernel.unfit(&options.families);
    keep_what_can_be_served(&mut options, unfit)?;
    options.hashing = kernel.can_hash(&options.families);
    Ok((kernel, options))
}

/// Goes on with the families that this kernel can serve, before anything is changed in it. The other one is then as on a
/// host without it.
fn keep_what_can_be_served(options: &mut Options, unfit: Vec<(Family, Vec<Missing>)>) -> anyhow::Result<()> {
    options.families.retain(|family| unfit.iter().all(|(lacking, _)| lacking != family));
    let all: Vec<_> = unfit.iter().flat_map(|(_, missing)| missing).cloned().collect();
    anyhow::ensure!(!options.families.is_empty(), "{}", in_lines(&all));
    for (family, missing) in unfit {
        let served = options.bind_address.is_none_or(|ip| Family::of(ip) != family);
        anyhow::ensure!(served, "bindAddress asks for {family}, but {}", in_lines(&missing));
        let sentences: Vec<String> = missing.iter().map(ToString::to_string).collect();
        warn!("{family} is not served on this node: {}", sentences.join("; "));
    }
    Ok(())
}

fn in_lines(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nportway: ")
}

/// Where tables cannot be owned, has the sync loop told who else changes them. Without that changes are found within the
/// hour.
fn watch_others(controller: &mut Controller<Intercepted<NftKernel, Stopwatch>>) {
    let doubts = controller.doubts();
    match controller.kernel().kernel.watch(move |by, touched| doubts.raise(by, touched)) {
        Ok(false) => {}
        Ok(true) => info!("the tables have no owner: other programs' changes of them are repaired"),
        Err(cause) => {
            warn!(%cause, "cannot follow other programs' changes of the tables; they are compared once an hour")
        }
    }
}

/// Comes back when the first sync failed because the kernel lacks something that only a commit shows. Asked only then:
/// trying every feature takes half a second that a healthy start should not wait for.
async fn kernel_fails(families: Vec<Family>, mut reports: watch::Receiver<Report>) -> anyhow::Error {
    let failed = reports.wait_for(|report| report.syncs > 0 || report.failures > 0).await;
    if failed.is_ok_and(|report| report.syncs == 0) {
        let ask = move || NftKernel::open().map(|mut kernel| kernel.preflight(&families));
        let missing = tokio::task::spawn_blocking(ask).await;
        if let Ok(Ok(missing)) = missing
            && !missing.is_empty()
        {
            return anyhow::anyhow!("{}", in_lines(&missing));
        }
    }
    std::future::pending().await
}

/// Removes kube-proxy's rules as soon as ours are in force, in all families; comes back only when that fails.
async fn take_over(wanted: bool, mut reports: watch::Receiver<Report>) -> anyhow::Error {
    if wanted && reports.wait_for(|report| report.syncs > 0 && report.failures == 0).await.is_ok() {
        let removal = || {
            NftKernel::open().and_then(|mut kernel| {
                warn_of_filters(&mut kernel);
                kernel.remove_kube_proxy()
            })
        };
        match tokio::task::spawn_blocking(removal).await {
            Ok(Ok(found)) => {
                found.to_string().lines().for_each(|line| info!("{line}"));
                found.failures.iter().for_each(|failure| warn!("{failure}"));
            }
            Ok(Err(cause)) => return anyhow::Error::new(cause).context("cannot remove what kube-proxy left"),
            Err(_) => {}
        }
    }
    std::future::pending().await
}

/// What kube-proxy's mark let pass is dropped from now on.
fn warn_of_filters(kernel: &mut NftKernel) {
    match kernel.forward_filters() {
        Ok(filters) => filters.iter().for_each(|filter| {
            warn!(
                "{filter} drops forwarded packets that none of its rules accepts, and without kube-proxy nobody sets the \
                 mark 0x4000: if connections to Services end there, {}",
                filter.remedy()
            );
        }),
        Err(cause) => warn!(%cause, "cannot see whether filters drop forwarded packets"),
    }
}

/// Lets health and metrics follow the sync loop and serves them. The future ends only when a server has failed for good.
fn start_servers<K: Kernel>(
    configuration: &Configuration,
    options: &Options,
    controller: &mut Controller<K>,
    sources: serve::Sources,
    shown: ForCommands,
    runtimes: &Runtimes,
) -> impl Future<Output = ServeError> + use<K> {
    let serve = ServeOptions {
        health: configuration.health_address,
        metrics: configuration.metrics_address,
        hard_fail: configuration.bind_address_hard_fail,
        profiling: configuration.enable_profiling,
        configz: configuration.configz()["kubeproxy.config.k8s.io"].take(),
        flagz: configuration.flags(),
        has_flagz: configuration.has_flagz(),
        statusz: configuration.has_statusz(),
    };
    let (sender, changes) = health::check_channel();
    controller.observe(HealthObserver::new(sources.health.clone()));
    controller.observe(MetricsObserver::new(sources.metrics.clone(), &options.families));
    controller.observe(CheckObserver::new(sender, options.node_ports.primary));
    runtimes.vital.spawn(CheckPorts::new(sources.health.clone(), sources.events.clone()).run(changes));
    serve_commands(configuration, options, controller, &sources, shown);
    serve::serve(serve, sources, runtimes)
}

/// Relays NodePorts on localhost where that is wanted. Without that everything else still works.
fn relay_localhost<K: Kernel>(
    options: &Options,
    controller: &mut Controller<K>,
    metrics: &Metrics,
    events: &EventSink,
) {
    let families = options.localhost_families();
    if families.is_empty() {
        return;
    }
    // A socket of its own, as for frontends.
    let started = NftKernel::open_to_read().map_err(io::Error::other);
    match started.and_then(|counters| Ok((counters, localhost::start(&families, events.clone())?))) {
        Ok((mut counters, (observer, stats))) => {
            info!(?families, "NodePorts answer on localhost");
            metrics.show_localhost(stats, move |family| counters.rejected_on_localhost(family));
            controller.observe(observer);
        }
        Err(cause) => warn!(%cause, "NodePorts do not answer on localhost"),
    }
}

/// What only the operator's commands show.
struct ForCommands {
    recent: Recent,
    settings: Arc<Maker>,
    direct: Option<DirectStatusHandle>,
    fast: Option<FastStatusHandle>,
    refused: watch::Receiver<Option<String>>,
}

/// Answers the operator's commands. Without that everything else still works.
fn serve_commands<K: Kernel>(
    configuration: &Configuration,
    options: &Options,
    controller: &mut Controller<K>,
    sources: &serve::Sources,
    shown: ForCommands,
) {
    let Some(path) = &configuration.admin_socket else { return };
    let activity = Activity::default();
    controller.observe(activity.clone());
    let snapshots = controller.snapshots();
    let (health, metrics) = (sources.health.clone(), sources.metrics.clone());
    let ForCommands { recent, settings, direct, fast, refused } = shown;
    let configuration = admin::ConfigurationInForce {
        values: configuration.configz(),
        file: configuration.file.as_ref().map(|file| file.path.clone()),
        refused,
    };
    let options = options.clone();
    let admin = Admin { snapshots, activity, health, metrics, recent, options, settings, direct, fast, configuration };
    if let Err(cause) = admin::start(path, admin) {
        warn!(%cause, "cannot answer `portway status` and the like");
    }
}

/// Has stale conntrack entries deleted after syncs. Without that everything else still works.
fn conntrack(metrics: Arc<Metrics>, fast: Option<FastStatusHandle>) -> Option<ConntrackObserver> {
    let failed = |cause| warn!(%cause, "cannot open the kernel's table of flows: UDP flows may keep going to endpoints that are gone");
    ConntrackObserver::start(move |run| metrics.conntrack_cleaned(run.family, run.duration, run.deleted))
        .map(|observer| observer.cut_tcp(move || fast.as_ref().is_some_and(FastStatusHandle::may_be_on)))
        .map_err(failed)
        .ok()
}

/// Runs the source until a signal comes, it gives up, or something ends the process.
async fn feed(
    configuration: &Configuration,
    options: &Options,
    node: watch::Receiver<NodeState>,
    source: impl Future<Output = Result<(), SourceError>>,
    sender: EventSender,
    reports: watch::Receiver<Report>,
    refused: Refused,
) -> anyhow::Result<()> {
    let addresses = tokio::spawn(host::watch_addresses(sender));
    // The kernel may serve one of them only.
    let on_host = host::families();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let result = tokio::select! {
        result = source => result.map_err(Into::into),
        path = reload::config_changed(configuration, &options.families, node.clone(), refused) => {
            Err(anyhow::anyhow!("{path} was updated; ending, so that a new process reads it"))
        }
        fatal = node::supervise(node, configuration, &on_host) => Err(fatal),
        cause = kernel_fails(options.families.clone(), reports.clone()) => Err(cause),
        cause = take_over(configuration.takeover == Some(true), reports) => Err(cause),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    addresses.abort();
    info!("stopping; the rules stay in force");
    result
}
