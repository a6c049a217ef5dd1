//! The operator's commands, against the running program and a real kernel, in network namespaces of their own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, ObjectKey};
use portway::ruleset::FakeKernel;
use portway::testing::all_listed;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use support::api_double::ApiDouble;
use support::follower;
use support::manifests::NODE;
use support::netns::{in_netns, ip_batch, set_sysctls};
use support::nft::Nft;
use support::node::Program;
use support::wait::eventually;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(10);

/// The thief wants an address that is not its own; the pod on this node is this node itself, so that it can answer.
const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: till}
spec:
  type: NodePort
  clusterIP: 10.96.0.5
  clusterIPs: [10.96.0.5]
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {namespace: bank, name: thief}
spec: {clusterIP: 10.96.0.6, clusterIPs: [10.96.0.6], externalIPs: [10.96.0.5], ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: till-a, labels: {kubernetes.io/service-name: till}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.2], nodeName: n1}
- {addresses: [10.1.0.6], nodeName: n2}
- {addresses: [10.1.0.7], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.8], nodeName: n1, conditions: {ready: false}}
";

/// The objects, and a Node that is not this one.
fn of_another_node() -> String {
    format!("{}{OBJECTS}", NODE.replace("name: n1}", "name: other}"))
}

/// A program that answers, and the commands that ask it.
struct Asked {
    program: Program,
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Asked {
    fn start(objects: &str) -> Self {
        Self::start_with(objects, &[])
    }

    fn start_with(objects: &str, more: &[&str]) -> Self {
        Self::launch(more, |flags| Program::start(&format!("{NODE}{objects}"), flags))
    }

    /// Among its objects is another Node only.
    fn start_of_another_node() -> Self {
        Self::launch(&[], |flags| Program::start(&of_another_node(), flags))
    }

    /// With an API server.
    fn follow(double: &ApiDouble) -> Self {
        Self::launch(&[], |flags| Program::follow(&double.url(), flags))
    }

    fn launch(more: &[&str], start: impl FnOnce(&[&str]) -> Program) -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("run/admin.sock");
        let flags = ["--no-table-ownership", "--admin-socket", socket.to_str().expect("a plain path")];
        Self { program: start(&[&flags[..], more].concat()), folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/admin.sock")
    }

    fn ask(&self, words: &[&str]) -> Said {
        let socket = self.socket();
        portway(&[words, &["--admin-socket", socket.to_str().expect("a plain path")]].concat())
    }

    fn json(&self, words: &[&str]) -> Value {
        let said = self.ask(&[words, &["-o", "json"]].concat());
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// What `status` has of a subsystem.
    fn status(&self, subsystem: &str) -> Value {
        let report = self.json(&["status"]);
        let mut rows = report["subsystems"].as_array().expect("lines").iter();
        rows.find(|row| row["subsystem"] == subsystem).unwrap_or_else(|| panic!("{subsystem}: {report:#}")).clone()
    }

    fn is(&self, subsystem: &str, state: &str) -> bool {
        self.status(subsystem)["state"] == state
    }
}

fn portway(words: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_portway")).args(words).env_remove("RUST_LOG").output();
    let output = output.expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().expect("no signal"), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A program that need not get anywhere. It is killed when nobody needs it any more.
struct Second {
    child: Child,
    folder: TempDir,
}

impl Second {
    fn start(objects: &str, socket: &Path) -> Self {
        let folder = TempDir::new().expect("a folder");
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).expect("a folder");
        std::fs::write(manifests.join("all.yaml"), format!("{NODE}{objects}")).expect("manifests");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway"), "run", "--hostname-override=n1"])
            .args(["--no-table-ownership", "--healthz-bind-address=", "--metrics-bind-address="])
            .arg(format!("--manifests={}", manifests.display()))
            .arg(format!("--admin-socket={}", socket.display()))
            .stderr(log)
            .spawn()
            .expect("setpriv (util-linux)");
        Self { child, folder }
    }

    fn logs(&self, words: &str) {
        let log = self.folder.path().join("log");
        eventually(words, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(words)));
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What Prometheus gets.
fn metrics() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:10249").expect("somebody listens");
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn nft(command: &str) {
    Nft::all()[0].run(&["-f", "-"], command).expect(command);
}

/// The values of a field, by the value of another.
fn column<'a>(rows: &'a Value, key: &str, field: &str) -> BTreeMap<&'a str, &'a Value> {
    let rows = rows.as_array().expect("rows").iter();
    rows.map(|row| (row[key].as_str().expect("a text"), &row[field])).collect()
}

#[test]
fn services_and_endpoints_say_what_happens_and_why() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&asked.socket()), mode(&asked.folder.path().join("run"))), (0o600, 0o700));

        let said = asked.ask(&["status"]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        let report = asked.json(&["status"]);
        let states = column(&report["subsystems"], "subsystem", "state");
        let names = [
            "configuration",
            "conntrack",
            "daemon",
            "health",
            "kernel",
            "model",
            "objects",
            "settings",
            "source",
            "sync",
        ];
        assert_eq!(states.keys().copied().collect::<Vec<_>>(), names);
        // The thief's claim; there is no cluster CIDR.
        let warned = |name: &str| matches!(name, "objects" | "settings");
        assert!(states.iter().all(|(name, state)| **state == if warned(name) { "WARN" } else { "OK" }), "{states:?}");
        assert_eq!((&report["version"], &report["state"]), (&1.into(), &"WARN".into()));

        let services = asked.json(&["services"]);
        let actions = column(&services, "frontend", "action");
        assert_eq!(actions.len(), 3, "{services:#}");
        let of_till = asked.json(&["services", "shop/till", "-n", "shop", "-a", "10.96.0.5:80"]);
        let expected = serde_json::json!([{
            "namespace": "shop", "name": "till", "port": "http", "type": "ClusterIP", "frontend": "10.96.0.5:80/TCP",
            "family": "IPv4", "policy": "Cluster", "action": "balance", "connections": 0,
            "backends": ["10.0.0.2:8080", "10.1.0.6:8080"],
        }]);
        assert_eq!(of_till, expected);
        let node_port = asked.json(&["services", "-a", "*:30080"]);
        assert_eq!(node_port[0]["localBackends"], serde_json::json!(["10.0.0.2:8080"]), "{node_port:#}");
        let of_thief = asked.json(&["services", "thief", "-a", "10.96.0.5"]);
        assert_eq!((&of_thief[0]["action"], &of_thief[0]["owner"]), (&"lost".into(), &"shop/till".into()));
        let table = asked.ask(&["services"]);
        assert!(table.out.lines().any(|line| line.contains("lost to shop/till")), "{}", table.out);
        assert!(!table.out.contains('\x1b'), "colours are for terminals");
        assert!(asked.ask(&["services", "-o", "yaml"]).out.contains("frontend: 10.96.0.6:80/TCP"));

        let endpoints = asked.json(&["endpoints", "till"]);
        let used = column(&endpoints, "endpoint", "used");
        assert_eq!(*used["10.0.0.2:8080/TCP"], serde_json::json!(["cluster", "local"]));
        let why = column(&endpoints, "endpoint", "reason");
        assert_eq!(why["10.1.0.6:8080/TCP"], "cluster: ready; local: not on this node");
        assert_eq!(why["10.1.0.7:8080/TCP"], "terminating, and others are ready");
        assert_eq!(why["10.1.0.8:8080/TCP"], "not ready");
        assert_eq!(asked.json(&["endpoints", "-a", "10.1.0.8"]).as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn a_question_for_nothing_or_for_nonsense_is_not_answered_as_if_all_were_well() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        for command in ["services", "endpoints"] {
            for (words, what) in [
                (&["nosuch"][..], "name nosuch"),
                (&["-n", "nowhere"], "namespace nowhere"),
                (&["till", "-a", "10.99.0.1"], "name till, address 10.99.0.1"),
            ] {
                let said = asked.ask(&[&[command], words].concat());
                let expected = format!("portway: nothing found with {what}\n");
                assert_eq!((said.code, said.err), (1, expected), "{command} {words:?}");
            }
            let nonsense: [(&[&str], &str); 5] = [
                (&["-a", "300.1.1.1"], "want IP or IP:PORT"),
                (&["-w=0"], "above 0"),
                (&["-w=nan"], "above 0"),
                (&["-w", "5"], "write -w=5"),
                (&["-A", "-n", "shop"], "cannot be used with"),
            ];
            for (words, what) in nonsense {
                let said = asked.ask(&[&[command], words].concat());
                assert!(said.code == 2 && said.err.contains(what), "{command} {words:?}: {said:?}");
            }
        }
        for words in [&["services", "till", "-a", "10.96.0.5"][..], &["services", "-A"], &["endpoints", "-A", "till"]] {
            assert_eq!(asked.ask(words).code, 0, "{words:?}");
        }
        let said = asked.ask(&["faults", "till"]);
        assert_eq!((said.code, said.err.as_str()), (0, "portway: no faults\n"), "none is an answer");
        let said = asked.ask(&["explain", "--from", "10.0.0.1", "192.0.2.9:80"]);
        assert!(said.code == 1 && said.err.contains("no Service answers on 192.0.2.9:80"), "{said:?}");
        // The same flags mean the same everywhere.
        let top = |words: &[&str]| {
            let said = asked.ask(&[&["top", "--once", "--interval", "0.1", "-o", "json"], words].concat());
            let rows: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
            rows.as_array().expect("rows").len()
        };
        assert_eq!((top(&[]), top(&["-A"]), top(&["-n", "shop"]), top(&["--lines", "1"])), (2, 2, 1, 1));
        assert_eq!(asked.ask(&["top", "--interval", "0"]).code, 2);
        let said = asked.ask(&["top", "--once", "--interval", "0.1", "-n", "nowhere"]);
        assert_eq!((said.code, said.err.as_str()), (1, "portway: nothing found with namespace nowhere\n"));
        let explained = asked.ask(&["explain", "--from", "10.0.0.1", "10.96.0.5:80", "-o", "yaml"]);
        assert!(explained.code == 0 && explained.out.contains("services:"), "{explained:?}");
    });
}

