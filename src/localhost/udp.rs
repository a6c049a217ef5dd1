//! UDP flows: each client's address has a socket of its own to an endpoint, so that answers find their way back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;
use tokio::time::sleep;
use tracing::debug;

use super::RelayContext;
use super::budget::Held;
use super::choice::Choice;
use super::stats::OpenCount;
use crate::model::{Family, Protocol};
use crate::plan::Target;

/// Flows of all ports together.
const FLOWS: u64 = 8192;
/// Flows among which the idlest has to go when there are too many.
const CANDIDATES: usize = 16;
/// The largest packet.
const PACKET: usize = 64 * 1024;

/// How long a flow may be without a packet.
#[derive(Debug)]
pub(super) struct IdleTimes {
    idle: Duration,
    /// The same once both sides have spoken for a while.
    stream: Duration,
    /// What "a while" is.
    stream_after: Duration,
}

impl IdleTimes {
    /// Those of the kernel's connection tracking.
    pub(super) const KERNEL: Self =
        Self { idle: Duration::from_secs(30), stream: Duration::from_secs(120), stream_after: Duration::from_secs(2) };
}

thread_local! {
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; PACKET]);
}

/// A port.
#[derive(Debug)]
pub(super) struct UdpPort {
    socket: UdpSocket,
    choice: Arc<Choice>,
    shared: Arc<RelayContext>,
    flows: Mutex<HashMap<SocketAddr, Flow>>,
}

#[derive(Debug)]
struct Flow {
    target: Target,
    line: Arc<FlowState>,
    answers: JoinHandle<()>,
    _counted: OpenCount,
}

/// What both directions of a flow share.
#[derive(Debug)]
struct FlowState {
    endpoint: UdpSocket,
    started: Instant,
    /// Milliseconds from `started` to the last packet.
    used: AtomicU64,
    answered: AtomicBool,
    _held: Held,
}

impl FlowState {
    fn touch(&self) {
        self.used.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn used(&self) -> Duration {
        Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    /// How long it may stay idle from now on; `None` when it has been so for too long.
    fn time_left(&self, times: &IdleTimes) -> Option<Duration> {
        let used = self.used();
        let is_stream = self.answered.load(Ordering::Relaxed) && used > times.stream_after;
        let time = if is_stream { times.stream } else { times.idle };
        (used + time).checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())
    }
}

impl UdpPort {
    /// Listens.
    pub(super) fn open(address: SocketAddr, choice: Arc<Choice>, shared: Arc<RelayContext>) -> io::Result<Arc<Self>> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Arc::new(Self { socket, choice, shared, flows: Mutex::default() }))
    }

    /// Takes packets until dropped.
    pub(super) async fn serve(self: Arc<Self>) {
        loop {
            if let Err(cause) = self.socket.readable().await {
                return debug!(%cause, "a socket is broken");
            }
            loop {
                consume_budget().await;
                let received = with_room(|room| {
                    let (count, client) = self.socket.try_recv_from(room)?;
                    self.forward(client, &room[..count]);
                    Ok(())
                });
                // Mostly: nothing more is there.
                if received.is_err() {
                    break;
                }
            }
        }
    }

    /// Ends the flows to endpoints that are gone: their clients' next packets find another one.
    pub(super) async fn move_flows(&self) {
        self.end_flows(|flow| !self.choice.has(&flow.target)).await;
    }

    /// Ends all flows, so that the port is free.
    pub(super) async fn close(&self) {
        self.end_flows(|_| true).await;
    }

    async fn end_flows(&self, is_over: impl Fn(&Flow) -> bool) {
        let gone: Vec<Flow> =
            self.with(|flows| flows.extract_if(|_, flow| is_over(flow)).map(|(_, flow)| flow).collect());
        for flow in gone {
            flow.answers.abort();
            // Cancelled, as wanted.
            flow.answers.await.ok();
        }
    }

    /// A packet of a client. What cannot be sent at once is lost, as in a network.
    fn forward(self: &Arc<Self>, client: SocketAddr, packet: &[u8]) {
        let known = self.with(|flows| flows.get(&client).map(|flow| flow.line.clone()));
        let line = match known {
            Some(line) => line,
            None => match self.begin(client) {
                Ok(Some(line)) => line,
                Ok(None) => return self.shared.stats.refuse(Protocol::Udp),
                Err(cause) => return debug!(%client, %cause, "cannot begin a flow"),
            },
        };
        line.touch();
        // Not by way of tokio, which would have to be told first that a new socket can be written to.
        let endpoint = SockRef::from(&line.endpoint);
        // The first attempt may just tell that an earlier packet was refused.
        if endpoint.send(packet).is_err_and(|cause| cause.kind() == ErrorKind::ConnectionRefused) {
            endpoint.send(packet).ok();
        }
    }

    /// A new flow; `None` where there is no room or no endpoint.
    fn begin(self: &Arc<Self>, client: SocketAddr) -> io::Result<Option<Arc<FlowState>>> {
        let stats = &self.shared.stats;
        if stats.open(Protocol::Udp) >= FLOWS {
            self.drop_an_idle_one();
        }
        let Some(target) = self.choice.pick(Instant::now()) else { return Ok(None) };
        let Some(held) = self.shared.budget.take(1).filter(|_| stats.open(Protocol::Udp) < FLOWS) else {
            return Ok(None);
        };
        let local = match Family::of(target.ip) {
            Family::Ipv4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            Family::Ipv6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = std::net::UdpSocket::bind(local)?;
        endpoint.connect((target.ip, target.port))?;
        endpoint.set_nonblocking(true)?;
        let endpoint = UdpSocket::from_std(endpoint)?;
        let (used, answered) = (AtomicU64::new(0), AtomicBool::new(false));
        let line = Arc::new(FlowState { endpoint, started: Instant::now(), used, answered, _held: held });
        self.with(|flows| {
            let answers = tokio::spawn(self.clone().answer(client, line.clone()));
            let _counted = stats.count(Protocol::Udp);
            flows.insert(client, Flow { target, line: line.clone(), answers, _counted });
        });
        Ok(Some(line))
    }

    fn drop_an_idle_one(&self) {
        self.with(|flows| {
            let idlest = flows.iter().take(CANDIDATES).min_by_key(|(_, flow)| flow.line.started + flow.line.used());
            if let Some((client, _)) = idlest
                && let client = *client
                && let Some(flow) = flows.remove(&client)
            {
                flow.answers.abort();
            }
        });
    }

    /// Brings answers to the client until the flow has been idle for too long, or is refused.
    async fn answer(self: Arc<Self>, client: SocketAddr, line: Arc<FlowState>) {
        while let Some(left) = line.time_left(&self.shared.idle_times) {
            tokio::select! {
                result = line.endpoint.readable() => if result.is_err() { break },
                () = sleep(left) => continue,
            }
            consume_budget().await;
            let brought = with_room(|room| {
                let count = line.endpoint.try_recv(room)?;
                line.answered.store(true, Ordering::Relaxed);
                line.touch();
                // A client that is gone, or does not keep up, loses the packet.
                SockRef::from(&self.socket).send_to(&room[..count], &client.into()).ok();
                Ok(())
            });
            if brought.is_err_and(|cause| cause.kind() != ErrorKind::WouldBlock) {
                break;
            }
        }
        self.with(|flows| {
            if flows.get(&client).is_some_and(|flow| Arc::ptr_eq(&flow.line, &line)) {
                flows.remove(&client);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<SocketAddr, Flow>) -> T) -> T {
        work(&mut self.flows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn with_room<T>(work: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
    ROOM.with_borrow_mut(|room| work(room))
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
