use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{EndpointSlice, Event, ObjectKey, Protocol, Service, ServicePort, ServiceType};
use crate::plan::FrontendKey;
use crate::ruleset::{FakeKernel, Intercepted, SetId};
use crate::testing::{self, added, added_slice, endpoint, listed, service_port};

fn service(n: u8, local: bool) -> Event {
    added(Service {
        service_type: ServiceType::NodePort,
        external_policy_local: local,
        internal_policy_local: local,
        ports: vec![ServicePort { node_port: Some(30_000 + u16::from(n)), ..service_port("", 80) }],
        ..testing::service(&format!("s{n}"), &format!("10.96.0.{n}"))
    })
}

fn slice(n: u8, node: &str, pods: std::ops::Range<u8>, changed_at: Option<SystemTime>) -> Event {
    let endpoints = pods.map(|pod| endpoint([10, 1, n, pod].into(), node)).collect();
    added_slice(EndpointSlice { endpoints, changed_at, ..testing::slice(&format!("s{n}"), node, &[]) })
}

struct Loop {
    metrics: Arc<Metrics>,
    controller: Controller<Intercepted<FakeKernel, Stopwatch>>,
}

impl Loop {
    fn start(events: Vec<Event>) -> Self {
        let metrics = Metrics::new();
        let kernel = Stopwatch::before(FakeKernel::new(), metrics.clone());
        let (mut controller, _) = Controller::new(kernel, Options::new("n1"));
        controller.observe(MetricsObserver::new(metrics.clone(), &Family::ALL));
        let mut this = Self { metrics, controller };
        this.sync(listed("n1").into_iter().chain(events).collect());
        this
    }

    fn sync(&mut self, events: Vec<Event>) {
        self.controller.handle(events, Instant::now());
    }

    fn fake(&mut self) -> &mut FakeKernel {
        &mut self.controller.kernel().kernel
    }

    /// The value of a sample, as `name{labels}`.
    fn value(&self, sample: &str) -> Option<f64> {
        let text = self.metrics.encode(Format::Prometheus);
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned));
        line.map(|value| value.parse().expect("a number"))
    }

    fn assert_elements_are_right(&mut self) {
        for family in Family::ALL {
            let listing = self.fake().listing(family).expect("a table").clone();
            for set in SetId::ALL.into_iter().filter(|set| !set.spec().dynamic) {
                let counted = self.metrics.table.elements_of(set, family);
                let there = listing.sets.get(&set.into()).map_or(0, BTreeMap::len);
                assert_eq!(counted, there as i64, "{family} {set:?}");
            }
        }
    }
}

#[test]
fn elements_are_counted_by_what_is_written() {
    let mut it = Loop::start(vec![service(1, false), slice(1, "n1", 1..4, None), service(2, true)]);
    it.assert_elements_are_right();
    it.sync(vec![slice(2, "n1", 1..9, None), slice(1, "n2", 2..3, None)]);
    it.assert_elements_are_right();
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "s1")), service(2, false)]);
    it.assert_elements_are_right();
    it.fake().refuse = true;
    it.sync(vec![service(3, false)]);
    it.fake().refuse = false;
    std::thread::sleep(Duration::from_millis(150));
    it.sync(vec![]);
    it.assert_elements_are_right();
}

#[test]
fn both_families_see_each_sync() {
    let mut it = Loop::start(vec![service(1, false)]);
    for family in ["IPv4", "IPv6"] {
        let count = |it: &Loop, kind: &str| {
            it.value(&format!("kubeproxy_sync_{kind}proxy_rules_duration_seconds_count{{ip_family=\"{family}\"}}"))
        };
        it.sync(vec![service(1, family == "IPv4")]);
        let changes = if family == "IPv4" { 1.0 } else { 2.0 };
        assert_eq!(count(&it, ""), Some(1.0 + changes));
        assert_eq!((count(&it, "full_"), count(&it, "partial_")), (Some(1.0), Some(changes)));
    }
    it.sync(vec![]);
    let sample = "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    assert_eq!(it.value(sample), Some(3.0), "nobody asked for the last sync");
}