#[test]
fn typos_are_answered_by_what_may_be_meant() {
    for (words, meant, code) in [
        (&["statsu"][..], "'status'", 2),
        (&["services", "--namespce", "x"], "'--namespace'", 2),
        (&["status", "-w", "5"], "tip: write -w=5", 2),
        (&["status", "--wait", "30s"], "tip: write --wait=30s", 2),
        // As kube-proxy ends for a flag it does not know.
        (&["--manifest=x"], "'--manifests'", 1),
    ] {
        let said = portway(words);
        assert!(said.code == code && said.err.contains(meant) && said.err.lines().count() == 1, "{words:?}: {said:?}");
    }
    let said = portway(&[]);
    assert!(
        said.code == 2
            && said.out.is_empty()
            && said.err.contains("Usage: portway")
            && said.err.contains("\n  status "),
        "{said:?}"
    );
    let version = portway(&["version"]);
    assert_eq!((version.code, &version.out), (0, &portway(&["--version"]).out));
    assert!(version.out.starts_with("Portway "), "{version:?}");
}

#[test]
fn who_is_not_root_is_told_so() {
    in_netns(|| {
        let folder = TempDir::new().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("our own");
        // Others may not be allowed into the folder the program is in.
        let program = folder.path().join("portway");
        std::fs::copy(env!("CARGO_BIN_EXE_portway"), &program).expect("copied");
        let asked = Asked::start(OBJECTS);
        let socket = asked.socket();
        let socket = socket.to_str().expect("a plain path");
        let questions: [(&[&str], i32); 9] = [
            (&["status"], 2),
            (&["services"], 2),
            (&["endpoints"], 2),
            (&["faults"], 2),
            (&["diff"], 2),
            (&["top", "--once"], 2),
            (&["explain", "--from", "10.0.0.1", "10.96.0.5:80"], 2),
            (&["bundle", "-"], 1),
            (&["cleanup"], 1),
        ];
        for (words, code) in questions {
            let socket: &[&str] = if words[0] == "cleanup" { &[] } else { &["--admin-socket", socket] };
            let output = Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
                .arg(&program)
                .args(words)
                .args(socket)
                .output()
                .expect("setpriv (util-linux)");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
            assert!(said.matches("needs root").count() == 1, "{words:?}: {said}");
        }
    });
}

