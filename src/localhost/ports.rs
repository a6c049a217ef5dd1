//! Opens and closes ports as an observer of the sync loop says.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::RelayContext;
use super::budget::Held;
use super::choice::Choice;
use super::tcp;
use super::udp::UdpPort;
use super::wanted::{LocalPort, LocalTarget, PortChanges};
use crate::events::EventWanted;
use crate::model::{Family, Protocol};

/// Before a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// All ports.
#[derive(Debug)]
pub(super) struct Ports {
    shared: Arc<RelayContext>,
    ports: HashMap<LocalPort, Port>,
}

/// A port that is wanted.
#[derive(Debug)]
struct Port {
    wanted: LocalTarget,
    choice: Arc<Choice>,
    server: Option<OpenPort>,
    /// Why it is not open, as it was reported.
    complaint: Option<String>,
}

/// A port that is open.
#[derive(Debug)]
struct OpenPort {
    task: JoinHandle<()>,
    udp: Option<Arc<UdpPort>>,
    _held: Held,
}

impl Ports {
    pub(super) fn new(shared: RelayContext) -> Self {
        Self { shared: Arc::new(shared), ports: HashMap::new() }
    }

    /// Follows changes until the sender is gone.
    pub(super) async fn run(mut self, mut changes: UnboundedReceiver<PortChanges>) {
        let mut again = interval(RETRY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = changes.recv() => match received {
                    Some(changes) => self.apply(changes).await,
                    None => return,
                },
                _ = again.tick() => {}
            }
            self.open_missing();
        }
    }

    async fn apply(&mut self, changes: PortChanges) {
        for (key, wanted) in changes {
            match (wanted, self.ports.get_mut(&key)) {
                (Some(wanted), Some(port)) => port.lead(wanted).await,
                (Some(wanted), None) => {
                    let choice = Choice::new(&wanted);
                    self.ports.insert(key, Port { wanted, choice, server: None, complaint: None });
                }
                (None, _) => {
                    if let Some(server) = self.ports.remove(&key).and_then(|port| port.server) {
                        server.close().await;
                        debug!("closed {key}");
                    }
                }
            }
        }
    }

    fn open_missing(&mut self) {
        for (key, port) in self.ports.iter_mut().filter(|(_, port)| port.server.is_none()) {
            match open(*key, &port.choice, &self.shared) {
                Ok(server) => {
                    port.server = Some(server);
                    let service = &port.wanted.service;
                    match port.complaint.take() {
                        Some(_) => info!(%service, "{key} is open at last"),
                        None => debug!(%service, "{key} is open"),
                    }
                }
                Err(cause) => port.complain(*key, &cause, &self.shared),
            }
        }
        for family in Family::ALL {
            let is_open = |(key, port): &(&LocalPort, &Port)| key.family() == family && port.server.is_some();
            self.shared.stats.set_listeners(family, self.ports.iter().filter(is_open).count());
        }
    }
}

impl Port {
    /// Leads elsewhere from now on. Connections that are open go on; flows move.
    async fn lead(&mut self, wanted: LocalTarget) {
        self.choice.replace(&wanted);
        self.wanted = wanted;
        if let Some(udp) = self.server.as_ref().and_then(|server| server.udp.as_ref()) {
            udp.move_flows().await;
        }
    }

    /// It is tried again; saying so once is enough.
    fn complain(&mut self, key: LocalPort, cause: &io::Error, shared: &RelayContext) {
        shared.stats.failed(key.family());
        let (service, complaint) = (&self.wanted.service, cause.to_string());
        if self.complaint.as_ref() == Some(&complaint) {
            return debug!(%service, "cannot listen on {key}: {cause}");
        }
        warn!(%service, "cannot listen on {key}: {cause}; free the port, or choose another nodePort. Trying again every {} s", RETRY.as_secs());
        shared.events.wanted(EventWanted::LocalhostNodePortFailed {
            service: service.clone(),
            address: key.to_string(),
            cause: complaint.clone(),
        });
        self.complaint = Some(complaint);
    }
}

impl OpenPort {
    async fn close(self) {
        self.task.abort();
        if let Err(cause) = self.task.await
            && cause.is_panic()
        {
            warn!(%cause, "a server of a NodePort on localhost died");
        }
        if let Some(udp) = self.udp {
            udp.close().await;
        }
    }
}

fn open(key: LocalPort, choice: &Arc<Choice>, shared: &Arc<RelayContext>) -> io::Result<OpenPort> {
    let held = shared.budget.take(1).ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
    let (choice, shared) = (choice.clone(), shared.clone());
    let (task, udp) = match key.protocol {
        Protocol::Udp => {
            let udp = UdpPort::open(key.address(), choice, shared)?;
            (tokio::spawn(udp.clone().serve()), Some(udp))
        }
        Protocol::Tcp | Protocol::Sctp => {
            let listener = tcp::listen(key.address())?;
            (tokio::spawn(tcp::serve(listener, choice, shared)), None)
        }
    };
    Ok(OpenPort { task, udp, _held: held })
}
