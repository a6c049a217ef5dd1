//! The servers of the running program, asked over HTTP in a network namespace of their own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use support::manifests::NODE;
use support::netns::{in_netns, ip_batch};
use support::node::Program;
use support::wait::eventually;

const LIMIT: Duration = Duration::from_secs(10);
const METRICS: &str = "127.0.0.1:10249";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: till}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.5, 'fd00:96::5']
  ipFamilies: [IPv4, IPv6]
  externalTrafficPolicy: Local
  healthCheckNodePort: 30160
  ports: [{port: 80, nodePort: 30080}]
---
";

fn slice(pods: &[&str], changed_at: &str) -> String {
    let endpoints: Vec<String> = pods.iter().map(|pod| format!("{{addresses: [{pod}], nodeName: n1}}")).collect();
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop
  name: till-a
  labels: {{kubernetes.io/service-name: till}}
  annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{changed_at}'}}
addressType: IPv4
ports: [{{name: '', port: 8080}}]
endpoints: [{}]
",
        endpoints.join(", ")
    )
}

/// An answer: status, head in lower case, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(address: &str, request: &str) -> Option<Answer> {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

fn get_as(address: &str, path: &str, accept: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    ask(address, &request).unwrap_or_else(|| panic!("{address}{path} does not answer"))
}

fn get(address: &str, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    ask(address, &request).unwrap_or_else(|| panic!("{address}{path} does not answer"))
}

fn send(method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    ask(METRICS, &(head + body)).unwrap_or_else(|| panic!("{path} does not answer"))
}

#[test]
fn health_and_metrics_ports() {
    in_netns(|| {
        let _program = Program::start(&format!("{NODE}{SERVICE}{}", slice(&["10.1.0.5"], "2020-01-01T00:00:00Z")), &[]);
        eventually("servers", || TcpStream::connect(METRICS).is_ok());
        for address in ["127.0.0.1:10256", "10.0.0.1:10256", "[::1]:10256", "[fd00::1]:10256"] {
            let answer = get(address, "/healthz");
            let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!((answer.status, &body["nodeEligible"]), (200, &true.into()), "{answer:?}");
            assert_eq!(body["status"].as_object().map(serde_json::Map::len), Some(2));
            assert!(answer.head.contains("content-type: application/json\r\n"), "{answer:?}");
        }
        let answer = get("127.0.0.1:10256", "/livez");
        assert!(answer.status == 200 && !answer.body.contains("nodeEligible"), "{answer:?}");
        assert_eq!(get("127.0.0.1:10256", "/readyz").status, 200);
        assert_eq!(get("127.0.0.1:10256", "/metrics").status, 404);

        let text = |path: &str| get(METRICS, path).body;
        assert_eq!(text("/healthz"), "ok");
        assert_eq!(text("/healthz/ping"), "ok");
        assert_eq!(text("/healthz?verbose"), "[+]ping ok\nhealthz check passed\n");
        assert_eq!(text("/proxyMode"), "nftables");
        assert!(text("/configz").starts_with("{\"kubeproxy.config.k8s.io\":"));
        assert!(text("/statusz").starts_with("\nkube-proxy statusz\n"));
        assert!(text("/flagz").starts_with("\nkube-proxy flagz\n"));
        assert_eq!(get_as(METRICS, "/statusz", "application/json").status, 406);
        let statusz = get_as(METRICS, "/statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz");
        assert!(statusz.status == 200 && statusz.body.contains("\"kind\":\"Statusz\""), "{statusz:?}");
        for path in ["/", "/debug/pprof/", "/debug/flags/v", "/livez"] {
            assert_eq!(get(METRICS, path).status, 404, "{path}");
        }
        assert!(text("/metrics/slis").contains("kubernetes_healthchecks_total{"));
        assert_eq!(send("DELETE", "/metrics/slis", "").body, "metrics reset\n");
        assert_eq!(text("/metrics/slis"), "");

        assert_eq!(send("PUT", "/debug/loglevel", "warn").body, "warn\n");
        assert_eq!(text("/debug/loglevel"), "warn\n");
        assert_eq!(send("POST", "/debug/loglevel", "a=b=c").status, 400);
    });
}

