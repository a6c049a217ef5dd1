//! Pods that answer and stop, in the pods' namespace of a lane.

use std::net::IpAddr;

use portway::model::EndpointSlice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::lane::Lane;
use super::netns::ip_batch;

/// What a pod says.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What becomes of a pod's address.
#[derive(Clone, Copy, PartialEq)]
pub enum Death {
    /// Nobody listens any more: connections are refused.
    Refused,
    /// The address is no longer there: nobody answers.
    Silent,
}

/// The pods, all in one network namespace, each with an address and something that ends it.
pub struct Pods<'a> {
    lane: &'a Lane,
    all: Vec<(IpAddr, Option<oneshot::Sender<()>>)>,
}

impl<'a> Pods<'a> {
    /// Starts those of a slice.
    pub fn start(lane: &'a Lane, slice: &EndpointSlice) -> Self {
        let port = slice.ports[0].port;
        let addresses: Vec<IpAddr> = slice.endpoints.iter().map(|endpoint| endpoint.address).collect();
        let (ends, ended): (Vec<_>, Vec<_>) = addresses.iter().map(|_| oneshot::channel()).unzip();
        let pods = Self { lane, all: addresses.iter().copied().zip(ends.into_iter().map(Some)).collect() };
        pods.ip(&addresses.iter().map(|ip| format!("addr add {ip}/32 dev lo\n")).collect::<String>());
        lane.pods.enter().expect("the pods' namespace");
        let listeners: Vec<_> = addresses.into_iter().map(|ip| listen(ip, port)).collect();
        lane.node.enter().expect("the node's namespace");
        std::thread::spawn(move || {
            runtime().block_on(async {
                let served =
                    listeners.into_iter().zip(ended).map(|(listener, ended)| tokio::spawn(serve(listener, ended)));
                for pod in served.collect::<Vec<_>>() {
                    pod.await.expect("no pod panics");
                }
            });
        });
        pods
    }

    /// Ends one of them as a process ends that does not wait for anybody.
    pub fn stop(&mut self, pod: usize, death: Death) {
        let (ip, end) = &mut self.all[pod];
        let (ip, end) = (*ip, end.take());
        if death == Death::Silent {
            self.ip(&format!("addr del {ip}/32 dev lo\n"));
        }
        drop(end);
    }

    fn ip(&self, commands: &str) {
        self.lane.pods.enter().expect("the pods' namespace");
        ip_batch(commands).expect("addresses of pods");
        self.lane.node.enter().expect("the node's namespace");
    }
}

/// In the network namespace of the caller.
fn listen(ip: IpAddr, port: u16) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind((ip, port)).expect("a free port");
    listener.set_nonblocking(true).expect("set");
    listener
}

async fn serve(listener: std::net::TcpListener, mut ended: oneshot::Receiver<()>) {
    let listener = TcpListener::from_std(listener).expect("within a runtime");
    loop {
        tokio::select! {
            _ = &mut ended => return,
            accepted = listener.accept() => {
                let (mut stream, _) = accepted.expect("a connection");
                tokio::spawn(async move {
                    // Whoever asks may have gone.
                    if stream.read(&mut [0; 256]).await.is_ok() {
                        stream.write_all(ANSWER).await.ok();
                    }
                });
            }
        }
    }
}

/// Of this thread alone, so that what it opens is in this thread's network namespace.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
