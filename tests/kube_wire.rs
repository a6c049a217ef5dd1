//! What goes over the wire to the API server: connections, protocols, bytes, and how a dead one is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Version;
use portway::source::{KubeOptions, Timing};
use serde_json::{Value, json};
use support::api_double::ApiDouble;
use support::api_double::compress::Gzip;
use support::api_double::tls::Authority;
use support::follower::{Follower, fast, fill, names, service, slice};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const KINDS: [&str; 4] = ["services", "endpointslices", "nodes", "servicecidrs"];

/// A server with TLS, a client's options for it, and the folder these need.
async fn secure(tls: impl FnOnce(&Authority) -> TlsAcceptor) -> (ApiDouble, KubeOptions, tempfile::TempDir) {
    let authority = Authority::create();
    let double = ApiDouble::start_tls(tls(&authority)).await;
    fill(&double);
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = authority.write_kubeconfig(folder.path(), &double.url(), json!({"token": "t"}));
    (double, KubeOptions { kubeconfig: Some(kubeconfig), timing: fast(), ..KubeOptions::default() }, folder)
}

fn http2(authority: &Authority) -> TlsAcceptor {
    authority.server("127.0.0.1", None)
}

fn versions(double: &ApiDouble) -> Vec<Version> {
    KINDS.iter().flat_map(|plural| double.requests(plural)).map(|request| request.http).collect()
}

#[tokio::test]
async fn one_connection_carries_all_watches_and_those_that_follow_them() {
    let (double, mut options, _folder) = secure(http2).await;
    options.timing.watch = Duration::from_secs(2);
    let mut follower = Follower::connect(options).await;
    follower.listed().await;
    let [accepted, open, ..] = double.traffic().now();
    assert_eq!((accepted, open), (1, 1));
    // The server ends all watches in an orderly way, again and again.
    double.deliver(support::api_double::delivery::Delivery::Brief);
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
    follower.follow_for(Duration::from_secs(2)).await;
    double.deliver(support::api_double::delivery::Delivery::Good);
    double.put(service("c", "10.96.0.3"));
    follower.services(&["a", "b", "c"]).await;
    let [accepted, open, ..] = double.traffic().now();
    assert_eq!((accepted, open), (1, 1));
    assert!(versions(&double).iter().all(|version| *version == Version::HTTP_2));
    assert!(double.requests("services").len() > 2);
    // After a break there is one again.
    double.drop_connections();
    double.put(service("d", "10.96.0.4"));
    follower.services(&["a", "b", "c", "d"]).await;
    follower.follow_for(Duration::from_millis(500)).await;
    let [accepted, open, ..] = double.traffic().now();
    assert_eq!((accepted, open), (2, 1), "all watches wait for the one that goes ahead");
}

#[tokio::test]
async fn servers_without_http2_are_spoken_to_in_http1() {
    let (double, options, _folder) = secure(|authority| authority.old_server("127.0.0.1")).await;
    let mut follower = Follower::connect(options).await;
    follower.listed().await;
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
    assert!(versions(&double).iter().all(|version| *version == Version::HTTP_11));
    assert_eq!(double.traffic().now()[1], 4, "a connection for each watch");
}

/// Takes connections to a server, and stays alive when the way behind it is dead.
async fn balancer(server: std::net::SocketAddr, dead: Arc<AtomicBool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let dead = dead.clone();
            // A connection stays with the server it began with: when that dies, it is dead for good.
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(server).await else { return };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let died = Arc::new(AtomicBool::new(false));
                tokio::join!(
                    pass_on(from_client, to_server, dead.clone(), died.clone()),
                    pass_on(from_server, to_client, dead, died)
                );
            });
        }
    });
    address
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    dead: Arc<AtomicBool>,
    died: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if dead.load(Ordering::Relaxed) {
            died.store(true, Ordering::Relaxed);
        }
        if !died.load(Ordering::Relaxed) && to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_server_that_dies_behind_a_balancer_that_lives_is_noticed_by_pings() {
    let timing = Timing::default();
    assert!(timing.ping * 2 + timing.retry_policy.spread <= Duration::from_secs(45), "what operators are told");

    let (double, mut options, _folder) = secure(http2).await;
    let dead = Arc::new(AtomicBool::new(false));
    let address = balancer(double.address(), dead.clone()).await;
    options.master = Some(format!("https://{address}"));
    options.timing = Timing { ping: Duration::from_secs(1), ..Timing::default() };
    let mut follower = Follower::connect(options).await;
    follower.listed().await;
    // Idle is not dead.
    follower.follow_for(Duration::from_secs(3)).await;
    assert_eq!((follower.errors(), double.traffic().now()[0]), (0, 1));

    dead.store(true, Ordering::Relaxed);
    let died = Instant::now();
    follower.follow_until("the death is noticed", |stats| stats.errors.load(Ordering::Relaxed) >= 1).await;
    assert!(died.elapsed() < Duration::from_secs(10), "noticed by something else than pings: {:?}", died.elapsed());
    dead.store(false, Ordering::Relaxed);
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
}

