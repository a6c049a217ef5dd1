//! Kubernetes Events, as an API server gets them.

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portway::controller::Repair;
use portway::events::{self, EventWanted, Rate, Recorder};
use portway::model::ObjectKey;
use portway::source::{KubeOptions, KubeSource};
use serde_json::{Value, json};
use support::api_double::{ApiDouble, Written};
use support::follower;
use support::netns::in_netns;

const LIMIT: Duration = Duration::from_secs(20);

/// An Event without what differs every time.
fn lasting(written: &Written) -> Value {
    let mut event = written.body.clone();
    let object = event.as_object_mut().expect("an object");
    assert!(object.remove("eventTime").is_some_and(|time| time.as_str().is_some_and(|time| time.contains('.'))));
    object.remove("metadata");
    event
}

#[tokio::test]
async fn fields_and_series() {
    let double = ApiDouble::start().await;
    let access = KubeOptions { master: Some(double.url()), ..KubeOptions::default() };
    let client = KubeSource::connect(&access, "n1", None).await.expect("a client").client();
    let (sink, queue) = events::queue();
    tokio::spawn(Recorder::new(client, "n1", "host-1", Rate::new(None, 1)).run(queue));

    sink.wanted(EventWanted::Starting);
    let failed = |port| EventWanted::ServiceHealthCheckFailed {
        service: ObjectKey::new("shop", "web"),
        port,
        cause: "in use".to_owned(),
    };
    for port in [30_000, 30_000, 30_000, 30_001] {
        sink.wanted(failed(port));
    }
    let repair = Repair { added: 2, deleted: 0, by: Some("nft (pid 7)".to_owned()) };
    sink.wanted(EventWanted::TablesRepaired { repair });
    sink.flush(LIMIT).await;
    let mut all = double.written();
    let repaired = all.pop().expect("written");
    let note = "the nftables tables of Portway were changed by nft (pid 7); put right: 2 elements added, 0 deleted";
    assert_eq!((&repaired.body["reason"], &repaired.body["note"]), (&json!("TablesRepaired"), &json!(note)));
    assert_eq!((&repaired.body["type"], &repaired.body["regarding"]["kind"]), (&json!("Warning"), &json!("Node")));
    assert_eq!(all.iter().map(|one| &*one.method).collect::<Vec<_>>(), ["POST", "POST", "PATCH", "PATCH", "PATCH"]);

    assert_eq!(all[0].path, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert!(all[0].body["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("n1.")), "{:?}", all[0]);
    let starting = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "action": "StartKubeProxy",
        "reason": "Starting", "type": "Normal", "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-host-1",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    assert_eq!(lasting(&all[0]), starting);

    let path = "/apis/events.k8s.io/v1/namespaces/shop/events";
    assert_eq!(all[1].path, path);
    let note = "node n1 failed to start the health check of shop/web on port 30000: in use";
    let refused = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "action": "Listen", "note": note,
        "reason": "FailedToStartServiceHealthcheck", "type": "Warning", "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-host-1",
        "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"}});
    assert_eq!(lasting(&all[1]), refused);

    let name = all[1].body["metadata"]["name"].as_str().expect("a name");
    for (written, count) in all[2..].iter().zip(2..) {
        assert_eq!(written.path, format!("{path}/{name}"));
        assert_eq!(written.body["series"]["count"], count);
    }
}

