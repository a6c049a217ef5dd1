//! The one place where the demonstration meets the product: kernel, source and controller, wired as on a real node.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};

use super::manifests::DemoFolder;
use super::netns::Namespace;
use super::stop::{Interrupted, StopSignal};
use super::world::{NODE, POD_CIDRS};
use crate::config::{DetectLocal, Options};
use crate::controller::{Controller, Report};
use crate::host;
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::render;
use crate::ruleset::Kernel;
use crate::source::ManifestSource;

/// How long a change may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Portway at work on the node, as a process on a real node would be.
pub(super) struct Portway {
    reports: Receiver<(Instant, Report)>,
    stop: StopSignal,
    end: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// One change, from the file to the kernel.
#[derive(Debug, Clone)]
pub(super) struct TimedChange {
    /// From the rename of the file to the commit in the kernel, file watching and parsing included.
    pub total: Duration,
    /// What the controller says of it.
    pub report: Report,
}

impl Portway {
    /// Starts it in the node's namespace on a folder of manifests.
    pub(super) fn start(node: &Namespace, folder: &DemoFolder, stop: &StopSignal) -> Result<Self> {
        let options = Options {
            detect_local: DetectLocal::ClusterCidr(POD_CIDRS.iter().map(|net| net.parse()).collect::<Result<_, _>>()?),
            needs_addresses: true,
            ..Options::new(NODE)
        };
        let (end, ended) = oneshot::channel();
        let (sender, reports) = channel();
        let (events, batches) = mpsc::channel(64);
        let mut this = Self { reports, stop: stop.clone(), end: Some(end), threads: Vec::new() };
        let controller = node.spawn(move || {
            let kernel = kernel()?;
            let (controller, watch) = Controller::new(kernel, options);
            thread::spawn(move || forward(watch, &sender));
            controller.run(batches);
            Ok(())
        })?;
        this.threads.push(controller);
        let source = ManifestSource::open(folder.path(), NODE)?;
        let sources = node.spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    result = source.run(events.clone()) => result.context("the folder of manifests cannot be followed"),
                    () = host::watch_addresses(events.clone()) => Ok(()),
                    _ = ended => Ok(()),
                }
            })
        })?;
        this.threads.push(sources);
        Ok(this)
    }

    /// Waits until something that was saved at `since` is in the kernel.
    pub(super) fn committed(&mut self, since: Instant) -> Result<TimedChange> {
        let deadline = since + PATIENCE;
        loop {
            self.stop.check()?;
            match self.reports.recv_timeout(Duration::from_millis(20)) {
                Ok((_, report)) if report.failures > 0 => bail!("Portway could not program the kernel"),
                Ok((at, report)) if at > since && report.added + report.deleted > 0 => {
                    return Ok(TimedChange { total: at - since, report });
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("the change is not in the kernel after {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => return Err(self.end_early()),
            }
        }
    }

    /// Why Portway has ended although nobody asked it to.
    fn end_early(&mut self) -> anyhow::Error {
        let results = self.finish();
        results.into_iter().find_map(Result::err).unwrap_or_else(|| anyhow!("Portway has ended"))
    }

    fn finish(&mut self) -> Vec<Result<()>> {
        self.end.take();
        let join = |thread: JoinHandle<_>| thread.join().unwrap_or_else(|_| Err(anyhow!("Portway has panicked")));
        self.threads.drain(..).rev().map(join).collect()
    }
}

impl Drop for Portway {
    fn drop(&mut self) {
        for cause in self.finish().into_iter().filter_map(Result::err) {
            eprintln!("{cause:#}");
        }
    }
}

/// The kernel of the calling thread's namespace.
fn kernel() -> Result<NftKernel> {
    NftKernel::open().context("cannot talk to nf_tables")
}

/// Adds to a failure what this kernel lacks, if that is why. Not asked beforehand: the answer takes half a second.
pub(super) fn explain(node: &Namespace, cause: anyhow::Error) -> anyhow::Error {
    if cause.is::<Interrupted>() {
        return cause;
    }
    match node.run(|| Ok(kernel()?.preflight(&Family::ALL))) {
        Ok(missing) => missing.into_iter().fold(cause, |cause, missing| cause.context(missing)),
        Err(_) => cause,
    }
}

/// The IPv4 table of the calling thread's namespace, read back from the kernel, as text.
pub(super) fn read_back() -> Result<String> {
    let table = kernel()?.read(Family::Ipv4)?.context("there is no table")?;
    Ok(render::table(&table.listing(Family::Ipv4).0))
}

/// Notes when reports come; the controller keeps but the last one.
fn forward(mut watch: watch::Receiver<Report>, to: &Sender<(Instant, Report)>) {
    let Ok(runtime) = Builder::new_current_thread().build() else {
        return;
    };
    while runtime.block_on(watch.changed()).is_ok() {
        let report = watch.borrow_and_update().clone();
        if to.send((Instant::now(), report)).is_err() {
            return;
        }
    }
}
