//! The server: says who it is, and who asked.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

use super::Greeting;

/// Longer than a client waits.
const LIMIT: Duration = Duration::from_secs(5);

/// Serves until told to stop: the first process of a container gets no signal that it does not handle.
pub(super) async fn run(port: u16, name: &str) -> anyhow::Result<()> {
    // Of both families where there are two.
    let all = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), (Ipv4Addr::UNSPECIFIED, port).into()];
    let tcp = TcpListener::bind(&all[..]).await.with_context(|| format!("cannot listen on TCP port {port}"))?;
    let udp = UdpSocket::bind(&all[..]).await.with_context(|| format!("cannot listen on UDP port {port}"))?;
    let name: Arc<str> = name.into();
    tokio::select! {
        ended = connections(tcp, name.clone()) => ended,
        ended = datagrams(udp, name) => ended,
        ended = until_told_to_stop() => ended,
    }
}

async fn connections(listener: TcpListener, name: Arc<str>) -> anyhow::Result<()> {
    loop {
        // Whoever has gone again before is nobody's trouble.
        let Ok((mut stream, client)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let greeting = greeting(&name, client)?;
        tokio::spawn(tokio::time::timeout(LIMIT, async move {
            stream.write_all(&greeting).await?;
            stream.shutdown().await
        }));
    }
}

async fn datagrams(socket: UdpSocket, name: Arc<str>) -> anyhow::Result<()> {
    let mut buffer = [0; 64];
    loop {
        // An error here is about a datagram before.
        if let Ok((_, client)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&greeting(&name, client)?, client).await.ok();
        }
    }
}

fn greeting(name: &str, client: SocketAddr) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Greeting { name: name.to_owned(), client: client.ip().to_canonical() })?)
}

pub(super) async fn until_told_to_stop() -> anyhow::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
