//! Connections, and how much a client may ask of us.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::http::{Request, Response, Routes, text};
use super::proxy_header::{self, Rewound};

/// Connections at a time.
const CONNECTIONS: usize = 128;
/// For the head of a request, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// For the head of the only request on a connection.
const SINGLE_LIMIT: Duration = Duration::from_secs(5);
/// For a connection as a whole: nobody holds a slot for ever.
const LIFETIME: Duration = Duration::from_secs(600);
/// For a connection that brings one request.
const SINGLE_LIFETIME: Duration = Duration::from_secs(15);
/// For the last answer after that.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes of a head.
const HEAD_SIZE: usize = 16 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;
/// Bytes of a body, where one is wanted.
const BODY_SIZE: usize = 4 * 1024;
/// After a failed accept, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// A listening socket, TCP or unix.
pub(crate) trait ListeningStream: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and, where it has one, its address.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl ListeningStream for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        self.accept().await.map(|(stream, peer)| (stream, Some(peer)))
    }
}

impl ListeningStream for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        self.accept().await.map(|(stream, _)| (stream, None))
    }
}

/// The open connections of one server, or of several together.
///
/// When there are too many the oldest is closed: clients that open connections and send nothing displace each other, and
/// clients that send a request and leave are answered meanwhile. Waiting for a free slot would let idle clients delay a
/// probe.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionSlots(Arc<Mutex<VecDeque<AbortHandle>>>);

impl ConnectionSlots {
    fn take(&self, connection: AbortHandle) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.push_back(connection);
        if taken.len() > CONNECTIONS {
            taken.retain(|connection| !connection.is_finished());
        }
        if taken.len() > CONNECTIONS
            && let Some(oldest) = taken.pop_front()
        {
            debug!("more than {CONNECTIONS} connections: closing the oldest");
            oldest.abort();
        }
    }
}

/// Serves connections until dropped.
pub(crate) async fn serve<T, R: Routes>(listener: impl ListeningStream, routes: R, slots: ConnectionSlots) -> T {
    // Dropping the set ends them all: a closed port answers nobody.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.next().await {
            Ok((stream, peer)) => slots.take(connections.spawn(connection(stream, peer, routes.clone()))),
            Err(cause) => {
                warn!(%cause, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

pub(crate) async fn connection<S, R: Routes>(stream: S, peer: Option<SocketAddr>, routes: R)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let keep_alive = routes.keeps_alive();
    let (head_limit, lifetime) = if keep_alive { (HEAD_LIMIT, LIFETIME) } else { (SINGLE_LIMIT, SINGLE_LIFETIME) };
    let stream = match routes.skips_proxy_header() {
        false => Rewound::new(stream, &[]),
        true => match timeout(head_limit, proxy_header::skip(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return debug!(?peer, %cause, "connection ended"),
            Err(_elapsed) => return debug!(?peer, "connection ended: nothing came"),
        },
    };
    let service = service_fn(move |request: http::Request<Incoming>| respond(request, peer, routes.clone()));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit)
            .max_buf_size(HEAD_SIZE)
            .max_headers(HEADERS)
            .keep_alive(keep_alive)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = sleep(lifetime) => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(cause) = result {
        debug!(?peer, %cause, "connection ended");
    }
}

async fn respond<R: Routes>(
    request: http::Request<Incoming>,
    peer: Option<SocketAddr>,
    routes: R,
) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    let body = if routes.wants_body(&head) {
        match timeout(SINGLE_LIMIT, Limited::new(body, BODY_SIZE).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) => return Ok(text(StatusCode::BAD_REQUEST, format!("cannot read the body: {cause}\n"))),
            Err(_elapsed) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n")),
        }
    } else {
        Bytes::new()
    };
    let request = Request { head, body, peer };
    let Some(queue) = routes.queue(&request.head) else { return Ok(routes.answer(&request)) };
    let permit = queue.acquire_owned().await;
    let answering = tokio::task::spawn_blocking(move || {
        let response = routes.answer(&request);
        // Also when the client has given up: as long as it is worked on, the next one waits.
        drop(permit);
        response
    });
    Ok(answering.await.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed\n")))
}
