//! What goes over the sockets of the double.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Sockets and bytes, TLS included.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Connections accepted so far.
    pub accepted: Arc<AtomicU64>,
    /// Connections that are open.
    pub open: Arc<AtomicU64>,
    /// Bytes sent to clients.
    pub sent: Arc<AtomicU64>,
    /// Bytes that came from clients.
    pub received: Arc<AtomicU64>,
}

impl Traffic {
    pub(super) fn count(&self, stream: TcpStream) -> Counted {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted { stream, traffic: self.clone() }
    }

    /// Accepted, open, sent, received.
    pub fn now(&self) -> [u64; 4] {
        [&self.accepted, &self.open, &self.sent, &self.received].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A connection that is counted.
pub(super) struct Counted {
    stream: TcpStream,
    traffic: Traffic,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.traffic.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.traffic.received.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            self.traffic.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
