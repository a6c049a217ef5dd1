//! Keeps the table: learns of interfaces, and commits.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::UNABLE;
use super::devices::{chosen, missing};
use super::status::{FastStatus, FastStatusHandle};
use crate::controller::Report;
use crate::host::HostError;
use crate::host::links::Links;
use crate::host::sysctl::{Roots, counts_packets};
use crate::nftables::{FastKernel, KernelOptions};
use crate::ruleset::{FastDevices, FastFound, KernelError};

/// How often it is looked whether the table is still there, and whether packets are counted: others can change both.
const LOOK: Duration = Duration::from_secs(10);
/// Pauses after failures.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The rule asks how many packets a connection had.
const UNCOUNTED: &str =
    "packets of connections are not counted (net.netfilter.nf_conntrack_acct is not 1), so none takes it";

/// Why the table could not be kept.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("this kernel has no flow tables ({0}), so all connections take the ordinary path; it {UNABLE}")]
    Unable(KernelError),
    #[error("the table inet portway stays as it is: {0}")]
    Kernel(#[from] KernelError),
    #[error("interfaces cannot be read: {0}")]
    Host(#[from] HostError),
}

/// The thread's work.
pub(super) struct Follower {
    pub(super) patterns: Vec<Arc<str>>,
    pub(super) options: KernelOptions,
    pub(super) roots: Roots,
    pub(super) reports: watch::Receiver<Report>,
    pub(super) status: FastStatusHandle,
}

impl Follower {
    /// Says so at once where the kernel has no flow tables: nobody needs to care for flows in them then.
    pub(super) fn probe(&self) {
        if let Err(fault @ Fault::Unable(_)) =
            FastKernel::open(self.options).map_err(Fault::from).and_then(|mut kernel| able(&mut kernel))
        {
            self.tell(None, vec![format!("{fault}; trying again")]);
        }
    }

    /// Until the sync loop ends. Nothing is done before its first sync: only then the tables are known to be ours.
    pub(super) fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => return warn!(%cause, "cannot start the fast path; all connections take the ordinary path"),
        };
        runtime.block_on(async {
            let mut pause = RETRY_MIN;
            while self.reports.wait_for(|report| report.syncs > 0).await.is_ok() {
                let Err(fault) = self.keep(&mut pause).await else { return };
                let devices = self.status.get().and_then(|status| status.devices);
                let devices = devices.filter(|_| !matches!(fault, Fault::Unable(_)));
                self.tell(devices, vec![format!("{fault}; trying again")]);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        });
    }

    /// Keeps the table until something fails, or the sync loop ends.
    async fn keep(&mut self, pause: &mut Duration) -> Result<(), Fault> {
        let mut links = Links::open()?;
        let mut kernel = FastKernel::open(self.options)?;
        able(&mut kernel)?;
        // At first: what a process before this one left is no work of others, and kernel settings are about to be made.
        let mut begins = true;
        loop {
            let wanted = chosen(&self.patterns, links.devices().await?.values());
            let found = if begins { kernel.take()? } else { kernel.read()? };
            if !found.is_sound && !begins {
                warn!("fast path: another program changed the table inet portway; it is repaired");
            }
            let mut refused = Vec::new();
            if found != FastFound::made(wanted.clone()) {
                refused = kernel.make(&found, &wanted)?;
                debug!(devices = wanted.len(), "fast path: table changed");
            }
            let devices = wanted.iter().filter(|device| refused.iter().all(|(other, _)| other != *device));
            let devices: FastDevices = devices.cloned().collect();
            let mut troubles: Vec<String> =
                refused.iter().map(|(device, cause)| format!("{device} cannot take part: {cause}")).collect();
            troubles.extend(missing(&self.patterns, &devices));
            if !begins && !counts_packets(&self.roots) {
                troubles.push(UNCOUNTED.to_owned());
            }
            self.tell(Some(devices), troubles);
            let time = if begins { RETRY_MIN } else { LOOK };
            (*pause, begins) = (RETRY_MIN, false);
            if self.wait(&mut links, time).await?.is_break() {
                return Ok(());
            }
        }
    }

    /// Waits until there may be something to do; a break when the sync loop has ended.
    async fn wait(&mut self, links: &mut Links, time: Duration) -> Result<ControlFlow<()>, Fault> {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                more = self.reports.changed() => if more.is_err() {
                    return Ok(ControlFlow::Break(()));
                },
                told = links.changed() => {
                    told?;
                    links.settle().await;
                    return Ok(ControlFlow::Continue(()));
                }
                () = tokio::time::sleep_until(until.into()) => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    fn tell(&self, devices: Option<FastDevices>, troubles: Vec<String>) {
        self.status.set(FastStatus { configured: self.patterns.clone(), devices, troubles });
    }
}

/// Whether the kernel has flow tables.
fn able(kernel: &mut FastKernel) -> Result<(), Fault> {
    kernel.trial().map_err(|cause| match cause {
        KernelError::Refused { .. } => Fault::Unable(cause),
        cause => Fault::Kernel(cause),
    })
}
