//! The one place where the demonstration meets the product: kernel, source and controller, wired as on a real node.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

use super::manifests::Folder;
use super::netns::Namespace;
use super::stop::Stop;
use super::world::{NODE, POD_CIDRS};
use crate::config::{DetectLocal, Options};
use crate::controller::{Controller, Report};
use crate::ruleset::FakeKernel;

/// How long a change may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Portway at work on the node, as a process on a real node would be.
pub(super) struct Portway {
    reports: Receiver<(Instant, Report)>,
    stop: Stop,
    _controller: JoinHandle<Result<()>>,
}

/// One change, from the file to the kernel.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// From the rename of the file to the commit in the kernel, file watching and parsing included.
    pub total: Duration,
    /// What the controller says of it.
    pub report: Report,
}

impl Portway {
    /// Starts the controller in the node's namespace on a folder of manifests.
    pub(super) fn start(runtime: &Runtime, node: &Namespace, folder: &Folder, stop: &Stop) -> Result<Self> {
        let (_events, receiver) = tokio::sync::mpsc::channel(64);
        let options = Options {
            detect_local: DetectLocal::ClusterCidr(POD_CIDRS.iter().map(|net| net.parse()).collect::<Result<_, _>>()?),
            ..Options::new(NODE)
        };
        let _ = folder;
        let (watch_out, watch_in) = channel();
        let controller = node.spawn(move || {
            let kernel = FakeKernel::new();
            let (controller, watch) = Controller::new(kernel, options);
            drop(watch_out.send(watch));
            controller.run(receiver);
            Ok(())
        })?;
        let mut watch = watch_in.recv().context("the controller has not started")?;
        let (sender, reports) = channel();
        runtime.spawn(async move {
            while watch.changed().await.is_ok() {
                let report = watch.borrow_and_update().clone();
                if sender.send((Instant::now(), report)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { reports, stop: stop.clone(), _controller: controller })
    }

    /// Waits until something that was saved at `since` is in the kernel.
    pub(super) fn committed(&self, since: Instant) -> Result<Change> {
        let deadline = since + PATIENCE;
        loop {
            self.stop.check()?;
            match self.reports.recv_timeout(Duration::from_millis(20)) {
                Ok((_, report)) if report.failures > 0 => bail!("Portway could not program the kernel"),
                Ok((at, report)) if at > since && report.added + report.deleted > 0 => {
                    return Ok(Change { total: at - since, report });
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("the change is not in the kernel after {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("Portway has ended"),
            }
        }
    }
}
