//! `portway cleanup --after-kube-proxy`: waits until kube-proxy serves this node, then removes Portway's tables. It listens on
//! no port and claims no table, so it is in nobody's way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinHandle;

use super::run::Source;
use crate::config::{Configuration, Options};
use crate::handover::{Duties, Sight, Wait, after_removal, before_removal};
use crate::metrics::Metrics;
use crate::model::{Event, Family, Kind, Model, Service};
use crate::nftables::{NftKernel, remove_direct_table, remove_fast_table};
use crate::ruleset::KernelError;
use crate::source::SourceError;
use crate::{events, host};

/// From one look at the node to the next. Rules must be complete in two of them, as IPVS has no transactions.
const LOOK: Duration = Duration::from_millis(500);
/// How often what is waited for is said again.
const REPEAT: Duration = Duration::from_secs(60);
/// How long kube-proxy may go on trying its ports before it is said that it does not: it tries its own two every 5 s.
const PATIENCE: Duration = Duration::from_secs(6);
/// Batches on their way from a source.
const QUEUE: usize = 64;
/// kube-proxy's own ports where it ran beside Portway, which then had others.
const USUAL_PORTS: [u16; 2] = [10256, 10249];

/// Comes back when kube-proxy serves the node and Portway's tables are gone.
pub(super) fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            result = hand_over(configuration) => result,
            _ = terminate.recv() => Err(anyhow::anyhow!("told to stop before kube-proxy serves this node")),
            _ = interrupt.recv() => Err(anyhow::anyhow!("told to stop before kube-proxy serves this node")),
        }
    });
    runtime.shutdown_background();
    result
}

async fn hand_over(configuration: &Configuration) -> anyhow::Result<()> {
    let mut options = configuration.options();
    // Those with the label were Portway's beside kube-proxy; they have to become kube-proxy's as well.
    let mut labelled = match options.service_proxy_name {
        Some(_) => Some(Feed::start(configuration, &options).await?),
        None => None,
    };
    options.service_proxy_name = None;
    let mut services = Feed::start(configuration, &options).await?;
    let mut node = HandoverNode::open(configuration)?;
    loop {
        tokio::time::sleep(LOOK).await;
        services.follow().await?;
        let mut duties = Duties::default();
        let mut is_known = services.is_known();
        duties.add(services.iter(), &node.families);
        if let Some(labelled) = &mut labelled {
            labelled.follow().await?;
            is_known &= labelled.is_known();
            duties.leave_alone(labelled.iter());
        }
        if node.look(is_known.then_some(&duties))? {
            return Ok(());
        }
    }
}

/// The Services of a source.
struct Feed {
    receiver: Receiver<Vec<Event>>,
    task: JoinHandle<Result<(), SourceError>>,
    model: Model,
}

impl Feed {
    async fn start(configuration: &Configuration, options: &Options) -> Result<Self, SourceError> {
        let source = Source::open(configuration, options, &Metrics::new()).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Nobody creates Events of what is only looked at.
        let (events, _) = events::queue();
        let task = tokio::spawn(source.run(sender, events));
        Ok(Self { receiver, task, model: Model::default() })
    }

    /// Takes what has come.
    async fn follow(&mut self) -> anyhow::Result<()> {
        while let Ok(batch) = self.receiver.try_recv() {
            // Endpoints are kube-proxy's business, and take memory.
            let services = batch.into_iter().filter(|event| !matches!(event, Event::Slice(_)));
            services.for_each(|event| self.model.apply(event));
        }
        if self.task.is_finished() {
            (&mut self.task).await??;
            anyhow::bail!("internal error: the source of Services has ended");
        }
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.model.has_listed(Kind::Service)
    }

    fn iter(&self) -> impl Iterator<Item = &Service> {
        self.model.services().map(Arc::as_ref)
    }
}

/// The node, and how far it is.
struct HandoverNode {
    kernel: NftKernel,
    families: Vec<Family>,
    /// kube-proxy's own.
    ports: Vec<u16>,
    /// The last look found its rules complete.
    was_complete: bool,
    is_removed: bool,
    /// What is waited for, since when, and when that was said last.
    waiting: Option<(Wait, Instant, Option<Instant>)>,
    name: Arc<str>,
}

impl HandoverNode {
    fn open(configuration: &Configuration) -> Result<Self, KernelError> {
        let configured = [configuration.health_address, configuration.metrics_address];
        let ports = match configuration.service_proxy_name {
            None => configured.into_iter().flatten().map(|address| address.port()).collect(),
            Some(_) => USUAL_PORTS.to_vec(),
        };
        Ok(Self {
            kernel: NftKernel::open()?,
            families: host::families(),
            ports,
            was_complete: false,
            is_removed: false,
            waiting: None,
            name: configuration.node_name.clone(),
        })
    }

    /// Does what can be done now; whether that was the last of it.
    fn look(&mut self, duties: Option<&Duties>) -> anyhow::Result<bool> {
        let listening = host::listening::tcp_ports()?;
        if !self.is_removed {
            // What is in the middle of a change may not be readable; the next look will see it.
            let wait = match self.sight(&listening) {
                Ok(sight) => before_removal(duties, &sight, &self.ports),
                Err(error) => Some(Wait::Unseen(error.to_string())),
            };
            if let Some(wait) = wait {
                self.was_complete = false;
                self.say(wait);
                return Ok(false);
            }
            if !std::mem::replace(&mut self.was_complete, true) {
                return Ok(false);
            }
            match remove_direct_table().and_then(|_| remove_fast_table()).and_then(|_| self.kernel.cleanup()) {
                Ok(removed) => super::report_removed(&removed),
                // One has started in this very moment.
                Err(KernelError::Owned { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            self.is_removed = true;
        }
        let sight = Sight { listening, ..Sight::default() };
        match after_removal(duties.unwrap_or(&Duties::default()), &sight, &self.ports) {
            None => {
                println!("kube-proxy serves this node, and all of its ports");
                Ok(true)
            }
            Some(wait) => {
                self.say(wait);
                Ok(false)
            }
        }
    }

    fn sight(&mut self, listening: &BTreeSet<u16>) -> Result<Sight, KernelError> {
        let (portway, served) = (self.kernel.other_portway()?, self.kernel.kube_proxy_addresses()?);
        Ok(Sight { portway, served, listening: listening.clone() })
    }

    /// Says what is waited for when it is something else, and from time to time.
    fn say(&mut self, wait: Wait) {
        let now = Instant::now();
        let patience = if wait.wants_restart() { PATIENCE } else { Duration::ZERO };
        let (since, said) = match &self.waiting {
            Some((known, since, said)) if *known == wait => (*since, *said),
            _ => (now, None),
        };
        let is_due = said.map_or(since.elapsed() >= patience, |at| at.elapsed() >= REPEAT);
        if is_due {
            println!("waiting: {}", wait.in_words(&self.name));
        }
        self.waiting = Some((wait, since, if is_due { Some(now) } else { said }));
    }
}
