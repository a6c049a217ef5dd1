//! The source for Kubernetes against a small API server of our own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use portway::model::{Event, Kind, Model, ObjectKey};
use portway::source::{Converter, KubeOptions, KubeSource, Origin};
use serde_json::{Value, json};
use support::api_double::ApiDouble;
use support::api_double::tls::Authority;
use support::follower::{Follower, fill, filled, labelled, names, service, slice};
use tokio::time::timeout;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

#[tokio::test]
async fn streaming_lists_then_changes() {
    let double = filled().await;
    double.put(service("headless", "None"));
    double.put(labelled(service("foreign", "10.96.0.9"), PROXY_NAME, ""));
    double.put(labelled(slice("h-1", "headless", "10.244.0.9"), "service.kubernetes.io/headless", ""));
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert_eq!(names(&running.model), ["a"]);
    assert_eq!(running.model.slice_count(), 1);
    assert_eq!(running.model.node().map(|node| node.name.to_string()), Some("node-1".into()));
    assert_eq!(running.model.service_cidrs().len(), 1);
    let list = running.batches.iter().find(|batch| batch[0] == Event::ListStarted(Kind::Service)).expect("a list");
    assert_eq!((list.len(), list.last()), (3, Some(&Event::ListDone(Kind::Service))), "a list is one batch");

    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    double.put(service("b", "10.96.0.3"));
    let key = ObjectKey::new("ns", "b");
    let moved = |model: &Model| model.service(&key).is_some_and(|s| s.cluster_ips[0].to_string() == "10.96.0.3");
    running.until("b changed", moved).await;
    double.delete("services", "ns", "b");
    running.services(&["a"]).await;
    double.put(slice("a-2", "a", "10.244.0.2"));
    running.until("two slices", |model| model.slice_count() == 2).await;
}

#[tokio::test]
async fn every_field_arrives_by_watches_and_by_lists() {
    let mut full = slice("a-2", "a", "10.244.0.2");
    full["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z", "other": "x"});
    full["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:endpoints": {}}}]);
    full["endpoints"][0]["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    full["endpoints"][0]["hints"] = json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "node-1"}]});
    let mut dressed = service("full", "10.96.0.8");
    dressed["spec"] = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"],
        "ipFamilies": ["IPv4"], "externalIPs": ["192.0.2.8"], "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
        "ports": [{"name": "p", "port": 80, "nodePort": 30080, "protocol": "UDP"}]});
    dressed["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "Proxy"}]}});
    let mut converter = Converter::new(Origin::Api, "node-1");
    let wanted = [
        converter.slice(&serde_json::from_value(full.clone()).expect("a slice")).event.expect("an event"),
        converter.service(&serde_json::from_value(dressed.clone()).expect("a Service")).event.expect("an event"),
    ];
    assert!(format!("{wanted:?}").contains("changed_at: Some"), "{wanted:?}");
    for streaming in [true, false] {
        let double = filled().await;
        if !streaming {
            double.refuse_streaming();
        }
        double.put(full.clone());
        double.put(dressed.clone());
        let mut running = Follower::start(&double).await;
        running.listed().await;
        let came: Vec<&Event> = running.batches.iter().flatten().collect();
        for event in &wanted {
            assert!(came.contains(&event), "{event:?} is not among {came:?}");
        }
    }
}

#[tokio::test]
async fn requests_carry_the_selectors_and_our_name() {
    let double = filled().await;
    Follower::start(&double).await.listed().await;
    let first = |plural: &str| double.requests(plural).remove(0);
    let services = first("services");
    assert_eq!(services.path, "/api/v1/services");
    assert_eq!(services.param("labelSelector"), "!service.kubernetes.io/service-proxy-name");
    assert_eq!(services.param("fieldSelector"), "spec.clusterIP!=None");
    assert_eq!(services.user_agent, concat!("portway/", env!("CARGO_PKG_VERSION")));
    assert!(services.is_streaming_list() && services.param("allowWatchBookmarks") == "true");
    let slices = first("endpointslices");
    assert_eq!(slices.path, "/apis/discovery.k8s.io/v1/endpointslices");
    assert_eq!(slices.param("labelSelector"), "!service.kubernetes.io/headless");
    assert_eq!(slices.param("fieldSelector"), "");
    assert_eq!(first("nodes").param("fieldSelector"), "metadata.name=node-1");
    let cidrs = first("servicecidrs");
    assert_eq!((cidrs.path.as_str(), cidrs.param("labelSelector")), ("/apis/networking.k8s.io/v1/servicecidrs", ""));
}