/// What was wrong once and is right again is no matter of `status`.
#[test]
fn status_is_about_the_present() {
    in_netns(|| {
        let manifests = TempDir::new().expect("a folder");
        let folder = manifests.path().join("m");
        let write = |objects: &str| {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(folder.join("all.yaml"), objects).expect("manifests");
        };
        write(&format!("{NODE}{OBJECTS}"));
        // Of a flag given twice the last counts.
        let asked = Asked::start_with(OBJECTS, &[&format!("--manifests={}", folder.display())]);
        assert!(asked.is("source", "OK"));

        std::fs::remove_dir_all(&folder).expect("removed");
        eventually("a failure", || asked.is("source", "FAIL"));
        let source = asked.status("source");
        let path = folder.to_str().expect("a plain path");
        assert!(source["outage"]["error"].as_str().is_some_and(|error| error.contains(path)), "{source:#}");
        assert!(source["detail"].as_str().is_some_and(|text| text.contains("not read for ")), "{source:#}");
        assert_eq!(asked.ask(&["status"]).code, 1);

        write(&of_another_node());
        eventually("no failure", || asked.is("source", "OK"));
        eventually("no Node", || asked.is("model", "WARN"));
        let model = asked.status("model");
        assert!(model["detail"].as_str().is_some_and(|text| text.contains("Node n1 is gone")), "{model:#}");
        assert_eq!((&model["isNodeGone"], asked.ask(&["status"]).code), (&true.into(), 1));

        write(NODE);
        eventually("no faults left", || asked.is("objects", "OK") && asked.status("objects")["faults"] == 0);
        assert!(metrics().contains("\nportway_faults{reason=\"PortConflict\"} 0\n"), "{}", metrics());
        write(&format!("{NODE}{OBJECTS}"));
        eventually("a fault", || asked.is("objects", "WARN") && asked.status("objects")["faults"] == 1);
        assert!(metrics().contains("\nportway_faults{reason=\"PortConflict\"} 1\n"), "{}", metrics());
        assert_eq!([&["status"][..], &["status", "--strict"]].map(|words| asked.ask(words).code), [0, 1]);
    });
}

