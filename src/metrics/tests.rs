use std::time::Instant;

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{
    Endpoint, EndpointSlice, Event, Kind, Node, ObjectKey, Protocol, Service, ServicePort, ServiceType, SlicePort,
};
use crate::ruleset::{FakeKernel, SetId};

fn service(n: u8, local: bool) -> Event {
    let port =
        ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30_000 + u16::from(n)) };
    Event::Service(Box::new(Service {
        key: ObjectKey::new("ns", format!("s{n}")),
        created: None,
        service_type: ServiceType::NodePort,
        cluster_ips: vec![[10, 96, 0, n].into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy_local: local,
        internal_policy_local: local,
        affinity_seconds: None,
        health_check_node_port: None,
        ports: vec![port],
    }))
}

fn slice(n: u8, node: &str, pods: std::ops::Range<u8>, changed_at: Option<SystemTime>) -> Event {
    let endpoint = |pod| Endpoint {
        address: [10, 1, n, pod].into(),
        node: Some(node.into()),
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Vec::new().into(),
        node_hints: Vec::new().into(),
    };
    Event::Slice(Box::new(EndpointSlice {
        key: ObjectKey::new("ns", format!("s{n}-1")),
        service: ObjectKey::new("ns", format!("s{n}")),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: pods.map(endpoint).collect(),
        changed_at,
    }))
}

struct Loop {
    metrics: Arc<Metrics>,
    controller: Controller<MeasuredKernel<FakeKernel>>,
}

impl Loop {
    fn start(events: Vec<Event>) -> Self {
        let metrics = Metrics::new();
        let kernel = MeasuredKernel::new(FakeKernel::new(), metrics.clone());
        let (mut controller, _) = Controller::new(kernel, Options::new("n1"));
        controller.observe(MetricsObserver::new(metrics.clone(), &Family::ALL));
        let mut this = Self { metrics, controller };
        let node = Event::Node(Box::new(Node { name: "n1".into(), ..Node::default() }));
        let listed = [Kind::Service, Kind::EndpointSlice, Kind::Node].map(Event::ListDone);
        this.sync([node].into_iter().chain(events).chain(listed).collect());
        this
    }

    fn sync(&mut self, events: Vec<Event>) {
        self.controller.handle(events, Instant::now());
    }

    fn fake(&mut self) -> &mut FakeKernel {
        self.controller.kernel().inner()
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
                assert_eq!(counted, listing.sets[&set].len() as i64, "{family} {set:?}");
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
fn failures_appear_with_the_first() {
    let mut it = Loop::start(vec![service(1, false)]);
    let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv6\"}";
    assert_eq!(it.value(failures), None);
    assert!(!it.metrics.encode(Format::Prometheus).contains("nftables_sync_failures"), "not even a heading");
    it.fake().refuse = true;
    it.sync(vec![service(2, false)]);
    assert_eq!(it.value(failures), Some(1.0));
    assert_eq!(it.value("portway_transactions_total{result=\"error\"}"), Some(1.0));
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
    it.fake().listing_mut(Family::Ipv4).expect("a table").sets.entry(SetId::Endpoints).or_default().clear();
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
    use tower::{Layer, ServiceExt, service_fn};
    let metrics = Metrics::new();
    let inner = service_fn(|request: http::Request<()>| async move {
        if request.method() == http::Method::GET { Ok(http::Response::new(())) } else { Err("refused") }
    });
    let service = metrics.rest_client_layer().for_server(&"https://api:6443".parse().expect("a URL")).layer(inner);
    let request = |method| http::Request::builder().method(method).uri("/x").body(()).expect("fine");
    service.clone().oneshot(request("GET")).await.expect("an answer");
    service.oneshot(request("POST")).await.expect_err("no answer");
    let text = metrics.encode(Format::Prometheus);
    for sample in [
        "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"api:6443\"} 1",
        "rest_client_requests_total{code=\"<error>\",method=\"POST\",host=\"api:6443\"} 1",
        "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"api:6443\"} 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} in {text}");
    }
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