/// Thousands of nodes find the same fault.
#[tokio::test]
async fn what_all_nodes_find_is_one_event() {
    let double = ApiDouble::start().await;
    let mut sinks = Vec::new();
    for node in ["n1", "n2"] {
        let access = KubeOptions { master: Some(double.url()), ..KubeOptions::default() };
        let client = KubeSource::connect(&access, node, None).await.expect("a client").client();
        let (sink, queue) = events::queue();
        tokio::spawn(Recorder::new(client, node, node, Rate::new(None, 1)).run(queue));
        sinks.push(sink);
    }
    let fault = |note: &str| EventWanted::ServiceFault {
        service: ObjectKey::new("shop", "web"),
        reason: "PortConflict",
        note: note.to_owned(),
    };
    for (sink, notes) in sinks.iter().zip([&["one", "two"][..], &["one", "one", "two"]]) {
        notes.iter().for_each(|note| sink.wanted(fault(note)));
        sink.flush(LIMIT).await;
    }
    let all = double.written();
    let notes: Vec<&Value> = all.iter().map(|one| &one.body["note"]).collect();
    assert_eq!(notes, [&json!("one"), &json!("two")], "nothing of a node, and each once");
    assert_eq!(all[0].path, "/apis/events.k8s.io/v1/namespaces/shop/events");
    assert!(all[0].body["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("web.")), "{:?}", all[0]);
    let expected = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "action": "Sync", "note": "one",
        "reason": "PortConflict", "type": "Warning", "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-n1",
        "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"}});
    assert_eq!(lasting(&all[0]), expected);
}

#[test]
fn a_process_that_gives_up_says_why_first() {
    let give_up = async {
        let double = ApiDouble::start().await;
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway")])
            .args(["run", "--hostname-override=n1", "--bind-address-hard-fail", "--healthz-bind-address="])
            .args([format!("--metrics-bind-address={address}"), format!("--master={}", double.url())])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic").expect("an end");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("the metrics server cannot listen"), "{log}");
        let written = double.written();
        let found = written.iter().find(|one| one.body["reason"] == "FailedToStartMetricServer");
        let found = found.unwrap_or_else(|| panic!("no Event of it: {written:?}"));
        assert_eq!((&found.body["type"], &found.body["action"]), (&json!("Warning"), &json!("StartKubeProxy")));
        assert!(found.body["note"].as_str().is_some_and(|note| note.contains("in use")), "{found:?}");
    };
    in_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(give_up);
    });
}

/// A port that is taken is told once, though it is tried again and again.
#[test]
fn a_node_port_that_is_taken_on_localhost() {
    let taken = async {
        let double = ApiDouble::start().await;
        follower::fill(&double);
        let mut service = follower::service("till", "10.96.0.9");
        service["spec"]["type"] = json!("NodePort");
        service["spec"]["ports"] = json!([
            {"name": "web", "port": 80, "protocol": "TCP", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
        double.put(service);
        let mut slice = follower::slice("till-1", "till", "10.244.0.9");
        slice["ports"] = json!([
            {"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        double.put(slice);
        let _taken = (
            TcpListener::bind("127.0.0.1:30080").expect("a port"),
            UdpSocket::bind("127.0.0.1:30053").expect("a port"),
        );
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway")])
            .args(["run", "--hostname-override=node-1", "--nodeport-addresses=localhost", "--admin-socket="])
            .arg(format!("--master={}", double.url()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv (util-linux)");
        let told = || {
            let told = double.written().into_iter().filter(|one| one.body["reason"] == "FailedToListenOnLocalhost");
            told.collect::<Vec<_>>()
        };
        let give_up = Instant::now() + LIMIT;
        while told().len() < 2 && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // It is tried again after 5 s.
        tokio::time::sleep(Duration::from_secs(6)).await;
        child.kill().expect("it runs");
        child.wait().expect("ended");
        // Events of one reason about one object are a series.
        let told = told();
        let [first, second] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&*first.method, &*second.method), ("POST", "PATCH"));
        assert_eq!(first.path, "/apis/events.k8s.io/v1/namespaces/ns/events");
        assert_eq!((&first.body["regarding"]["name"], &first.body["type"]), (&json!("till"), &json!("Warning")));
        let note = first.body["note"].as_str().unwrap_or_default();
        let start = |port| format!("node node-1 cannot serve the NodePort of ns/till on 127.0.0.1:{port}: ");
        let names_port = ["30080/TCP", "30053/UDP"].iter().any(|port| note.starts_with(&start(port)));
        assert!(names_port && note.contains("in use"), "{note}");
        assert_eq!(second.body["series"]["count"], 2);
    };
    in_netns(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(taken);
    });
}