/// A cluster of some size, with what real objects carry.
fn grow(double: &ApiDouble, services: usize) {
    let managed = json!([{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {".": {},
        "f:app": {}}}, "f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {}, "k:{\"port\":80}": {".": {},
        "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}}, "f:selector": {}}}}]);
    for number in 0..services {
        let name = format!("web-{number}");
        let mut object = service(&name, &format!("10.97.{}.{}", number / 250, 1 + number % 250));
        object["metadata"]["managedFields"] = managed.clone();
        double.put(object);
        let mut object = slice(&format!("{name}-x"), &name, "10.244.1.1");
        object["metadata"]["managedFields"] = managed.clone();
        let endpoint = object["endpoints"][0].clone();
        let endpoints = (0..10).map(|endpoint_number| {
            let mut endpoint = endpoint.clone();
            endpoint["addresses"] = json!([format!("10.245.{endpoint_number}.{}", 1 + number % 250)]);
            endpoint
        });
        object["endpoints"] = endpoints.collect::<Value>();
        double.put(object);
    }
}

/// Everything arrives, by lists and by changes after them; returns sockets and bytes sent for the lists.
async fn arrives(gzip: Gzip, slim: bool, streaming: bool, tls: impl FnOnce(&Authority) -> TlsAcceptor) -> (u64, u64) {
    let (double, options, _folder) = secure(tls).await;
    double.compress(gzip);
    if slim {
        double.drop_managed_fields();
    }
    if !streaming {
        double.refuse_streaming();
    }
    grow(&double, 200);
    let mut follower = Follower::connect(KubeOptions { timing: Timing::default(), ..options }).await;
    follower.listed().await;
    follower.follow_for(Duration::from_millis(100)).await;
    let [_, open, sent, _] = double.traffic().now();
    assert_eq!(names(&follower.model).len(), 201);
    // What is flushed arrives at once, and not with the next event.
    for number in 0..3 {
        double.put(service(&format!("late-{number}"), &format!("10.98.0.{number}")));
        follower.until("a change by itself", |model| names(model).len() == 202 + number).await;
    }
    double.bookmark("services");
    double.delete("services", "ns", "late-0");
    follower.until("one less", |model| names(model).len() == 203).await;
    assert_eq!(follower.errors(), 0);
    (open, sent)
}

#[tokio::test]
async fn lists_arrive_compressed_in_every_way_servers_do_it_and_cost_less() {
    let old = |authority: &Authority| authority.old_server("127.0.0.1");
    let before = arrives(Gzip::Never, false, true, old).await;
    println!("HTTP/1.1, as it was: sockets and bytes {before:?}");
    let plain = arrives(Gzip::Never, false, true, http2).await;
    println!("HTTP/2, Kubernetes up to 1.36: {plain:?}");
    let slim = arrives(Gzip::Never, true, true, http2).await;
    println!("HTTP/2, without managedFields: {slim:?}");
    let members = arrives(Gzip::Members, false, true, http2).await;
    println!("HTTP/2, gzip of each event (1.37): {members:?}");
    let both = arrives(Gzip::Members, true, true, http2).await;
    println!("HTTP/2, gzip of each event, without managedFields: {both:?}");
    let flushed = arrives(Gzip::Flushed, true, true, http2).await;
    println!("HTTP/2, one gzip stream, without managedFields: {flushed:?}");
    let lists = arrives(Gzip::Lists, false, false, http2).await;
    println!("HTTP/2, plain lists with gzip: {lists:?}");
    arrives(Gzip::Members, true, true, old).await;
    assert_eq!((before.0, plain.0), (4, 1));
    assert!(slim.1 < plain.1 * 9 / 10 && members.1 < plain.1 / 2 && both.1 < members.1 && flushed.1 < both.1);
    assert!(lists.1 < plain.1 / 4);
}

#[tokio::test]
async fn servers_are_asked_to_leave_out_managed_fields() {
    let (double, options, _folder) = secure(http2).await;
    Follower::connect(options).await.listed().await;
    for plural in KINDS {
        let requests = double.requests(plural);
        let accept = "application/json;drop=metadata.managedFields,application/json";
        assert!(requests.iter().all(|request| request.accept == accept), "{requests:?}");
    }
}