#[test]
fn failures_are_counted_from_zero() {
    let mut it = Loop::start(vec![service(1, false)]);
    let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}";
    assert_eq!(it.value(failures), Some(0.0), "`increase()` does not see a series that begins at one");
    assert_eq!(it.value("portway_transactions_total{result=\"error\"}"), Some(0.0));
    let cleanup = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv4\"}";
    assert_eq!(it.value(cleanup), Some(0.0));
    it.fake().refuse = true;
    it.sync(vec![service(2, false)]);
    assert_eq!(it.value(failures), Some(1.0));
    assert_eq!(it.value("portway_transactions_total{result=\"error\"}"), Some(1.0));
    assert_eq!(it.value(&failures.replace("IPv4", "IPv6")), Some(0.0), "nothing was refused there");
    assert_eq!(it.value("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"), Some(1.0));
    assert_eq!(it.value("kubeproxy_sync_proxy_rules_service_changes_pending"), Some(0.0), "the sync took them");
}

#[test]
fn services_without_endpoints_here() {
    let mut it = Loop::start(vec![service(1, true), slice(1, "n2", 1..3, None), service(2, true)]);
    let sample = |policy: &str| {
        format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{{traffic_policy=\"{policy}\",ip_family=\"IPv4\"}}")
    };
    let both = |it: &Loop| (it.value(&sample("internal")), it.value(&sample("external")));
    assert_eq!(both(&it), (Some(1.0), Some(1.0)), "a Service without any endpoint does not count");
    assert_eq!(it.value("portway_endpoints{ip_family=\"IPv4\"}"), Some(2.0));
    it.sync(vec![slice(2, "n2", 1..2, None)]);
    assert_eq!(both(&it), (Some(2.0), Some(2.0)));
    it.sync(vec![slice(1, "n1", 1..3, None), service(2, false)]);
    assert_eq!(both(&it), (Some(0.0), Some(0.0)));
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "s1"))]);
    assert_eq!(it.value("portway_endpoints{ip_family=\"IPv4\"}"), Some(1.0));
    assert_eq!(it.value("portway_services"), Some(1.0));
}

#[test]
fn changes_are_counted_once_for_each_family_they_concern() {
    let mut it = Loop::start(vec![service(1, false), slice(1, "n1", 1..2, None)]);
    it.sync(vec![service(1, false), Event::SliceDeleted(ObjectKey::new("ns", "s1-1"))]);
    assert_eq!(it.value("kubeproxy_sync_proxy_rules_service_changes_total"), Some(4.0));
    assert_eq!(it.value("kubeproxy_sync_proxy_rules_endpoint_changes_total"), Some(2.0));
}

#[test]
fn programming_latency() {
    let mut it = Loop::start(vec![service(1, false)]);
    let name = "kubeproxy_network_programming_duration_seconds";
    let count = |it: &Loop| it.value(&format!("{name}_count{{ip_family=\"IPv4\"}}"));
    let ago = |it: &Loop, millis| Some(it.metrics.started() - Duration::from_millis(millis));
    let change = ago(&it, 1);
    it.sync(vec![slice(1, "n1", 1..2, change)]);
    assert_eq!(count(&it), None, "from before the start");
    let now = || Some(SystemTime::now());
    it.sync(vec![slice(1, "n1", 1..3, now())]);
    assert_eq!(count(&it), Some(1.0));
    assert_eq!(it.value(&format!("{name}_count{{ip_family=\"IPv6\"}}")), None, "of the slice's family only");
    it.sync(vec![slice(1, "n1", 1..3, now())]);
    assert_eq!(count(&it), Some(1.0), "no change");
    it.fake().refuse = true;
    it.sync(vec![slice(1, "n1", 1..4, now())]);
    it.fake().refuse = false;
    std::thread::sleep(Duration::from_millis(150));
    it.sync(vec![]);
    assert_eq!(count(&it), Some(1.0), "lost with the sync that failed");
}

#[test]
fn drift() {
    let mut it = Loop::start(vec![service(1, false), slice(1, "n1", 1..4, None)]);
    it.controller.verify();
    assert_eq!(it.value("portway_drift_repairs_total"), Some(0.0));
    it.fake().listing_mut(Family::Ipv4).expect("a table").sets.entry(SetId::Endpoints.into()).or_default().clear();
    it.controller.verify();
    assert_eq!(it.value("portway_drift_repairs_total"), Some(1.0));
    assert_eq!(it.value("portway_drift_repaired_elements_total"), Some(3.0));
    it.assert_elements_are_right();
}

