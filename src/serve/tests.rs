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
    let error = serve_metrics(options, sources(events)).await;
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
    let options = ServeOptions { health: Some(address), ..nowhere() };
    let server = tokio::spawn(serve_health(options, sources(events::queue().0)));
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
    let server = tokio::spawn(accept::serve::<(), _>(listener, routes, ConnectionSlots::default()));
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

/// A frontend's counters, which the kernel does not hand out before somebody lets it.
fn slow_counters(metrics: &Metrics) -> (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (asks, asked) = std::sync::mpsc::channel();
    let (lets, let_go) = std::sync::mpsc::channel::<()>();
    let read = move |_| {
        asks.send(()).expect("the test runs");
        // Until the test ends at the latest.
        let_go.recv().ok();
        Ok(Vec::new())
    };
    metrics.show_frontends(read, &[Family::Ipv4], 10);
    (asked, lets)
}

fn free_port() -> SocketAddr {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("an address")
}

fn patient_exchange(address: SocketAddr, request: &str) -> String {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(std::time::Instant::now() < deadline, "nobody listens on {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
    exchange(address, request.to_owned())
}

#[test]
fn slow_scrapes_hold_up_nobody_else() {
    let runtimes = Runtimes::new().expect("threads");
    let sources = sources(events::queue().0);
    let (asked, lets) = slow_counters(&sources.metrics);
    let (health, metrics) = (free_port(), free_port());
    let options = ServeOptions { health: Some(health), metrics: Some(metrics), ..nowhere() };
    drop(serve(options, sources, &runtimes));
    assert!(patient_exchange(metrics, "GET /healthz HTTP/1.0\r\n\r\n").ends_with("ok"));

    // More than there are threads of any kind.
    let scrape = move || exchange(metrics, "GET /metrics HTTP/1.0\r\n\r\n".to_owned());
    let scrapes: Vec<_> = (0..16).map(|_| std::thread::spawn(scrape)).collect();
    asked.recv_timeout(Duration::from_secs(20)).expect("the first one reads the kernel");
    std::thread::sleep(Duration::from_millis(200));

    // What follows would wait for ever behind them.
    let (answers, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (address, path) in [(health, "/livez"), (health, "/readyz"), (metrics, "/healthz"), (metrics, "/statusz")] {
            answers.send(patient_exchange(address, &format!("GET {path} HTTP/1.0\r\n\r\n"))).ok();
        }
    });
    for _ in 0..4 {
        let answer = answered.recv_timeout(Duration::from_secs(20)).expect("an answer while scrapes are under way");
        assert!(answer.starts_with("HTTP/1.0 "), "{answer}");
    }
    // So do watches, and whatever else runs there.
    let (ticks, ticked) = std::sync::mpsc::channel();
    runtimes.vital.spawn(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        ticks.send(()).ok();
    });
    ticked.recv_timeout(Duration::from_secs(20)).expect("tasks go on");

    drop(lets);
    for scrape in scrapes {
        assert!(scrape.join().expect("no panic").starts_with("HTTP/1.0 200 OK"));
    }
    runtimes.shut_down();
}

#[tokio::test]
async fn pages_of_gates_that_are_off_are_not_there() {
    for (statusz, has_flagz) in [(true, true), (false, true), (true, false), (false, false)] {
        let options = ServeOptions { statusz, has_flagz, ..nowhere() };
        let port = MetricsPort::new(options, &sources(events::queue().0));
        let listener = listen::on(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(accept::serve::<(), _>(listener, port, ConnectionSlots::default()));
        let ask = move |path| exchange(address, format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (status, flags) =
            tokio::task::spawn_blocking(move || (ask("/statusz"), ask("/flagz"))).await.expect("no panic");
        assert_eq!((status.contains("200 OK"), flags.contains("200 OK")), (statusz, has_flagz), "{status}\n{flags}");
        assert_eq!(status.contains("/flagz"), statusz && has_flagz, "{status}");
        server.abort();
    }
}