#[tokio::test]
async fn a_proxy_with_a_name_serves_the_services_labelled_with_it() {
    let double = filled().await;
    double.put(labelled(service("ours", "10.96.0.7"), PROXY_NAME, "portway"));
    double.put(labelled(service("other", "10.96.0.8"), PROXY_NAME, "another"));
    let options = KubeOptions { master: Some(double.url()), ..KubeOptions::default() };
    let source = KubeSource::connect(&options, "node-1", None).await.expect("a client");
    let mut running = Follower::run(source.serving(Some("portway".into())));
    running.listed().await;
    assert_eq!(names(&running.model), ["ours"]);
    assert_eq!(double.requests("services")[0].param("labelSelector"), format!("{PROXY_NAME}=portway"));

    double.put(labelled(service("a", "10.96.0.1"), PROXY_NAME, "portway"));
    running.services(&["a", "ours"]).await;
    double.put(labelled(service("ours", "10.96.0.7"), PROXY_NAME, "another"));
    running.services(&["a"]).await;
}

#[tokio::test]
async fn objects_that_leave_the_selector_are_deleted() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    double.put(labelled(service("a", "10.96.0.1"), PROXY_NAME, ""));
    running.services(&[]).await;
    double.put(service("a", "10.96.0.1"));
    running.services(&["a"]).await;
    double.put(service("a", "None"));
    running.services(&[]).await;

    double.put(labelled(slice("a-1", "a", "10.244.0.1"), "service.kubernetes.io/headless", ""));
    running.until("no slice", |model| model.slice_count() == 0).await;
    double.put(slice("a-1", "a", "10.244.0.1"));
    running.until("a slice", |model| model.slice_count() == 1).await;
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_plain_ones() {
    let double = filled().await;
    double.refuse_streaming();
    for number in 0..1200 {
        double.put(service(&format!("s{number:04}"), &format!("10.97.{}.{}", number / 250, 1 + number % 250)));
    }
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert_eq!(names(&running.model).len(), 1201);
    let requests = double.requests("services");
    let lists: Vec<_> = requests.iter().filter(|request| request.is_plain_list()).collect();
    assert_eq!(lists.len(), 1);
    let asked = ["limit", "resourceVersion", "resourceVersionMatch"].map(|name| lists[0].param(name));
    assert_eq!(asked, ["", "0", "NotOlderThan"], "out of the watch cache, and not of etcd");
    assert!(
        requests.iter().all(|request| request.param("labelSelector") == "!service.kubernetes.io/service-proxy-name")
    );
    assert_eq!(running.count(&Event::ListStarted(Kind::Service)), 1);
    double.delete("services", "ns", "s0000");
    running.until("one less", |model| names(model).len() == 1200).await;
    assert_eq!(running.stats.errors.load(Ordering::Relaxed), 0, "a refusal is no failure");
}

#[tokio::test]
async fn a_streaming_list_that_never_ends_is_given_up() {
    let double = filled().await;
    double.withhold_bookmarks();
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert_eq!(names(&running.model), ["a"]);
    assert!(double.requests("services").iter().any(|request| request.is_plain_list()));
}

#[tokio::test]
async fn a_dropped_connection_is_resumed_without_a_list() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    double.drop_connections();
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    let requests = double.requests("services");
    assert_eq!(requests.iter().filter(|request| request.is_streaming_list()).count(), 1);
    assert!(requests.iter().any(|request| request.is_watch()), "{requests:?}");
    assert_eq!(running.count(&Event::ListStarted(Kind::Service)), 1);
}

#[tokio::test]
async fn a_lost_history_leads_to_a_new_list_that_sweeps() {
    let double = filled().await;
    double.put(service("gone", "10.96.0.7"));
    let mut running = Follower::start(&double).await;
    running.listed().await;
    running.services(&["a", "gone"]).await;
    // Before the source can watch on, its version is too old: what happened in between is only in the list.
    double.fail("services", 500, 2);
    double.drop_connections();
    double.delete("services", "ns", "gone");
    double.put(service("new", "10.96.0.8"));
    double.expire();
    running.services(&["a", "new"]).await;
    assert_eq!(running.count(&Event::ListStarted(Kind::Service)), 2);
    assert!(running.stats.errors.load(Ordering::Relaxed) >= 1);
}

