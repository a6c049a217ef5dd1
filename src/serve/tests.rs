use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::events;
use crate::model::Family;

fn sources(events: EventSink) -> Sources {
    let health = Health::new(Duration::from_secs(30), Family::ALL);
    Sources { metrics: Metrics::new(), health, log: None, events }
}

fn nowhere() -> ServeOptions {
    ServeOptions { health: None, metrics: None, ..ServeOptions::default() }
}

fn exchange(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).expect("a server");
    // A server that has read enough hangs up.
    stream.write_all(request.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_taken_port_is_fatal_when_it_shall_be() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let (events, mut queue) = events::queue();
    let options = ServeOptions { metrics: Some(address), hard_fail: true, ..nowhere() };
    let error = serve(options, sources(events)).await;
    assert_eq!((error.name, error.address), ("metrics", address));
    let wanted = queue.take();
    assert!(
        matches!(&wanted[..], [EventWanted::MetricsServerFailed { cause }] if cause.contains("in use")),
        "{wanted:?}"
    );
}

#[tokio::test]
async fn a_taken_port_is_tried_again_otherwise() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let server = tokio::spawn(serve(ServeOptions { health: Some(address), ..nowhere() }, sources(events::queue().0)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!server.is_finished());
    drop(taken);
    tokio::time::sleep(RETRY + Duration::from_millis(200)).await;
    let ask = move || exchange(address, "GET /livez HTTP/1.0\r\n\r\n".to_owned());
    let answer = tokio::task::spawn_blocking(ask).await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    server.abort();
}

#[tokio::test]
async fn nobody_may_send_a_long_head() {
    let listener = listen::on(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = HealthPort::new(&sources(events::queue().0));
    let server = tokio::spawn(accept::serve::<(), _>(listener, routes, Places::default()));
    for head in [format!("A: {}\r\n", "a".repeat(100_000)), "A: a\r\n".repeat(80)] {
        let ask = move || exchange(address, format!("GET /livez HTTP/1.1\r\nHost: x\r\n{head}\r\n"));
        let answer = tokio::task::spawn_blocking(ask).await.expect("no panic");
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let ask = move || exchange(address, "GET /livez HTTP/1.0\r\n\r\n".to_owned());
    let answer = tokio::task::spawn_blocking(ask).await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "the server lives on: {answer}");
    server.abort();
}