/// On a host without Kubernetes: its own addresses take the place of those of a Node, and are followed.
#[test]
fn a_folder_needs_no_node() {
    in_netns(|| {
        ip_batch("link add lan type veth peer name far\naddr add 192.0.2.7/24 dev lan\nlink set lan up\nlink set far up\nroute add default via 192.0.2.1")
            .expect("ip");
        let asked = Asked::launch(&[], |flags| Program::start(OBJECTS, flags));
        for subsystem in ["model", "health"] {
            assert_eq!(asked.status(subsystem)["state"], "OK", "{:#}", asked.status(subsystem));
        }
        assert_eq!(asked.status("health")["healthz"], 200);
        assert_eq!(asked.ask(&["status"]).code, 0, "{:?}", asked.ask(&["status"]));
        let node_ips = || Nft::all()[0].run(&["list", "set", "ip", "portway", "node-ips"], "").expect("a set");
        assert!(node_ips().contains("192.0.2.7"), "{}", node_ips());
        // An endpoint of this host, by name.
        assert_eq!(asked.json(&["endpoints", "shop/till"])[0]["local"], true, "{:#}", asked.json(&["endpoints"]));

        ip_batch("addr del 192.0.2.7/24 dev lan\naddr add 192.0.2.8/24 dev lan\nroute replace default via 192.0.2.1")
            .expect("ip");
        eventually("the new address", || node_ips().contains("192.0.2.8"));
        assert_eq!(asked.ask(&["status"]).code, 0);
    });
}

/// `/healthz` is 503 there.
#[test]
fn status_is_not_ok_on_a_node_that_load_balancers_must_not_use() {
    in_netns(|| {
        let asked = Asked::start_of_another_node();
        let health = asked.status("health");
        assert_eq!((&health["state"], &health["healthz"]), (&"FAIL".into(), &503.into()), "{health:#}");
        let model = asked.status("model");
        assert_eq!(
            (&model["state"], &model["node"], &model["wantedNode"]),
            (&"FAIL".into(), &Value::Null, &"n1".into())
        );
        assert!(model["detail"].as_str().is_some_and(|text| text.contains("there is no Node n1")), "{model:#}");
        assert_eq!(asked.ask(&["status"]).code, 1);
    });
}

#[test]
fn an_api_server_that_is_gone_is_told_with_its_address_as_long_as_it_is() {
    in_netns(|| {
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let server = server.expect("a runtime");
        let double = server.block_on(ApiDouble::start());
        double.put(follower::node("n1"));
        double.put(follower::service("a", "10.96.0.1"));
        let asked = Asked::follow(&double);
        let source = asked.status("source");
        let url = double.url();
        let url = url.trim_end_matches('/');
        assert_eq!((&source["state"], &source["outage"]), (&"OK".into(), &Value::Null), "{source:#}");
        assert!(source["address"].as_str().is_some_and(|address| address.starts_with(url)), "{source:#}");

        server.block_on(double.stop());
        // One kind after the other finds it out.
        eventually("a warning", || {
            let source = asked.status("source");
            source["state"] == "WARN" && source["outage"]["parts"].as_array().is_some_and(|parts| parts.len() == 4)
        });
        let outage = asked.status("source")["outage"].clone();
        assert_eq!(outage["parts"], serde_json::json!(["endpointslices", "nodes", "servicecidrs", "services"]));
        assert!(outage["error"].as_str().is_some_and(|error| error.contains(url)), "{outage:#}");
        let seconds = |outage: &Value| {
            let since: jiff::Timestamp = outage["since"].as_str().expect("a text").parse().expect("a time");
            since.as_second()
        };
        let said = asked.ask(&["status", "--wait=3"]);
        assert!(said.code == 1 && said.err.contains("not OK after 3s: source"), "{said:?}");
        let again = asked.status("source")["outage"].clone();
        let later = seconds(&again) - seconds(&outage);
        // Parts of seconds are cut off.
        assert!(later.abs() <= 1, "it has not begun anew: {outage} {again}");

        server.block_on(double.restart());
        eventually("its end", || asked.is("source", "OK"));
        assert_eq!(asked.status("source")["outage"], Value::Null);
    });
}

