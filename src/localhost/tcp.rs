//! TCP connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::RelayContext;
use super::budget::Held;
use super::choice::Choice;
use super::pump::pump;
use crate::model::Protocol;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long an endpoint may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// After a failed accept.
const PAUSE: Duration = Duration::from_millis(50);
/// A side that is silent for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Listens.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until dropped. Those that are open then go on.
pub(super) async fn serve(listener: TcpListener, choice: Arc<Choice>, shared: Arc<RelayContext>) {
    let mut complained = false;
    loop {
        let accepted = listener.accept().await;
        if let Err(cause) = &accepted
            && !std::mem::replace(&mut complained, true)
        {
            warn!(%cause, "cannot accept connections to a NodePort on localhost; trying again");
        }
        match accepted {
            Ok((client, _)) => match shared.budget.take(2) {
                Some(held) => {
                    tokio::spawn(relay(client, choice.clone(), shared.clone(), held));
                }
                None => {
                    shared.stats.refuse(Protocol::Tcp);
                    reset(client);
                }
            },
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn relay(client: TcpStream, choice: Arc<Choice>, shared: Arc<RelayContext>, _held: Held) {
    let _counted = shared.stats.count(Protocol::Tcp);
    let Some(target) = choice.pick(Instant::now()) else { return reset(client) };
    let endpoint = match timeout(CONNECT, TcpStream::connect((target.ip, target.port))).await {
        Ok(Ok(endpoint)) => endpoint,
        Ok(Err(cause)) => {
            debug!(%target, %cause, "cannot connect to an endpoint");
            return reset(client);
        }
        Err(_elapsed) => {
            debug!(%target, "an endpoint does not accept");
            return reset(client);
        }
    };
    for side in [&client, &endpoint] {
        if let Err(cause) = tune(side) {
            debug!(%cause, "cannot set options of a socket");
        }
    }
    let both = tokio::try_join!(pump(&client, &endpoint, &shared.pipes), pump(&endpoint, &client, &shared.pipes));
    if let Err(cause) = both {
        // What one side did the other side learns.
        debug!(%target, %cause, "a connection broke");
        reset(client);
        reset(endpoint);
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Ends a connection so that the other side sees a failure and not an end.
fn reset(stream: TcpStream) {
    if let Err(cause) = stream.set_zero_linger() {
        debug!(%cause, "cannot reset a connection");
    }
}
