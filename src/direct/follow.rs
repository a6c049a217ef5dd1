//! Keeps the table: learns of interfaces and routes, and commits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::slots::Wanted;
use super::status::{DirectStatus, DirectStatusHandle};
use super::table::{Network, table};
use crate::host::HostError;
use crate::host::links::{Links, rp_filter};
use crate::host::sysctl::Roots;
use crate::nftables::{DirectKernel, KernelOptions};
use crate::ruleset::{DirectFound, DirectTable, KernelError};

/// How often it is looked whether the table is still there: others can delete one that is not owned.
const LOOK: Duration = Duration::from_secs(60);
/// How often it is looked whether `rp_filter` has changed.
const GLANCE: Duration = Duration::from_secs(2);
/// Pauses after failures.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why the table could not be kept.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the table netdev portway stays as it is: {0}")]
    Kernel(#[from] KernelError),
    #[error("interfaces and routes cannot be read: {0}")]
    Host(#[from] HostError),
}

/// The thread's work.
pub(super) struct Follower {
    pub(super) devices: Vec<Arc<str>>,
    pub(super) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(super) status: DirectStatusHandle,
    pub(super) options: KernelOptions,
}

impl Follower {
    /// Until nobody wants anything any more.
    pub(super) fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => return warn!(%cause, "cannot start direct return; all connections take the ordinary path"),
        };
        runtime.block_on(async {
            let mut pause = RETRY_MIN;
            // Each time from the beginning: a new connection, and a table that is not known.
            while self.wanted.wait_for(Option::is_some).await.is_ok() {
                let Err(fault) = self.keep(&mut pause).await else { return };
                let troubles = vec![format!("{fault}; trying again")];
                let configured = self.devices.iter().map(ToString::to_string).collect();
                self.status.set(DirectStatus { troubles, configured, ..self.status.get().unwrap_or_default() });
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        });
    }

    /// Keeps the table until something fails.
    async fn keep(&mut self, pause: &mut Duration) -> Result<(), Fault> {
        let mut links = Links::open()?;
        let mut kernel = DirectKernel::open(self.options)?;
        let mut known: Option<DirectFound> = None;
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if let Some(found) = &known
                    && !kernel.is_intact(found)?
                {
                    warn!("direct return: another program changed the table netdev portway; it is repaired");
                    known = None;
                }
            }
            let Some(wanted) = self.wanted.borrow_and_update().clone() else { return Ok(()) };
            let network = self.network(&links, &wanted).await?;
            let (desired, troubles) = table(&wanted, &network, &self.devices);
            // The kernel deletes chains of interfaces that go.
            let found = match known.take().filter(|known: &DirectFound| known.table.devices == desired.devices) {
                Some(found) => found,
                None => kernel.take()?,
            };
            if found != DirectFound::made(desired.clone()) {
                kernel.make(&found, &desired)?;
                debug!(frontends = desired.frontends.len(), "direct return: table changed");
            }
            self.status.set(self.state(&desired, troubles));
            known = Some(DirectFound::made(desired));
            *pause = RETRY_MIN;
            if self.wait(&mut links, known.as_ref(), looked + LOOK).await?.is_break() {
                return Ok(());
            }
        }
    }

    /// Waits until there may be something to do, at most until then; a break when nobody wants anything any more.
    async fn wait(
        &mut self,
        links: &mut Links,
        known: Option<&DirectFound>,
        until: Instant,
    ) -> Result<ControlFlow<()>, Fault> {
        loop {
            tokio::select! {
                more = self.wanted.changed() => {
                    return Ok(if more.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
                }
                told = links.changed() => {
                    told?;
                    links.settle().await;
                    return Ok(ControlFlow::Continue(()));
                }
                () = tokio::time::sleep(GLANCE) => {
                    let is_other = |found: &DirectFound| strict(&found.table.devices) != found.table.strict;
                    if known.is_some_and(is_other) || Instant::now() >= until {
                        return Ok(ControlFlow::Continue(()));
                    }
                }
            }
        }
    }

    /// What of the network matters.
    async fn network(&self, links: &Links, wanted: &Wanted) -> Result<Network, Fault> {
        let mut devices = links.devices().await?;
        devices.retain(|_, name| self.devices.contains(name));
        let addresses: BTreeSet<IpAddr> = wanted.nodes.values().flatten().copied().collect();
        let mut ways = BTreeMap::new();
        for address in addresses {
            ways.insert(address, links.way_to(address).await?);
        }
        Ok(Network { strict: strict(&devices), devices, ways })
    }

    fn state(&self, table: &DirectTable, troubles: Vec<String>) -> DirectStatus {
        let hops = table.frontends.values().flat_map(|frontend| frontend.slots.iter().flatten());
        let nodes: BTreeSet<IpAddr> = hops.map(|hop| hop.address).collect();
        DirectStatus {
            frontends: table.frontends.len(),
            nodes: nodes.len(),
            configured: self.devices.iter().map(ToString::to_string).collect(),
            devices: table.devices.values().map(ToString::to_string).collect(),
            strict: table.strict.iter().filter_map(|index| table.devices.get(index)).map(ToString::to_string).collect(),
            table: Arc::new(table.clone()),
            troubles,
        }
    }
}

/// Those of the interfaces with a strict `rp_filter`. The kernel tells of changes in messages that rtnetlink does not read.
fn strict(devices: &BTreeMap<u32, Arc<str>>) -> BTreeSet<u32> {
    let is_strict = |name: &Arc<str>| rp_filter(&Roots::default().proc, name) == Some(1);
    devices.iter().filter(|(_, name)| is_strict(name)).map(|(index, _)| *index).collect()
}