#[test]
fn status_waits_until_all_is_ok_or_the_time_is_over() {
    in_netns(|| {
        let asked = Asked::start_of_another_node();
        let said = asked.ask(&["status", "--wait=1s"]);
        assert_eq!((said.code, said.err.as_str()), (1, "portway: not OK after 1s: model, health\n"), "{said:?}");
        assert!(said.out.contains("there is no Node n1"), "{said:?}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| asked.ask(&["status", "--wait=60s"]));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!waiting.is_finished());
            asked.program.replace(&format!("{NODE}{OBJECTS}"));
            let said = waiting.join().expect("no panic");
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        });
        let said = asked.ask(&["status", "--wait=0", "--strict"]);
        assert!(said.code == 1 && said.err.contains("objects, settings"), "{said:?}");
        for words in [&["--wait=soon"][..], &["--wait=1", "--watch"]] {
            assert_eq!(asked.ask(&[&["status"], words].concat()).code, 2, "{words:?}");
        }
        let Asked { program, folder } = asked;
        drop(program);
        let socket = folder.path().join("run/admin.sock");
        let said = portway(&["status", "--wait=1", "-o", "json", "--admin-socket", socket.to_str().expect("plain")]);
        assert!(said.code == 1 && said.err.contains("not OK after 1s: daemon, kernel"), "{said:?}");
        let report: Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!((&report["version"], &report["state"]), (&1.into(), &"FAIL".into()));
        assert_eq!(report["subsystems"][0]["answers"], false);
    });
}

#[test]
fn a_table_that_somebody_changed_is_soon_equal_again() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        let equal = || asked.ask(&["diff"]).code == 0 && asked.ask(&["status"]).code == 0;
        let diff = asked.ask(&["diff"]);
        assert_eq!((diff.code, diff.out.as_str(), diff.err.as_str()), (0, "", ""));
        nft("delete element ip portway services { 10.96.0.5 . tcp . 80 }
             add element ip portway cluster-ips { 10.96.0.99 }
             flush chain ip portway refuse");
        eventually("repair", equal);
        nft("delete table ip6 portway");
        eventually("repair", equal);
    });
}

/// Who changes tables without end sees repairs slow down. What is not repaired yet is a difference, and its text repairs it.
#[test]
fn a_difference_is_commands_that_repair_it() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        let gone = "delete element ip portway services { 10.96.0.5 . tcp . 80 }";
        let mut said = asked.ask(&["diff"]);
        eventually("a difference", || {
            // It may be gone already.
            drop(Nft::all()[0].run(&["-f", "-"], gone));
            said = asked.ask(&["diff"]);
            said.code != 0
        });
        let add = "add element ip portway services { 10.96.0.5 . tcp . 80 comment \"shop/till:http\" : goto pick-2 }\n";
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (1, add, ""));
        nft(&said.out);
        eventually("equal tables", || asked.ask(&["diff"]).code == 0);
        assert_eq!(asked.json(&["diff"]), serde_json::json!([]));
    });
}

