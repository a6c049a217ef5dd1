use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::events::{self, EventQueue};

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 2));

fn id(name: &str) -> CheckId {
    (Family::Ipv4, ObjectKey::new("ns", name))
}

fn check(name: &str, port: u16, local_endpoints: usize) -> (CheckId, Option<CheckServer>) {
    (id(name), Some(CheckServer { port, local_endpoints }))
}

fn listed(addresses: &[IpAddr]) -> Option<Vec<(Family, NodePortAddresses)>> {
    Some(vec![(Family::Ipv4, NodePortAddresses::Listed(addresses.to_vec()))])
}

fn ports() -> (CheckPorts, EventQueue) {
    let (events, queue) = events::queue();
    (CheckPorts::new(Health::new(Duration::from_secs(30), Family::ALL), events), queue)
}

/// A port nobody has.
async fn free_port() -> u16 {
    let probe = TcpListener::bind((FIRST, 0)).await.expect("a port");
    probe.local_addr().expect("an address").port()
}

/// What a request gets; `None` when nobody listens.
async fn ask(address: IpAddr, port: u16, request: &'static str) -> Option<String> {
    let exchange = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(SocketAddr::new(address, port))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    tokio::task::spawn_blocking(exchange).await.expect("no panic").ok()
}

async fn get(address: IpAddr, port: u16) -> Option<String> {
    ask(address, port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await
}

#[tokio::test]
async fn any_request_gets_count_and_health() {
    let (mut ports, _) = ports();
    let port = free_port().await;
    ports.apply(CheckChanges { checks: vec![check("a", port, 2)], addresses: listed(&[FIRST]) }).await;
    let answer = ask(FIRST, port, "POST /any?thing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
    let answer = answer.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, check_body(&ObjectKey::new("ns", "a"), 2, true));
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    for line in
        ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 2"]
    {
        assert!(head.lines().any(|l| l == line), "{line} in {head}");
    }
    ports.apply(CheckChanges { checks: vec![check("a", port, 0)], addresses: None }).await;
    let answer = get(FIRST, port).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nx-load-balancing-endpoint-weight: 0\r\n"), "{answer}");
    ports.apply(CheckChanges { checks: vec![(id("a"), None)], addresses: None }).await;
    assert_eq!(get(FIRST, port).await, None);
}

#[tokio::test]
async fn ports_and_addresses_move() {
    let (mut ports, mut events) = ports();
    let (old, new) = (free_port().await, free_port().await);
    ports.apply(CheckChanges { checks: vec![check("a", old, 1)], addresses: listed(&[FIRST]) }).await;
    assert!(get(SECOND, old).await.is_none());
    ports.apply(CheckChanges { checks: vec![check("a", new, 1)], addresses: listed(&[SECOND]) }).await;
    assert!(get(FIRST, old).await.is_none() && get(FIRST, new).await.is_none());
    assert!(get(SECOND, new).await.is_some());
    // To another Service within one sync, in whatever order it is told.
    let checks = vec![check("b", new, 3), (id("a"), None)];
    ports.apply(CheckChanges { checks, addresses: None }).await;
    let answer = get(SECOND, new).await.expect("an answer");
    assert!(answer.contains("\"name\": \"b\""), "{answer}");
    assert_eq!(events.take(), []);
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again_and_harms_nobody() {
    let (mut ports, mut events) = ports();
    let other = free_port().await;
    let blocker = TcpListener::bind((SECOND, 0)).await.expect("a port");
    let taken = blocker.local_addr().expect("an address").port();
    let checks = vec![check("a", taken, 1), check("b", other, 1)];
    ports.apply(CheckChanges { checks, addresses: listed(&[FIRST, SECOND]) }).await;
    assert!(get(FIRST, taken).await.is_none(), "half a server is none");
    assert!(get(FIRST, other).await.is_some() && get(SECOND, other).await.is_some());
    ports.apply(CheckChanges::default()).await;
    let events = events.take();
    let [EventWanted::ServiceHealthCheckFailed { service, port, cause }] = &events[..] else {
        panic!("one event, not {events:?}");
    };
    assert_eq!((service, *port), (&ObjectKey::new("ns", "a"), taken));
    assert!(cause.contains("127.77.0.2") && cause.contains("in use"), "{cause}");
    drop(blocker);
    ports.apply(CheckChanges::default()).await;
    assert!(get(FIRST, taken).await.is_some() && get(SECOND, taken).await.is_some());
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again_without_a_change() {
    let (mut ports, _events) = ports();
    let blocker = TcpListener::bind((FIRST, 0)).await.expect("a port");
    let taken = blocker.local_addr().expect("an address").port();
    ports.apply(CheckChanges { checks: vec![check("a", taken, 1)], addresses: listed(&[FIRST]) }).await;
    assert!(ports.servers.values().all(|server| server.complaint.is_some()));
    drop(blocker);
    let (sender, receiver) = crate::health::check_channel();
    let running = tokio::spawn(ports.run(receiver));
    tokio::time::sleep(RETRY + Duration::from_secs(1)).await;
    assert!(get(FIRST, taken).await.is_some());
    drop(sender);
    running.await.expect("it ends with its sender");
}
