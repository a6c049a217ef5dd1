//! The servers behind `healthCheckNodePort` (specification 5.6).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::accept::{self, ConnectionSlots};
use super::health_port::status;
use super::http::{Request, Response, Routes, json};
use super::listen;
use crate::events::{EventSink, EventWanted};
use crate::health::{CheckChanges, CheckId, CheckReceiver, CheckServer, Health, check_body};
use crate::model::{Family, ObjectKey};
use crate::plan::NodePortAddresses;

/// How long a port that another process has is left alone, unless there is a change.
const RETRY: Duration = Duration::from_secs(5);

/// Opens, closes and moves the servers as a [`crate::health::CheckObserver`] says.
#[derive(Debug)]
pub struct CheckPorts {
    health: Arc<Health>,
    events: EventSink,
    addresses: HashMap<Family, Vec<IpAddr>>,
    servers: HashMap<CheckId, ListeningServer>,
    /// Of all servers together: whoever may create Services decides how many there are.
    slots: ConnectionSlots,
}

/// A server that is wanted, and the sockets it has.
#[derive(Debug)]
struct ListeningServer {
    port: u16,
    count: Arc<AtomicUsize>,
    sockets: HashMap<IpAddr, JoinHandle<()>>,
    /// Why it is not open, as it was reported.
    complaint: Option<String>,
}

impl CheckPorts {
    /// No server yet.
    pub fn new(health: Arc<Health>, events: EventSink) -> Self {
        Self { health, events, addresses: HashMap::new(), servers: HashMap::new(), slots: ConnectionSlots::default() }
    }

    /// Follows changes until the sender is gone, then closes everything.
    pub async fn run(mut self, mut changes: CheckReceiver) {
        loop {
            let is_closed = self.servers.values().any(|server| server.complaint.is_some());
            tokio::select! {
                changes = changes.recv() => match changes {
                    Some(changes) => self.apply(changes).await,
                    None => break,
                },
                () = tokio::time::sleep(RETRY), if is_closed => self.open().await,
            }
        }
        for server in self.servers.values_mut() {
            server.close().await;
        }
    }

    async fn apply(&mut self, changes: CheckChanges) {
        if let Some(addresses) = changes.addresses {
            self.addresses = addresses.iter().map(|(family, of)| (*family, listen_addresses(*family, of))).collect();
        }
        // A port may go from one Service to another: close everything first.
        for (id, check) in changes.checks {
            match check {
                Some(check) => self.update(id, check).await,
                None => {
                    if let Some(mut server) = self.servers.remove(&id) {
                        server.close().await;
                    }
                }
            }
        }
        for ((family, _), server) in &mut self.servers {
            server.leave(self.addresses.get(family).map(Vec::as_slice).unwrap_or_default()).await;
        }
        self.open().await;
    }

    /// Opens what is not open.
    async fn open(&mut self) {
        for (id, server) in &mut self.servers {
            let addresses = self.addresses.get(&id.0).map(Vec::as_slice).unwrap_or_default();
            if !server.is_open(addresses) {
                let routes =
                    CheckRoutes { service: id.1.clone(), count: server.count.clone(), health: self.health.clone() };
                server.open(&routes, addresses, &self.slots, &self.events).await;
            }
        }
    }

    async fn update(&mut self, id: CheckId, check: CheckServer) {
        let server = self.servers.entry(id).or_insert_with(|| ListeningServer {
            port: check.port,
            count: Arc::default(),
            sockets: HashMap::new(),
            complaint: None,
        });
        server.count.store(check.local_endpoints, Ordering::Relaxed);
        if server.port != check.port {
            server.close().await;
            server.port = check.port;
            server.complaint = None;
        }
    }
}

impl ListeningServer {
    fn is_open(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| self.sockets.contains_key(address))
    }

    /// Opens what is missing. If one socket cannot be had, none is kept.
    async fn open(&mut self, routes: &CheckRoutes, addresses: &[IpAddr], slots: &ConnectionSlots, events: &EventSink) {
        let missing: Vec<IpAddr> = addresses.iter().copied().filter(|ip| !self.sockets.contains_key(ip)).collect();
        for address in missing {
            match listen::on_family(address, self.port) {
                Ok(listener) => {
                    let task = tokio::spawn(accept::serve(listener, routes.clone(), slots.clone()));
                    self.sockets.insert(address, task);
                }
                Err(cause) => {
                    self.close().await;
                    return self.complain(&routes.service, address, &cause, events);
                }
            }
        }
        let (service, port) = (&routes.service, self.port);
        if self.complaint.take().is_some() {
            info!(%service, port, "the health check port is open at last");
        } else {
            debug!(%service, port, "the health check port is open");
        }
    }

    /// It is tried again at each sync, and after [`RETRY`]; saying so once is enough.
    fn complain(&mut self, service: &ObjectKey, address: IpAddr, cause: &io::Error, events: &EventSink) {
        let port = self.port;
        let complaint = format!("cannot listen on {address} port {port}: {cause}");
        if self.complaint.as_ref() == Some(&complaint) {
            return debug!(%service, "{complaint}");
        }
        warn!(%service, port, "the health check port {complaint}; load balancers will avoid this node");
        events.wanted(EventWanted::ServiceHealthCheckFailed {
            service: service.clone(),
            port,
            cause: complaint.clone(),
        });
        self.complaint = Some(complaint);
    }

    /// Closes the sockets on addresses other than these.
    async fn leave(&mut self, addresses: &[IpAddr]) {
        let gone: Vec<IpAddr> = self.sockets.keys().copied().filter(|ip| !addresses.contains(ip)).collect();
        for address in gone {
            if let Some(task) = self.sockets.remove(&address) {
                end(task).await;
            }
        }
    }

    async fn close(&mut self) {
        self.leave(&[]).await;
    }
}

/// Ends a task and waits until its socket is closed.
async fn end(task: JoinHandle<()>) {
    task.abort();
    if let Err(cause) = task.await
        && cause.is_panic()
    {
        warn!(%cause, "a health check server died");
    }
}

fn listen_addresses(family: Family, addresses: &NodePortAddresses) -> Vec<IpAddr> {
    match addresses {
        NodePortAddresses::AllLocal => vec![match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        }],
        NodePortAddresses::Listed(addresses) => addresses.clone(),
    }
}

/// Any path and any method gets the same answer.
#[derive(Debug, Clone)]
struct CheckRoutes {
    service: ObjectKey,
    count: Arc<AtomicUsize>,
    health: Arc<Health>,
}

impl Routes for CheckRoutes {
    fn answer(&self, _: &Request) -> Response {
        let count = self.count.load(Ordering::Relaxed);
        let healthy = self.health.is_healthy();
        let mut response = json(status(count > 0 && healthy), check_body(&self.service, count, healthy));
        response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
        response
    }

    fn skips_proxy_header(&self) -> bool {
        true
    }

    /// A prober that keeps connections would hold one of few connection slots of a port anybody can reach.
    fn keeps_alive(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[path = "check_ports_tests.rs"]
mod tests;