#[test]
fn connections_are_counted_and_explained() {
    in_netns(|| {
        let only_here = OBJECTS.replace("- {addresses: [10.1.0.6], nodeName: n2}\n", "");
        let asked = Asked::start(&only_here);
        ip_batch("route add 10.96.0.0/16 dev lo\n").expect("a route");
        let listener = TcpListener::bind("10.0.0.2:8080").expect("the pod listens");
        let connect = || TcpStream::connect_timeout(&"10.96.0.5:80".parse().expect("an address"), LIMIT);
        let streams: Vec<TcpStream> = (0..3).map(|_| connect().expect("through the Service")).collect();
        let services = asked.json(&["services"]);
        assert_eq!(column(&services, "frontend", "connections")["10.96.0.5:80/TCP"], 3);

        let explained = asked.json(&["explain", "--from", "10.0.0.1", "10.96.0.5:80"]);
        assert_eq!(explained["outcomes"][0]["backend"], "10.0.0.2:8080", "{explained:#}");
        let claims = column(&explained["services"], "name", "action");
        assert_eq!((claims["till"], claims["thief"]), (&"balance".into(), &"lost".into()));
        assert_eq!(explained["services"][0]["name"], "till", "the one that has it comes first");
        assert_eq!(explained["candidates"].as_array().map(Vec::len), Some(3));
        let flows = explained["flows"].as_array().expect("flows");
        assert!(flows.len() == 3 && flows.iter().all(|flow| flow["backend"] == "10.0.0.2:8080"), "{flows:?}");
        let text = asked.ask(&["explain", "--from", "10.0.0.1", "10.0.0.1:30080"]);
        assert!(text.code == 0 && text.out.contains("\ncandidates\n"), "{text:?}");
        assert_eq!(asked.ask(&["explain", "--from", "10.0.0.1", "nonsense"]).code, 2);

        // While `top` counts.
        let counting = std::thread::spawn(|| portway(&["top", "--once", "--interval", "1", "-o", "json"]));
        let deadline = Instant::now() + LIMIT;
        let mut more = Vec::new();
        while !counting.is_finished() {
            assert!(Instant::now() < deadline, "top does not end");
            more.push(connect().expect("through the Service"));
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = counting.join().expect("top");
        let rows: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        assert_eq!(rows[0]["service"], "shop/till:http");
        assert!(rows[0]["perSecond"].as_f64().is_some_and(|rate| rate > 0.0), "{rows:#}");
        drop((listener, streams, more));
    });
}

#[test]
fn without_a_daemon_the_kernel_is_asked_or_nobody() {
    in_netns(|| {
        let Asked { program, folder } = Asked::start(OBJECTS);
        drop(program);
        let socket = folder.path().join("run/admin.sock");
        let ask =
            |words: &[&str]| portway(&[words, &["--admin-socket", socket.to_str().expect("a plain path")]].concat());
        let label = "portway: from the kernel; the daemon does not answer on ";
        let said = ask(&["services", "-o", "json"]);
        assert!(said.code == 0 && said.err.starts_with(label), "{said:?}");
        let rows: Value = serde_json::from_str(&said.out).expect("JSON");
        let backends = column(&rows, "frontend", "backends");
        assert_eq!(*backends["10.96.0.5:80/TCP"], serde_json::json!(["10.0.0.2:8080", "10.1.0.6:8080"]));
        let local = column(&rows, "frontend", "localBackends");
        assert_eq!(*local["*:30080/TCP"], serde_json::json!(["10.0.0.2:8080"]));
        let said = ask(&["endpoints"]);
        assert!(said.code == 0 && said.err.starts_with(label) && said.out.contains("10.1.0.6:8080/TCP"), "{said:?}");
        let said = ask(&["status"]);
        assert!(said.code == 1 && said.out.contains("does not answer"), "{said:?}");
        let said = ask(&["diff"]);
        assert!(said.code == 2 && said.err.contains("does not answer"), "{said:?}");
        assert_eq!(ask(&["services", "--surprise"]).code, 2);
        nft("delete table ip portway; delete table ip6 portway");
        assert_eq!((ask(&["services"]).code, ask(&["top", "--once"]).code), (2, 2));
    });
}

/// A process that is stopped still accepts connections: the system does it until its queue is full.
#[test]
fn a_daemon_that_is_stopped_keeps_nobody_waiting() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        let process = Pid::from_raw(asked.program.pid().try_into().expect("a process"));
        kill(process, Signal::SIGSTOP).expect("it runs");
        let socket = asked.socket();
        let bundle = asked.folder.path().join("b.tar.gz");
        let questions: [&[&str]; 7] = [
            &["status"],
            &["services"],
            &["endpoints"],
            &["explain", "--from", "10.0.0.1", "10.96.0.5:80"],
            &["diff"],
            &["top", "--once", "--interval", "0.1"],
            &["bundle", bundle.to_str().expect("a plain path")],
        ];
        let ask_all = || {
            for words in questions {
                std::fs::remove_file(&bundle).ok();
                let start = Instant::now();
                let said = if words[0] == "top" { portway(words) } else { asked.ask(words) };
                let took = start.elapsed();
                assert!(took < Duration::from_secs(5), "{words:?} took {took:?}: {said:?}");
                let everything = said.out.clone() + &said.err;
                // `top` asks the kernel alone, and a bundle says it inside.
                if !["top", "bundle"].contains(&words[0]) {
                    assert!(everything.contains("is stopped or gets no CPU"), "{words:?}: {said:?}");
                    assert!(everything.contains("restart it"), "{words:?}: {said:?}");
                }
                let code = match words[0] {
                    "status" | "bundle" => 1,
                    "diff" => 2,
                    _ => 0,
                };
                assert_eq!(said.code, code, "{words:?}: {said:?}");
            }
        };
        ask_all();
        // Until nobody can even connect.
        let mut waiting = Vec::new();
        let full = loop {
            let socket_of_one = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket_of_one.set_nonblocking(true).expect("settable");
            match socket_of_one.connect(&SockAddr::unix(&socket).expect("a path")) {
                Ok(()) => waiting.push(socket_of_one),
                Err(cause) => break cause,
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock, "{full}");
        ask_all();
        drop(waiting);
        kill(process, Signal::SIGCONT).expect("it is there");
        eventually("an answer", || asked.ask(&["status"]).code == 0);
    });
}