/// What dashboards and alerts of kubernetes-mixin read, and what an operator knows from kube-proxy.
#[test]
fn metrics_of_dashboards() {
    in_netns(|| {
        let objects = |pods: &[&str], at: &str| format!("{NODE}{SERVICE}{}", slice(pods, at));
        let program = Program::start(&objects(&["10.1.0.5"], "2020-01-01T00:00:00Z"), &[]);
        eventually("the metrics server", || TcpStream::connect(METRICS).is_ok());
        let value = |sample: &str| {
            let text = get(METRICS, "/metrics").body;
            let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned));
            line.and_then(|value| value.parse::<f64>().ok())
        };
        let latency = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
        assert_eq!(value(latency), None, "the slice is older than the program");
        program.replace(&objects(&["10.1.0.5", "10.1.0.6"], &jiff::Timestamp::now().to_string()));
        eventually("the latency of a change", || value(latency) == Some(1.0));
        assert_eq!(get("127.0.0.1:10256", "/healthz").status, 200);
        assert_eq!(get("127.0.0.1:10256", "/livez").status, 200);

        let answer = get(METRICS, "/metrics");
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        assert!(answer.head.contains("\r\nprocess-start-time-unix: 1"), "{}", answer.head);
        let names: Vec<&str> = answer.body.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        for name in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
            "kubeproxy_network_programming_duration_seconds_count",
            "kubeproxy_network_programming_duration_seconds_bucket",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "kubeproxy_proxy_healthz_total",
            "kubeproxy_proxy_livez_total",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
            "kubernetes_build_info",
            "portway_build_info",
            "portway_transactions_total",
            "portway_transaction_duration_seconds_bucket",
            "portway_elements",
            "portway_elements_written_total",
            "portway_drift_repairs_total",
            "portway_services",
            "portway_endpoints",
            "portway_source_problems_total",
            "portway_source_skipped_objects_total",
            "portway_source_errors_total",
        ] {
            assert!(names.contains(&name), "{name} is missing in:\n{}", answer.body);
        }
        assert!(!answer.body.contains("iptables") && !answer.body.contains("_total_total"));
        let openmetrics = get_as(METRICS, "/metrics", "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
        assert!(openmetrics.head.contains("application/openmetrics-text; version=1.0.0"), "{}", openmetrics.head);
        assert!(openmetrics.body.ends_with("# EOF\n"));
    });
}

#[test]
fn connections_of_each_frontend() {
    in_netns(|| {
        ip_batch("addr add 10.1.0.5/32 dev lo\nroute add 10.96.0.0/16 dev lo").expect("a pod on the node itself");
        let _pod = std::net::TcpListener::bind("10.1.0.5:8080").expect("a port");
        let objects = format!("{NODE}{SERVICE}{}", slice(&["10.1.0.5"], ""));
        let _program = Program::start(&objects, &["--frontend-metrics-max=4"]);
        eventually("the metrics server", || TcpStream::connect(METRICS).is_ok());
        for _ in 0..3 {
            TcpStream::connect("10.96.0.5:80").expect("an answer");
        }
        let text = get(METRICS, "/metrics").body;
        let sample = |frontend: &str, count: u8, family: &str| {
            format!(
                "portway_frontend_connections_total{{namespace=\"shop\",service=\"till\",port_name=\"\",\
                 frontend=\"{frontend}\",ip_family=\"{family}\"}} {count}\n"
            )
        };
        for (frontend, count, family) in [
            ("10.96.0.5:80/TCP", 3, "IPv4"),
            ("node port 30080/TCP", 0, "IPv4"),
            ("[fd00:96::5]:80/TCP", 0, "IPv6"),
            ("node port 30080/TCP", 0, "IPv6"),
        ] {
            assert!(text.contains(&sample(frontend, count, family)), "{frontend} in {text}");
        }
    });
}

fn local_endpoints(address: &str) -> Option<(u16, u64)> {
    let answer = ask(address, "GET /x HTTP/1.0\r\n\r\n")?;
    let body: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    Some((answer.status, body["localEndpoints"].as_u64()?))
}

#[test]
fn health_check_ports_follow_services() {
    in_netns(|| {
        let objects = |service: &str, pods: &[&str]| format!("{NODE}{service}{}", slice(pods, ""));
        let program = Program::start(&objects(SERVICE, &["10.1.0.5", "10.1.0.6"]), &[]);
        eventually("the port", || local_endpoints("10.0.0.1:30160") == Some((200, 2)));
        assert_eq!(local_endpoints("[fd00::1]:30160"), Some((503, 0)), "each family for itself");
        for address in ["10.0.0.2:30160", "127.0.0.1:30160", "[::1]:30160"] {
            assert_eq!(local_endpoints(address), None, "{address} is no NodePort address");
        }
        program.replace(&objects(SERVICE, &[]));
        eventually("no endpoint", || local_endpoints("10.0.0.1:30160") == Some((503, 0)));
        let moved = SERVICE.replace("30160", "30161");
        program.replace(&objects(&moved, &["10.1.0.5"]));
        eventually("another port", || local_endpoints("10.0.0.1:30161") == Some((200, 1)));
        assert_eq!(local_endpoints("10.0.0.1:30160"), None);
        program.replace(&objects(&moved.replace("Policy: Local", "Policy: Cluster"), &["10.1.0.5"]));
        eventually("policy Cluster", || local_endpoints("10.0.0.1:30161").is_none());
    });
}

