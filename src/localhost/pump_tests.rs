use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

/// Two ends of a connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// A client and an endpoint with a pump from one to the other between them.
async fn pumped(descriptors: usize) -> (TcpStream, TcpStream, tokio::task::JoinHandle<io::Result<()>>) {
    let ((client, inner), (outer, endpoint)) = (connection().await, connection().await);
    let pipes = Pipes::new(Budget::new(descriptors));
    let task = tokio::spawn(async move { pump(&inner, &outer, &pipes).await });
    (client, endpoint, task)
}

/// With a pipe and without one.
const DESCRIPTORS: [usize; 2] = [2, 0];

#[tokio::test]
async fn everything_arrives_and_then_the_end() {
    for descriptors in DESCRIPTORS {
        let (mut client, mut endpoint, task) = pumped(descriptors).await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let send = async {
            client.write_all(&sent).await.expect("sent");
            client.shutdown().await.expect("ended");
        };
        let receive = async {
            let mut received = Vec::new();
            endpoint.read_to_end(&mut received).await.expect("received");
            received
        };
        let ((), received) = timeout(LIMIT, async { tokio::join!(send, receive) }).await.expect("in time");
        assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
        task.await.expect("no panic").expect("no failure");
    }
}

#[tokio::test]
async fn it_reads_no_faster_than_the_other_side() {
    for descriptors in DESCRIPTORS {
        let (mut client, mut endpoint, task) = pumped(descriptors).await;
        let chunk = vec![1; 1 << 20];
        let mut sent = 0_usize;
        // Buffers of sockets hold some megabytes; what is more has to wait for the endpoint.
        while let Ok(count) = timeout(Duration::from_millis(500), client.write(&chunk)).await {
            sent += count.expect("no failure");
            assert!(sent < 1 << 28, "nobody holds so much");
        }
        drop(client);
        let mut received = Vec::new();
        timeout(LIMIT, endpoint.read_to_end(&mut received)).await.expect("in time").expect("received");
        assert_eq!(received.len(), sent);
        task.await.expect("no panic").expect("no failure");
    }
}

#[tokio::test]
async fn a_reset_is_an_error() {
    for descriptors in DESCRIPTORS {
        let (client, _endpoint, task) = pumped(descriptors).await;
        client.set_zero_linger().expect("an option");
        drop(client);
        let result = timeout(LIMIT, task).await.expect("in time").expect("no panic");
        assert_eq!(result.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn pipes_are_held_only_while_bytes_flow() {
    let budget = Budget::new(2);
    let pipes = std::sync::Arc::new(Pipes::new(budget.clone()));
    // Both directions of two connections share one pipe, and an idle one has none.
    for _ in 0..2 {
        let ((mut client, inner), (outer, mut endpoint)) = (connection().await, connection().await);
        let shared = pipes.clone();
        tokio::spawn(async move { pump(&inner, &outer, &shared).await });
        client.write_all(b"hello").await.expect("sent");
        let mut room = [0; 5];
        endpoint.read_exact(&mut room).await.expect("received");
        // Kept for as long as the test runs.
        std::mem::forget((client, endpoint));
    }
    assert!(budget.take(1).is_none(), "the pipe is kept for the next one");
    assert_eq!(pipes.spare.lock().expect("no panic").len(), 1);
}