#[tokio::test]
async fn a_version_refused_at_once_leads_to_a_new_list() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    double.fail("services", 410, 1);
    double.drop_connections();
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    assert_eq!(running.count(&Event::ListStarted(Kind::Service)), 2);
}

#[tokio::test]
async fn a_server_that_loses_streaming_lists_is_asked_for_plain_ones_from_then_on() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    double.refuse_streaming();
    double.fail("services", 410, 1);
    double.drop_connections();
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    assert!(double.requests("services").iter().any(|request| request.is_plain_list()));
}

#[tokio::test]
async fn a_version_refused_after_a_plain_list_leads_to_a_new_one() {
    let double = filled().await;
    double.refuse_streaming();
    let mut running = Follower::start(&double).await;
    running.listed().await;
    double.fail("services", 400, 1);
    double.drop_connections();
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    assert_eq!(running.count(&Event::ListStarted(Kind::Service)), 2);
}

#[tokio::test]
async fn garbage_spoils_nothing_but_itself() {
    let double = filled().await;
    let mut broken = service("broken", "10.96.0.5");
    broken["spec"]["ports"] = json!("eighty");
    double.put(broken);
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert_eq!(names(&running.model), ["a"]);
    assert_eq!(running.stats.skipped.load(Ordering::Relaxed), 1);
    // A change that cannot be read leaves the last good version in force.
    let mut broken = service("a", "10.96.0.1");
    broken["spec"]["clusterIPs"] = json!({"not": "a list"});
    double.put(broken);
    double.send_raw("services", "{\"type\":\"ADDED\",\"object\":7}");
    double.send_raw("services", "this is not JSON");
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    double.put(service("broken", "10.96.0.5"));
    running.services(&["a", "b", "broken"]).await;
    // A bad value inside is reported, the rest is used.
    let mut odd = service("odd", "10.96.0.6");
    odd["spec"]["externalIPs"] = json!(["nonsense", "192.0.2.7"]);
    double.put(odd);
    running.services(&["a", "b", "broken", "odd"]).await;
    let key = ObjectKey::new("ns", "odd");
    assert_eq!(running.model.service(&key).map(|service| service.external_ips.len()), Some(1));
    assert!(running.stats.problems.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn an_old_server_has_no_service_cidrs() {
    let double = filled().await;
    double.hide("servicecidrs", true);
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert!(running.model.service_cidrs().is_empty());
    assert_eq!(double.requests("servicecidrs").len(), 1, "not asked again soon");
    assert_eq!(running.stats.errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn refusals_are_retried() {
    let double = filled().await;
    double.fail("endpointslices", 403, 2);
    double.fail("nodes", 401, 1);
    let mut running = Follower::start(&double).await;
    running.listed().await;
    assert_eq!(running.model.slice_count(), 1);
    assert!(double.requests("endpointslices").iter().all(|request| request.is_streaming_list()), "a 403 is no refusal");
}

#[tokio::test]
async fn the_source_ends_with_its_receiver() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    drop(running.receiver);
    let ended = timeout(Duration::from_secs(5), running.task).await.expect("in time");
    ended.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_kubeconfig_is_read_and_a_master_overrides_it() {
    let double = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let text =
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
        clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}";
    std::fs::write(&path, text).expect("written");
    let options = KubeOptions { kubeconfig: Some(path), master: Some(double.url()), ..KubeOptions::default() };
    Follower::connect(options).await.listed().await;
}

#[tokio::test]
async fn a_token_file_may_end_with_a_newline() {
    let double = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (path, token) = (folder.path().join("config"), folder.path().join("token"));
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}],
        clusters: [{{name: k, cluster: {{server: '{}'}}}}], users: [{{name: u, user: {{tokenFile: {}}}}}]}}",
        double.url(),
        token.display()
    );
    std::fs::write(&path, text).expect("written");
    let options = KubeOptions { kubeconfig: Some(path), ..KubeOptions::default() };
    let missing = KubeSource::connect(&options, "node-1", None).await.err().expect("no token").to_string();
    assert!(missing.contains("cannot use the token in ") && missing.contains("/token"), "{missing}");
    std::fs::write(&token, "secret\n").expect("written");
    let source = KubeSource::connect(&options, "node-1", None).await.expect("a client");
    Follower::run(source).listed().await;
    assert!(double.requests("services").iter().all(|request| request.authorization == "Bearer secret"));
}