/// As the end-to-end test "should only target nodes with endpoints" asks on nodes of both families, and a load balancer that
/// speaks the PROXY protocol.
#[test]
fn health_check_ports_of_a_service_of_one_family() {
    in_netns(|| {
        let single = SERVICE.replace(", 'fd00:96::5'", "").replace(", IPv6]", "]");
        let another = NODE
            .replace("[{type", "[{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 10.0.0.2}, {type");
        let program = Program::start(&format!("{another}{single}{}", slice(&["10.1.0.5"], "")), &[]);
        let internal = ["10.0.0.1:30160", "10.0.0.2:30160", "[fd00::1]:30160"];
        for address in internal {
            eventually(address, || local_endpoints(address) == Some((200, 1)));
        }
        assert_eq!(local_endpoints("127.0.0.1:30160"), None);
        let line = "PROXY TCP4 192.0.2.1 10.0.0.1 56324 30160\r\n";
        let binary = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0caaaabbbbccdd";
        for header in [line, binary, "PROXY UNKNOWN\r\n"] {
            for (address, path) in [(internal[0], "/"), (internal[2], "/"), ("10.0.0.1:10256", "/healthz")] {
                let answer =
                    ask(address, &format!("{header}GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
                assert_eq!(answer.expect("an answer").status, 200, "{header:?} before {address}{path}");
            }
            let metrics =
                ask(METRICS, &format!("{header}GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
            assert!(metrics.is_none_or(|answer| answer.status >= 400), "nothing comes before a request for metrics");
        }
        program.replace(&format!("{another}{single}{}", slice(&[], "")));
        for address in internal {
            eventually(address, || local_endpoints(address) == Some((503, 0)));
        }
    });
}

#[test]
fn health_check_ports_on_all_addresses() {
    in_netns(|| {
        let objects = format!("{NODE}{SERVICE}{}", slice(&["10.1.0.5"], ""));
        let _program = Program::start(&objects, &["--nodeport-addresses", "0.0.0.0/0,::/0"]);
        for address in ["10.0.0.1:30160", "10.0.0.2:30160", "127.0.0.1:30160"] {
            eventually(address, || local_endpoints(address) == Some((200, 1)));
        }
        assert_eq!(local_endpoints("[::1]:30160"), Some((503, 0)), "two sockets, one for each family");
    });
}

/// Whoever opens connections and never asks keeps nobody from being answered.
#[test]
fn silent_clients_are_in_nobodys_way() {
    in_netns(|| {
        let objects = format!("{NODE}{SERVICE}{}", slice(&["10.1.0.5"], ""));
        let _program = Program::start(&objects, &[]);
        eventually("servers", || TcpStream::connect(METRICS).is_ok() && local_endpoints("10.0.0.1:30160").is_some());
        for (address, path) in [("10.0.0.1:10256", "/healthz"), (METRICS, "/metrics"), ("10.0.0.1:30160", "/")] {
            let connect = |n: usize| {
                let mut stream = TcpStream::connect(address).expect("a connection");
                // Some begin a request, others what may come before it.
                let beginnings: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost:", b"PROXY TCP4 192.", b""];
                stream.write_all(beginnings[n % 3]).expect("written");
                stream
            };
            let mut silent: Vec<TcpStream> = (0..150).map(connect).collect();
            silent.iter().for_each(|stream| stream.set_nonblocking(true).expect("a socket"));
            let mut open = || {
                let is_open = |stream: &mut TcpStream| {
                    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
                };
                silent.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count()
            };
            // Before the server has met them all, one could take the place of an answer that is given.
            eventually("all have come, and the oldest are closed", || open() <= 128);
            assert_eq!(get(address, path).status, 200, "{address}");
            // One place was for the answer. Slow clients are closed by and by, too, so there may be fewer.
            eventually("the oldest are closed", || open() <= 127);
        }
    });
}

/// The metrics may be for everybody, the log's level never is.
#[test]
fn the_log_is_for_the_host_itself() {
    in_netns(|| {
        let flags = ["--metrics-bind-address=0.0.0.0:10249", "--profiling"];
        let _program = Program::start(NODE, &flags);
        eventually("the metrics server", || TcpStream::connect(METRICS).is_ok());
        for address in ["10.0.0.1:10249", "[fd00::1]:10249"] {
            assert_eq!(get(address, "/metrics").status, 200);
            for (method, path) in [("GET", "/debug/loglevel"), ("PUT", "/debug/loglevel"), ("PUT", "/debug/flags/v")] {
                let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
                let answer = ask(address, &format!("{head}Content-Length: 1\r\n\r\n1")).expect("an answer");
                assert_eq!(answer.status, 403, "{method} {address}{path}: {answer:?}");
            }
        }
        assert_eq!(send("PUT", "/debug/flags/v", "4").status, 200);
        assert_eq!(get("10.0.0.1:10256", "/debug/loglevel").status, 404);
    });
}
