//! The operator's commands while the sync loop has much to do. Needs root.
//!
//! `PORTWAY_BUSY` is the number of Services; 10,000 is what must hold.

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::api_double::ApiDouble;
use support::netns::{in_netns, ip_batch};
use support::node::Program;
use support::scenes::number;
use tokio::runtime::Builder;

/// Services, when nobody says.
const SERVICES: u64 = 1_000;
const ENDPOINTS: u64 = 10;
const SERVER: &str = "127.0.0.1:6443";

fn service(n: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "busy", "name": format!("s{n}")},
        "spec": {"clusterIP": address(n), "clusterIPs": [address(n)], "ports": [{"port": 80}]},
    })
}

fn address(n: u64) -> String {
    format!("10.96.{}.{}", n / 250, n % 250 + 1)
}

fn slice(n: u64, endpoints: u64) -> Value {
    let endpoint = |i: u64| json!({"addresses": [format!("10.{}.{}.{}", 100 + i, n / 250, n % 250 + 1)]});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "busy", "name": format!("s{n}-a"), "labels": {"kubernetes.io/service-name": format!("s{n}")},
        },
        "ports": [{"name": "", "port": 8080}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// What a command says, and how long it took.
fn ask(socket: &str, words: &[&str]) -> (String, Duration) {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_portway")).args(words).args(["--admin-socket", socket]).output();
    let output = output.expect("started");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (text, start.elapsed())
}

#[test]
fn operators_are_answered_on_a_busy_node() {
    in_netns(|| {
        ip_batch("link set lo up").expect("loopback");
        let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let double = ApiDouble::absent();
        double.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        }));
        let services = number("PORTWAY_BUSY", SERVICES);
        for n in 0..services {
            double.put(service(n));
            double.put(slice(n, ENDPOINTS));
        }
        let listening = double.clone();
        let listening = server.spawn(async move { listening.listen(SERVER, None).await });
        futures::executor::block_on(listening).expect("it listens");
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock").to_str().expect("a plain path").to_owned();
        let program = Program::connect_with(&["--master", &format!("http://{SERVER}"), "--admin-socket", &socket]);
        let (text, quiet) = ask(&socket, &["status"]);
        assert!(text.contains("equal to what is desired"), "{text}");
        println!("{services} Services; status takes {quiet:?} when it is quiet");
        for pause in [100, 10] {
            let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut next = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        let count = changes.fetch_add(1, Ordering::Relaxed) as u64;
                        // Always the same Service, and another one.
                        double.put(slice(0, ENDPOINTS - count % 2));
                        double.put(slice(count % services, ENDPOINTS - count / services % 2));
                        next += Duration::from_millis(pause);
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                });
                // Whatever fails, the thread ends.
                let result = std::panic::catch_unwind(|| {
                    for _ in 0..3 {
                        for words in [
                            &["status"][..],
                            &["diff"],
                            &["services"],
                            &["explain", "--from", "10.1.0.1", "10.96.0.5:80"],
                        ] {
                            let (text, took) = ask(&socket, words);
                            println!("every {pause} ms: {words:?} took {took:?}");
                            match words[0] {
                                "status" => assert!(text.contains("equal to what is desired"), "{text}"),
                                "diff" => assert!(!text.contains("element"), "{text}"),
                                "services" => assert!(text.lines().count() as u64 > services, "{text}"),
                                _ => assert!(text.contains("->") && text.contains(":8080"), "{text}"),
                            }
                        }
                    }
                });
                stop.store(true, Ordering::Relaxed);
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
            println!("{} changes", changes.into_inner());
        }
        drop(program);
    });
}
