//! The client: tries what it is told, many things at a time.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use super::{Found, Greeting, Outcome, Probe, Question};
use crate::cli::view::emit;

/// Probes at a time.
const AT_A_TIME: usize = 64;
/// After this nobody answers any more: a lost packet has been sent anew (after 1 s) and answered.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Datagrams may be lost: each is sent this often, with a part of the patience in between.
const DATAGRAMS: u32 = 3;
/// More is no greeting.
const GREETING_LIMIT: u64 = 4096;

/// Reads one line, whoever keeps the pipe open behind it.
pub(super) async fn run() -> anyhow::Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let probes: Vec<Probe> = serde_json::from_str(&line).context("want a line with a list of probes")?;
    let mut found: Vec<Found> = stream::iter(probes).map(try_out).buffer_unordered(AT_A_TIME).collect().await;
    found.sort_by_key(|found| found.id);
    emit(&format!("{}\n", serde_json::to_string(&found)?))?;
    Ok(())
}

async fn try_out(probe: Probe) -> Found {
    let mut outcomes = Vec::new();
    for _ in 0..probe.times {
        outcomes.push(match &probe.question {
            Question::Tcp(to) => outcome(timeout(PATIENCE, tcp(*to)).await),
            Question::Udp(to) => outcome(timeout(PATIENCE, udp(*to)).await),
            Question::Name(name) => addresses(name).await,
        });
        if probe.until_refused && outcomes.last() == Some(&Outcome::Refused) {
            break;
        }
    }
    Found { id: probe.id, outcomes }
}

fn outcome(result: Result<io::Result<Vec<u8>>, tokio::time::error::Elapsed>) -> Outcome {
    match result {
        Err(_) => Outcome::Silent,
        Ok(Err(cause)) if cause.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Ok(Err(cause)) => Outcome::Error(cause.to_string()),
        Ok(Ok(said)) => match serde_json::from_slice::<Greeting>(&said) {
            Ok(greeting) => Outcome::Answer(greeting),
            Err(_) => Outcome::Error(format!("answered by somebody else: {:?}", String::from_utf8_lossy(&said))),
        },
    }
}

async fn tcp(to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    TcpStream::connect(to).await?.take(GREETING_LIMIT).read_to_end(&mut said).await?;
    Ok(said)
}

async fn udp(to: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // So that refusals come back to it.
    socket.connect(to).await?;
    let mut said = vec![0; 4096];
    let pause = PATIENCE / DATAGRAMS;
    loop {
        match socket.send(b"who is there?").await {
            // A rule of this host has dropped or refused it; which of both, the socket is told now or never.
            Err(cause) if cause.kind() == ErrorKind::PermissionDenied => {}
            result => drop(result?),
        }
        if let Ok(received) = timeout(pause, socket.recv(&mut said)).await {
            said.truncate(received?);
            return Ok(said);
        }
    }
}

async fn addresses(name: &str) -> Outcome {
    // A resolver asks twice, 5 s apart.
    match timeout(PATIENCE * 5, lookup_host((name, 0))).await {
        Err(_) => Outcome::Silent,
        Ok(Err(cause)) => Outcome::Error(cause.to_string()),
        Ok(Ok(found)) => {
            let mut ips: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            ips.sort();
            ips.dedup();
            Outcome::Addresses(ips)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(question: Question) -> Outcome {
        try_out(Probe { id: 0, question, times: 1, until_refused: false }).await.outcomes.remove(0)
    }

    #[tokio::test]
    async fn a_server_says_who_it_is_and_who_asks() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let server = tokio::spawn(async move { super::super::serve::run(free.port(), "server-1").await });
        let wanted = Outcome::Answer(Greeting { name: "server-1".to_owned(), client: [127, 0, 0, 1].into() });
        for question in [Question::Udp(free), Question::Tcp(free)] {
            let mut seen = asked(question.clone()).await;
            while seen == Outcome::Refused {
                tokio::time::sleep(Duration::from_millis(20)).await;
                seen = asked(question.clone()).await;
            }
            assert_eq!(seen, wanted);
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_refusal_ends_what_waits_for_it() {
        let refused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let tried = |until_refused| try_out(Probe { id: 0, question: Question::Tcp(refused), times: 3, until_refused });
        assert_eq!((tried(true).await.outcomes.len(), tried(false).await.outcomes.len()), (1, 3));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        let refused = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        assert_eq!(asked(Question::Udp(refused)).await, Outcome::Refused);
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert_eq!(asked(Question::Udp(silent.local_addr().expect("an address"))).await, Outcome::Silent);
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("an address");
        std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = other.accept().expect("a client");
            stream.write_all(b"SSH-2.0").expect("written");
        });
        let seen = asked(Question::Tcp(address)).await;
        assert_eq!(seen, Outcome::Error("answered by somebody else: \"SSH-2.0\"".to_owned()));
        assert_eq!(
            asked(Question::Name("127.0.0.1".to_owned())).await,
            Outcome::Addresses(vec![[127, 0, 0, 1].into()])
        );
        assert!(matches!(asked(Question::Name("no such name".to_owned())).await, Outcome::Error(_)));
    }
}