/// In a rolling update the new one runs before the old one has ended.
#[test]
fn the_socket_belongs_to_whoever_has_the_tables() {
    in_netns(|| {
        let first = Asked::start(OBJECTS);
        let socket = first.socket();
        let ask = |socket: &Path| {
            let said = portway(&["status", "-o", "json", "--admin-socket", socket.to_str().expect("a plain path")]);
            serde_json::from_str(&said.out).unwrap_or(Value::Null)
        };
        let row = |report: &Value, name: &str| {
            let mut rows = report["subsystems"].as_array().into_iter().flatten();
            rows.find(|row| row["subsystem"] == name).cloned().unwrap_or_default()
        };
        let pid = |socket: &Path| row(&ask(socket), "daemon")["pid"].as_u64();
        let first_pid = Some(u64::from(first.program.pid()));

        let second = Second::start(OBJECTS, &socket);
        second.logs("waiting");
        second.logs("another Portway (pid");
        // Longer than it takes to look again.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            assert_eq!(pid(&socket), first_pid, "it is not stolen");
            std::thread::sleep(Duration::from_millis(100));
        }

        // Who has the tables is named, whoever is asked.
        let owner = format!("portway, pid {}", first.program.pid());
        let own = first.folder.path().join("own.sock");
        let third = Second::start(OBJECTS, &own);
        third.logs("waiting");
        let sync = row(&ask(&own), "sync");
        assert_eq!(sync["state"], "FAIL", "{sync:#}");
        assert!(sync["waitingFor"].as_str().is_some_and(|text| text.contains(&owner)), "{sync:#}");
        drop(third);
        let kernel = row(&ask(&first.folder.path().join("nobody.sock")), "kernel");
        assert_eq!((&kernel["state"], &kernel["owner"]), (&"WARN".into(), &owner.as_str().into()), "{kernel:#}");

        std::fs::remove_file(&socket).expect("there");
        // The second has no tables, but nobody is in its way.
        eventually("somebody answers again", || pid(&socket).is_some());
        eventually("the one that has the tables answers", || pid(&socket) == first_pid);

        let Asked { program, folder } = first;
        drop(program);
        eventually("the second answers", || pid(&socket) == Some(u64::from(second.child.id())));
        eventually("and has the tables", || row(&ask(&socket), "sync")["state"] == "OK");
        drop(folder);
    });
}

/// A question that takes long is waited for, and another one waits for its turn.
#[test]
fn many_may_ask_at_once() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        std::thread::scope(|scope| {
            let ask = |words: &'static [&'static str]| {
                let asked = &asked;
                scope.spawn(move || asked.ask(words))
            };
            let questions: [&[&str]; 4] = [&["status"], &["services"], &["endpoints"], &["diff"]];
            let all: Vec<_> = (0..5).flat_map(|_| questions).map(ask).collect();
            for one in all {
                let said = one.join().expect("no panic");
                assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
            }
        });
    });
}

#[test]
fn check_finds_what_is_in_the_way() {
    in_netns(|| {
        set_sysctls(&[("net/ipv4/ip_forward", "1")]).expect("a sysctl");
        let said = portway(&["check"]);
        assert_eq!(said.code, 0, "{}", said.out);
        assert!(said.out.lines().any(|line| line.starts_with("OK") && line.contains("numgen")), "{}", said.out);
        nft("add table ip kube-proxy
             add table ip nat
             add chain ip nat PREROUTING { type nat hook prerouting priority -100; }
             add chain ip nat KUBE-SERVICES");
        set_sysctls(&[("net/ipv4/ip_forward", "0")]).expect("a sysctl");
        let said = portway(&["check", "-o", "json"]);
        let rows: Value = serde_json::from_str(&said.out).expect("JSON");
        let (states, details) = (column(&rows, "what", "state"), column(&rows, "what", "detail"));
        assert_eq!((said.code, states["net.ipv4.ip_forward"]), (1, &"FAIL".into()));
        assert_eq!(details["kube-proxy's rules"], "table ip kube-proxy, 1 iptables chains");
        assert_eq!(details["others that translate"], "ip nat PREROUTING");
        assert_eq!(states["others that translate"], "WARN");
        let found_nothing = Nft::all()[0].run(&["list", "tables"], "").expect("listable");
        assert!(!found_nothing.contains("portway"), "{found_nothing}");
    });
}

#[test]
fn a_bundle_has_everything_and_is_for_root() {
    in_netns(|| {
        let asked = Asked::start(OBJECTS);
        let file = asked.folder.path().join("b.tar.gz");
        let name = file.to_str().expect("a plain path");
        let said = asked.ask(&["bundle", name]);
        assert_eq!((said.code, said.out.trim()), (0, name), "{said:?}");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        let mut files = BTreeMap::new();
        let opened = flate2::read::GzDecoder::new(std::fs::File::open(&file).expect("there"));
        for entry in tar::Archive::new(opened).entries().expect("a tarball") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").file_name().expect("a name").to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            files.insert(name, text);
        }
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        let expected = [
            "check.json",
            "configuration.json",
            "diff.json",
            "endpoints.json",
            "faults.json",
            "metrics.txt",
            "problems.json",
            "services.json",
            "status.json",
            "sysctl.txt",
            "table-ip.nft",
            "table-ip6.nft",
            "version.txt",
        ];
        assert_eq!(names, expected);
        assert!(files["table-ip.nft"].contains("10.96.0.5 . tcp . 80") && files["metrics.txt"].contains("portway_"));
        assert!(files["problems.json"].contains("bank/thief does not get it"), "{}", files["problems.json"]);
        assert_eq!(asked.ask(&["bundle", name]).code, 2, "nothing is overwritten");
    });
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let said = portway(&["completion", shell]);
        assert!(said.code == 0 && said.out.contains("endpoints"), "{shell}");
        // Its name until now.
        assert_eq!(portway(&["completions", shell]).out, said.out, "{shell}");
    }
}