/// The limits of a histogram's buckets.
fn buckets(text: &str, name: &str) -> Vec<String> {
    let start = format!("{name}_bucket{{le=\"");
    let limits = text.lines().filter(|line| line.contains("IPv4") || !line.contains("IPv6"));
    limits.filter_map(|line| line.strip_prefix(&start)?.split('"').next().map(str::to_owned)).collect()
}

#[test]
fn buckets_are_kube_proxys() {
    let it =
        Loop::start(vec![service(1, false), slice(1, "n1", 1..2, Some(SystemTime::now() + Duration::from_secs(9)))]);
    let text = it.metrics.encode(Format::Prometheus);
    let sync = "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 +Inf";
    assert_eq!(buckets(&text, "kubeproxy_sync_proxy_rules_duration_seconds").join(" "), sync);
    let programming = buckets(&text, "kubeproxy_network_programming_duration_seconds");
    let seconds = (1..=59).chain((60..=115).step_by(5)).chain((120..=300).step_by(30)).map(|s: u32| s.to_string());
    let expected: Vec<String> =
        ["0.25", "0.5"].map(str::to_owned).into_iter().chain(seconds).chain(["+Inf".to_owned()]).collect();
    assert_eq!(programming, expected);
}

#[test]
fn formats() {
    let it = Loop::start(vec![service(1, false)]);
    let old = it.metrics.encode(Format::Prometheus);
    assert!(old.contains("# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter\n"), "{old}");
    assert!(old.contains("# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge\n"), "{old}");
    assert!(!old.contains("_total_total") && !old.contains("# EOF"), "{old}");
    let new = it.metrics.encode(Format::OpenMetrics);
    assert!(new.contains("# TYPE kubeproxy_sync_proxy_rules_service_changes counter\n"), "{new}");
    assert!(new.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 2\n"), "{new}");
    assert!(new.ends_with("# EOF\n"));
    let cases = [
        (None, Format::Prometheus),
        (Some("*/*"), Format::Prometheus),
        (Some("text/plain;version=0.0.4"), Format::Prometheus),
        (Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), Format::OpenMetrics),
        (
            Some("application/openmetrics-text; version=1.0.0; escaping=allow-utf-8; q=0.6, */*;q=0.1"),
            Format::OpenMetrics,
        ),
        (Some("application/openmetrics-text;version=9"), Format::Prometheus),
        (Some("application/openmetrics-text;q=0"), Format::Prometheus),
    ];
    for (accept, format) in cases {
        assert_eq!(Format::accepted(accept), format, "{accept:?}");
    }
}

#[tokio::test]
async fn requests_to_the_api_server() {
    let metrics = Metrics::new();
    let inner = service_fn(|request: http::Request<Full<Bytes>>| async move {
        let answer = http::Response::new(Full::new(Bytes::from_static(&[0; 100])));
        if request.method() == http::Method::GET { Ok(answer) } else { Err("refused") }
    });
    let service = metrics.rest_client_layer().for_server(&"https://api:6443".parse().expect("a URL")).layer(inner);
    let request = |method, path| {
        http::Request::builder().method(method).uri(path).body(Full::new(Bytes::from_static(b"hello"))).expect("fine")
    };
    for path in ["/x", "/x?a=b&watch=true&c=d"] {
        let answer = service.clone().oneshot(request("GET", path)).await.expect("an answer");
        assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes().len(), 100);
    }
    service.oneshot(request("POST", "/x")).await.expect_err("no answer");
    let text = metrics.encode(Format::Prometheus);
    for sample in [
        "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"api:6443\"} 2",
        "rest_client_requests_total{code=\"<error>\",method=\"POST\",host=\"api:6443\"} 1",
        "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"api:6443\"} 2",
        "rest_client_request_size_bytes_sum{verb=\"POST\",host=\"api:6443\"} 5.0",
        "rest_client_response_size_bytes_count{verb=\"GET\",host=\"api:6443\"} 1",
        "rest_client_response_size_bytes_sum{verb=\"GET\",host=\"api:6443\"} 100.0",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} in {text}");
    }
}

