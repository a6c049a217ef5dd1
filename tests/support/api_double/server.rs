//! The listening side: plain or TLS, to be stopped and started again.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ApiDouble;
use super::traffic::Counted;

impl ApiDouble {
    /// A server that does not listen yet.
    pub fn absent() -> Self {
        Self::default()
    }

    /// Listens on a free port of the loopback interface.
    pub async fn start() -> Self {
        let double = Self::absent();
        double.listen("127.0.0.1:0", None).await;
        double
    }

    /// The same with TLS.
    pub async fn start_tls(tls: TlsAcceptor) -> Self {
        let double = Self::absent();
        double.listen("127.0.0.1:0", Some(tls)).await;
        double
    }

    /// Listens here from now on, with everything it knows.
    pub async fn listen(&self, address: &str, tls: Option<TlsAcceptor>) {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(self.clone().accept(listener, tls.clone()));
        let mut listening = self.listening();
        listening.scheme = if tls.is_some() { "https" } else { "http" };
        (listening.address, listening.tls, listening.serving) = (Some(address), tls, Some(serving));
    }

    /// Breaks all connections and listens no more.
    pub async fn stop(&self) {
        let serving = self.listening().serving.take();
        if let Some(serving) = serving {
            serving.abort();
            assert!(serving.await.is_err_and(|error| error.is_cancelled()), "it was serving");
        }
    }

    /// Listens again where it did.
    pub async fn restart(&self) {
        let tls = self.listening().tls.clone();
        self.listen(&self.address().to_string(), tls).await;
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.listening().address.expect("it has listened")
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        let scheme = self.listening().scheme;
        format!("{scheme}://{}", self.address())
    }

    /// Dropping the set breaks its connections.
    async fn accept(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(self.clone().connection(stream, tls.clone()));
            // What has ended leaves nothing: tests look at the memory of this process.
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let stream = self.traffic.count(stream);
        let mut changed = self.changed.subscribe();
        let epoch = self.lock().epoch;
        let broken = async {
            while self.lock().epoch == epoch && changed.changed().await.is_ok() {}
            // What was sent before has left.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        tokio::select! {
            () = broken => {}
            () = self.converse(stream, tls) => {}
        }
    }

    async fn converse(&self, stream: Counted, tls: Option<TlsAcceptor>) {
        match tls {
            None => self.speak(TokioIo::new(stream), false).await,
            // A client may refuse us, and we it.
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.speak(TokioIo::new(stream), http2).await;
                }
            }
        }
    }

    async fn speak(&self, stream: impl Read + Write + Unpin, http2: bool) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move {
                let answer = match request.method().as_str() {
                    "GET" => server.answer(&request),
                    _ => server.take(request).await,
                };
                Ok::<_, Infallible>(answer)
            }
        });
        // Clients hang up as they like.
        if http2 {
            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await);
        } else {
            drop(http1::Builder::new().serve_connection(stream, service).await);
        }
    }
}