/// A proxy that takes everybody, for any name, to one address. Returns its own, and the heads of requests.
fn proxy_to(server: SocketAddr) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sender, heads) = std::sync::mpsc::channel();
    let pipe = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Write).ok();
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                client.read_exact(&mut byte).expect("a head");
                head.push(byte[0]);
            }
            sender.send(String::from_utf8(head).expect("text")).ok();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("written");
            let server = TcpStream::connect(server).expect("the server");
            pipe(client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
            pipe(server, client);
        }
    });
    (address, heads)
}

#[tokio::test]
async fn a_proxy_of_the_kubeconfig_is_the_way_to_the_server() {
    let authority = Authority::create();
    // Nobody but the proxy knows where that name is.
    let double = ApiDouble::start_tls(authority.server("api.invalid", None)).await;
    fill(&double);
    let address = double.url().trim_start_matches("https://").parse().expect("an address");
    let (proxy, heads) = proxy_to(address);
    let folder = tempfile::tempdir().expect("a folder");
    let path = authority.write_kubeconfig(folder.path(), "https://api.invalid:6443", json!({"token": "t"}));
    let mut kubeconfig: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
    kubeconfig["clusters"][0]["cluster"]["proxy-url"] = json!(format!("http://me:secret@{proxy}"));
    std::fs::write(&path, kubeconfig.to_string()).expect("written");
    let options = KubeOptions { kubeconfig: Some(path), ..KubeOptions::default() };
    let mut running = Follower::connect(options).await;
    running.listed().await;
    double.put(service("b", "10.96.0.2"));
    running.services(&["a", "b"]).await;
    let head = heads.try_recv().expect("a request");
    assert!(head.starts_with("CONNECT api.invalid:6443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n") && !head.contains("Bearer"), "{head}");
}

#[tokio::test]
async fn a_wrong_configuration_says_what_to_correct() {
    let connect = async |kubeconfig: Option<&str>, master: Option<&str>| {
        let (kubeconfig, master) = (kubeconfig.map(Into::into), master.map(Into::into));
        let options = KubeOptions { kubeconfig, master, ..KubeOptions::default() };
        KubeSource::connect(&options, "node-1", None).await.err().expect("an error").to_string()
    };
    assert!(connect(Some("/nowhere/config"), None).await.contains("cannot use the kubeconfig /nowhere/config"));
    assert!(connect(None, Some("ftp://x")).await.contains("is not a URL"));
    assert!(connect(None, None).await.contains("no kubeconfig and no master given"));
}

/// All Nodes are read only where direct return needs their addresses.
#[tokio::test]
async fn addresses_of_all_nodes_where_they_are_wanted() {
    let double = filled().await;
    let mut running = Follower::start(&double).await;
    running.listed().await;
    let fields = |double: &ApiDouble| -> Vec<bool> {
        double.requests("nodes").iter().map(|seen| seen.param("fieldSelector").is_empty()).collect()
    };
    assert!(fields(&double).iter().all(|all| !all), "only our own");
    assert!(running.model.addresses_of("node-2").is_empty());
    drop(running);

    let options = KubeOptions { kubeconfig: None, master: Some(double.url()), timing: support::follower::fast() };
    let source = KubeSource::connect(&options, "node-1", None).await.expect("a client").with_all_nodes(true);
    let mut running = Follower::run(source);
    running.listed().await;
    running.until("all Nodes listed", |model| model.has_listed(Kind::NodeAddresses)).await;
    let of = |model: &Model, name: &str| model.addresses_of(name).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(of(&running.model, "node-2"), ["192.0.2.1"]);
    assert_eq!(running.model.node().map(|node| node.name.to_string()), Some("node-1".into()));
    let mut moved = support::follower::node("node-2");
    moved["status"]["addresses"] = json!([{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "fd00::2"},
        {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "ExternalIP", "address": "198.51.100.2"}]);
    double.put(moved);
    running.until("another address", |model| of(model, "node-2") == ["fd00::2", "192.0.2.2"]).await;
    double.delete("nodes", "", "node-2");
    running.until("gone", |model| of(model, "node-2").is_empty()).await;
    assert!(running.model.node().is_some_and(|node| &*node.name == "node-1"), "our own stays");
    assert!(running.stats.present().is_empty());
}