fn count(ip: [u8; 4], label: &str, connections: u64) -> FrontendCount {
    let key = FrontendKey::Address { ip: ip.into(), protocol: Protocol::Tcp, port: 80 };
    FrontendCount { key, label: label.to_owned(), connections }
}

#[test]
fn frontends_are_shown_up_to_a_number() {
    let mut it = Loop::start(vec![service(1, false)]);
    let name = "portway_frontend_connections_total";
    let sample = |service: &str, frontend: &str| {
        format!(
            "{name}{{namespace=\"ns\",service=\"{service}\",port_name=\"http\",frontend=\"{frontend}\",ip_family=\"IPv4\"}}"
        )
    };
    assert!(!it.metrics.encode(Format::Prometheus).contains(name), "not without being asked");
    // One address and one NodePort of one Service; a frontend that moves while it is listed comes twice.
    let read = |_| {
        Ok(vec![
            count([10, 96, 0, 2], "ns/b:http", 3),
            count([10, 96, 0, 1], "ns/a:http", 5),
            count([10, 96, 0, 1], "ns/a:http", 4),
        ])
    };
    it.metrics.show_frontends(read, &[Family::Ipv4], 2);
    assert_eq!(it.value(&sample("a", "10.96.0.1:80/TCP")), Some(5.0));
    assert_eq!(it.value(&sample("b", "10.96.0.2:80/TCP")), Some(3.0));
    it.sync(vec![service(2, false)]);
    assert!(!it.metrics.encode(Format::Prometheus).contains(name), "four are more than two");
    it.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "s2"))]);
    assert!(it.metrics.encode(Format::Prometheus).contains(name));
}

/// Names in backticks in the first column of the tables of docs/metrics.md; `process_*` stands for itself.
fn documented() -> BTreeSet<String> {
    let rows = include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
    // Paths, `process_*` and the names of alerts stand in tables as well.
    let is_metric = |name: &&str| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    names.filter(is_metric).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let change = Some(SystemTime::now() + Duration::from_secs(9));
    let it = Loop::start(vec![service(1, true), slice(1, "n2", 1..2, change)]);
    let metrics = &it.metrics;
    metrics.watch_runtime(tokio::runtime::Handle::current());
    metrics.answered_healthz(200);
    metrics.answered_livez(200);
    metrics.conntrack_cleaned(Family::Ipv4, Duration::ZERO, 1);
    metrics.watch_source("manifests", Arc::default());
    metrics.show_gates([("Interceptor", "", true)]);
    metrics.show_frontends(|_| Ok(vec![count([10, 96, 0, 1], "ns/a:http", 5)]), &[Family::Ipv4], 9);
    let relayed = Arc::new(crate::localhost::Stats::new(&[Family::Ipv4]));
    metrics.show_localhost(relayed, |_| Ok(0));
    metrics.slis().pinged();
    // What appears with the first value only.
    let family = labels::ByFamily::from(Family::Ipv4);
    drop(metrics.sync.partial_duration.get_or_create(&family));
    let inner = service_fn(|_: http::Request<Full<Bytes>>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
    });
    let service = metrics.rest_client_layer().layer(inner);
    drop(service.oneshot(http::Request::new(Full::default())).await);

    let text = metrics.encode(Format::Prometheus) + &metrics.slis().encode(Format::Prometheus);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let there: BTreeSet<String> = types.filter(|name| !name.starts_with("process_")).map(str::to_owned).collect();
    let documented = documented();
    let difference: Vec<&String> = there.symmetric_difference(&documented).collect();
    assert!(difference.is_empty(), "either not in docs/metrics.md or not exported: {difference:?}");
}

#[test]
fn slis_appear_when_somebody_has_asked() {
    let metrics = Metrics::new();
    assert_eq!(metrics.slis().encode(Format::Prometheus), "");
    metrics.slis().pinged();
    let text = metrics.slis().encode(Format::Prometheus);
    assert!(text.contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"), "{text}");
    let total = "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 1\n";
    assert!(text.contains(total), "{text}");
    metrics.slis().reset();
    assert_eq!(metrics.slis().encode(Format::Prometheus), "");
}