#[test]
fn every_command_has_a_page() {
    let folder = TempDir::new().expect("a folder");
    let said = portway(&["man-pages", folder.path().join("new").to_str().expect("a plain path")]);
    assert_eq!(said.code, 0, "{said:?}");
    let page = |name: &str| std::fs::read_to_string(folder.path().join("new").join(name)).expect(name);
    for name in
        ["portway.1", "portway-run.1", "portway-explain.1", "portway-cluster-status.1", "kubectl-portway-explain.1"]
    {
        let (page, words) = (page(name), name.trim_end_matches(".1"));
        assert!(page.contains(".SH SYNOPSIS") && page.contains(&words.replace('-', "\\-")), "{name}: {page}");
    }
    assert!(page("portway-test.1").contains("junit") && page("kubectl-portway.1").contains("explain"));
    let hidden = folder.path().join("new/portway-test-pod.1");
    assert!(!hidden.exists(), "what is hidden has none");
}

#[test]
fn alone_it_says_what_it_is_for() {
    let said = portway(&[]);
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
    for line in ["portway run", "portway status", "portway explain", "kubectl portway status", "kubectl portway check"]
    {
        assert!(said.err.lines().any(|shown| shown.trim_start().starts_with(line)), "{line}: {said:?}");
    }
    let said = portway(&["cluster"]);
    assert!(said.code == 2 && said.err.contains("bundle") && !said.err.contains("test-pod"), "{said:?}");
    for (typo, meant) in [("statsu", "'status'"), ("explian", "'explain'"), ("--manifest", "'--manifests'")] {
        let said = portway(&[typo]);
        assert!(said.code != 0 && said.err.contains("tip: ") && said.err.contains(meant), "{said:?}");
    }
}

/// A snapshot is of one moment, whatever comes after it.
#[test]
fn a_snapshot_stays_as_it_is() {
    let (controller, reports) = Controller::new(FakeKernel::new(), Options::new("n1"));
    let snapshots = controller.snapshots();
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let sync_loop = std::thread::spawn(move || controller.run(receiver));
    let (mut events, _) = {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("all.yaml"), format!("{NODE}{OBJECTS}")).expect("manifests");
        portway::source::load_dir(folder.path(), "n1", None).expect("readable")
    };
    events.extend(all_listed());
    let empty = snapshots.take(LIMIT).expect("the loop answers before its first sync");
    assert!(empty.mirror.is_none() && empty.model.service_count() == 0);
    let until = |syncs: u64| {
        let deadline = Instant::now() + LIMIT;
        while reports.borrow().syncs < syncs {
            assert!(Instant::now() < deadline, "no sync");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    sender.blocking_send(events).expect("the loop runs");
    until(1);
    let before = snapshots.take(LIMIT).expect("the loop answers");
    let till = ObjectKey::new("shop", "till");
    sender.blocking_send(vec![Event::ServiceDeleted(till.clone())]).expect("the loop runs");
    until(2);
    let after = snapshots.take(LIMIT).expect("the loop answers");
    let frontends = |snapshot: &portway::controller::Snapshot| {
        snapshot.mirror.as_ref().expect("synced").frontends().filter(|(_, service, _)| **service == till).count()
    };
    assert_eq!((frontends(&before), frontends(&after)), (2, 0));
    assert!(before.model.service(&till).is_some() && after.model.service(&till).is_none());
    drop(sender);
    sync_loop.join().expect("the loop ends");
    snapshots.take(LIMIT).expect_err("the loop has ended");
}
