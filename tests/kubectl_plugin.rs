//! `kubectl portway` with a kubectl that is a script: what is asked of the API is in files, and what is run in a pod is run
//! here, by the real program that is asked about a real table.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::kubectl::FakeKubectl;
use support::manifests::NODE;
use support::netns::in_netns;
use support::node::Program;

const PODS: &str = "get pods -l app.kubernetes.io/name=portway,app.kubernetes.io/component=proxy --all-namespaces";
const LIMIT: Duration = Duration::from_secs(30);

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: till}
spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5], ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: till-a, labels: {kubernetes.io/service-name: till}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.2], nodeName: n1}]
";

fn node(name: &str, ip: &str, kernel: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kernelVersion": kernel, "operatingSystem": "linux", "architecture": "amd64"}}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"namespace": "kube-system", "name": name}, "spec": {"nodeName": node, "hostNetwork": true,
        "containers": [{"name": "portway", "image": "example/portway:0.1.0"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"state": {"running": {"startedAt": "2026-11-30T10:00:00Z"}}}]}})
}

fn waiting(name: &str, node: &str) -> Value {
    let mut pod = pod(name, node);
    let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    pod["status"] = json!({"phase": "Pending", "containerStatuses": [{"state": state}]});
    pod
}

/// Five nodes: one that is right, one whose kubelet does not answer, one without a pod, one whose pod waits for its image, one
/// with another version.
struct Cluster {
    kubectl: FakeKubectl,
    _program: Program,
}

impl Cluster {
    fn start() -> Self {
        let kubectl = FakeKubectl::new();
        let nodes: Vec<Value> = (1..=5).map(|n| node(&format!("n{n}"), &format!("10.0.0.{n}"), "6.18.44")).collect();
        kubectl.has("get nodes", &json!({"items": nodes}));
        let pods = [pod("p1", "n1"), pod("p2", "n2"), waiting("p4", "n4"), pod("p5", "n5")];
        kubectl.has(PODS, &json!({"items": pods}));
        let socket = kubectl.path().join("run/admin.sock");
        let flags = ["--no-table-ownership", "--admin-socket", socket.to_str().expect("a plain path")];
        let program = Program::start(&format!("{NODE}{SERVICE}"), &flags);
        let real = format!(
            "[[ $1 == portway ]] || exit 126\ncommand=$2\nshift 2\n{} $command --admin-socket={} \"$@\"\n",
            env!("CARGO_BIN_EXE_portway"),
            socket.display()
        );
        kubectl.does("exec", "p1", &real);
        kubectl.does("logs", "p1", "echo one line; [[ $* != *--previous* ]]\n");
        let old = json!({"version": 1, "state": "WARN", "subsystems": [
            {"subsystem": "daemon", "state": "OK", "detail": "portway 0.0.9", "portwayVersion": "0.0.9"},
            {"subsystem": "source", "state": "WARN", "detail": "the API server does not answer"}]});
        kubectl.does("exec", "p5", &format!("echo '{old}'\n(exit 1)\n"));
        Self { kubectl, _program: program }
    }

    fn run(&self, words: &[&str]) -> Said {
        Said::of(self.kubectl.plugin(words))
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn has(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.out.contains(word) || self.err.contains(word), "{word} is not in {self:#?}");
        }
        self
    }
}

#[test]
fn status_has_all_nodes_and_the_worst_first() {
    in_netns(|| {
        let cluster = Cluster::start();
        let said = cluster.run(&["status"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        let order: Vec<&str> = said.out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(order, ["n2", "n3", "n4", "n5", "n1"], "{said:#?}");
        said.has(&["connection refused", "no pod of Portway", "ImagePullBackOff: no such image"]);
        said.has(&["source WARN: the API server does not answer", "5 nodes: 3 FAIL, 1 WARN, 1 OK"]);
        said.has(&["different versions: 0.0.9 on 1, 0.1.0 on 1"]);
        let one = cluster.run(&["status", "--node", "n1", "-o", "json"]);
        assert_eq!(one.code, Some(0), "{one:#?}");
        let report: Value = serde_json::from_str(&one.out).expect("JSON");
        assert_eq!(
            (&report["version"], &report["state"], &report["nodes"][0]["services"]),
            (&json!(1), &json!("OK"), &json!(1))
        );
        assert_eq!(report["nodes"][0]["report"]["subsystems"][0]["subsystem"], "daemon");
        let absent = cluster.run(&["status", "--node", "n9"]);
        assert_eq!(absent.code, Some(1), "{absent:#?}");
        // Whose flags they are, kubectl knows.
        cluster.run(&["--context=blue", "status", "--kubeconfig", "/some/where"]).has(&["n1"]);
        assert!(cluster.kubectl.asked().contains("--context=blue --kubeconfig /some/where get nodes"));
    });
}

#[test]
fn status_waits_and_gives_up() {
    in_netns(|| {
        let cluster = Cluster::start();
        let start = Instant::now();
        let said = cluster.run(&["status", "--wait=1s"]);
        assert!(said.code == Some(1) && start.elapsed() >= Duration::from_secs(1), "{said:#?}");
        let waits = cluster.kubectl.command(&["status", "--wait=2m"]).stdout(Stdio::piped()).spawn().expect("started");
        std::thread::sleep(Duration::from_millis(500));
        cluster.kubectl.has("get nodes", &json!({"items": [node("n1", "10.0.0.1", "6.18.44")]}));
        let said = Said::of(waits.wait_with_output().expect("ended"));
        assert!(said.code == Some(0) && start.elapsed() < LIMIT * 2, "{said:#?}");
        assert_eq!(said.out.lines().count(), 2, "one table: {said:#?}");
    });
}

#[test]
fn a_node_that_says_nothing_is_given_up() {
    in_netns(|| {
        let cluster = Cluster::start();
        cluster.kubectl.does("exec", "p2", "exec sleep 60\n");
        let start = Instant::now();
        let said = cluster.run(&["status", "--timeout=2s"]);
        assert!(start.elapsed() < LIMIT, "{said:#?}");
        said.has(&["no answer within 2s", "5 nodes"]);
    });
}

#[test]
fn without_kubectl_or_a_cluster_it_cannot_be_told() {
    let kubectl = FakeKubectl::new();
    let said = Said::of(kubectl.plugin(&["status", "--kubectl", "no-such-program"]));
    assert_eq!(said.code, Some(2), "{said:#?}");
    said.has(&["there is no program no-such-program", "--kubectl"]);
    let said = Said::of(kubectl.plugin(&["status"]));
    assert_eq!(said.code, Some(2), "{said:#?}");
    said.has(&["nothing for get"]);
    let said = Said::of(kubectl.plugin(&["statsu"]));
    assert_eq!(said.code, Some(2), "{said:#?}");
    said.has(&["tip: a similar subcommand exists: 'status'"]);
    let said = Said::of(kubectl.plugin(&[]));
    assert_eq!(said.code, Some(2), "{said:#?}");
    said.has(&["Usage: kubectl portway", "explain", "bundle"]);
}

/// Somebody whose rights end at the namespace of Portway's pods.
#[test]
fn without_the_right_to_list_nodes_pods_are_shown() {
    in_netns(|| {
        let cluster = Cluster::start();
        std::fs::remove_file(cluster.kubectl.path().join("get_nodes")).expect("it was there");
        let said = cluster.run(&["status"]);
        said.has(&["n1", "p", "nodes without a pod of Portway are not seen"]);
        assert!(!said.out.contains("n3"), "{said:#?}");
    });
}

#[test]
fn one_node_answers_about_services() {
    in_netns(|| {
        let cluster = Cluster::start();
        let said = cluster.run(&["services", "-n", "shop", "till"]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        said.has(&["shop/till:http", "10.96.0.5:80/TCP", "as node n1 sees it"]);
        cluster.run(&["endpoints", "-a", "10.0.0.2", "--node", "n1"]).has(&["10.0.0.2:8080/TCP", "ready"]);
        cluster.run(&["faults"]).has(&["NoPodRange", "as node n1 sees it"]);
        let none = cluster.run(&["services", "nosuch"]);
        assert_eq!(none.code, Some(1), "{none:#?}");
        none.has(&["nothing found with name nosuch"]);
        // A name that looks like a flag is a name.
        assert_eq!(cluster.run(&["services", "--", "--admin-socket=/x"]).code, Some(1));
        let silent = cluster.run(&["services", "--node", "n2"]);
        assert_eq!(silent.code, Some(2), "{silent:#?}");
        silent.has(&["no node answers: n2: ", "connection refused"]);
        cluster.run(&["services", "--node", "n3"]).has(&["there is no pod of Portway on node n3"]);
    });
}

#[test]
fn the_node_that_decides_explains() {
    in_netns(|| {
        let cluster = Cluster::start();
        let client = json!({"items": [{"metadata": {"namespace": "shop", "name": "cart"}, "spec": {"nodeName": "n1"},
            "status": {"podIPs": [{"ip": "10.1.0.9"}], "containerStatuses": [{"state": {"running": {}}}]}}]});
        cluster.kubectl.has("get pods --all-namespaces --field-selector status.podIP=10.1.0.9", &client);
        cluster.kubectl.has("get pod cart -n shop", &client["items"][0]);
        for from in ["10.1.0.9", "shop/cart"] {
            let said = cluster.run(&["explain", "--from", from, "10.96.0.5:80"]);
            assert_eq!(said.code, Some(0), "{said:#?}");
            said.has(&["10.1.0.9 -> 10.96.0.5:80", "100.0 %  to 10.0.0.2:8080", "node n1 (the client's pod is there)"]);
        }
        let said = cluster.run(&["explain", "--from", "10.0.0.3", "10.96.0.5:80"]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        said.has(&["node n3 decides about this connection, as 10.0.0.3 is its own address, and has no pod"]);
        let said = cluster.run(&["explain", "--from", "203.0.113.9", "10.96.0.5:80"]);
        said.has(&["any: 203.0.113.9 is no node's, nor the first address of a pod"]);
        assert_eq!(cluster.run(&["explain", "--from", "cart", "10.96.0.5:80"]).code, Some(2));
    });
}

#[test]
fn one_bundle_has_all_nodes() {
    in_netns(|| {
        let cluster = Cluster::start();
        cluster.kubectl.prints("get nodes -o wide", "NAME\nn1\n");
        cluster.kubectl.prints("version", "Server Version: v1.36.2\n");
        let said = cluster.run(&["bundle", "all.tar.gz"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        said.has(&["all.tar.gz", "not complete"]);
        let path = cluster.kubectl.path().join("all.tar.gz");
        let list = |words: &[&str]| Said::of(Command::new("tar").args(words).arg(&path).output().expect("tar")).out;
        let names = list(&["-tzf"]);
        for name in ["nodes.txt", "n1/p1/status.json", "n1/p1/table-ip.nft", "n1/p1/check.json", "n1/p1/log.txt"] {
            assert!(names.contains(&format!("portway-bundle/{name}\n")), "{name}: {names}");
        }
        let missing = Command::new("tar").args(["-xzOf"]).arg(&path).arg("portway-bundle/missing.txt").output();
        let missing = Said::of(missing.expect("tar")).out;
        for words in ["n2/p2: ", "n3: no pod of Portway", "n4/p4: does not run: Pending: ImagePullBackOff"] {
            assert!(missing.contains(words), "{words}: {missing}");
        }
        let again = cluster.run(&["bundle", "all.tar.gz"]);
        assert_eq!(again.code, Some(2), "{again:#?}");
        again.has(&["cannot create all.tar.gz"]);
    });
}

#[test]
fn a_cluster_is_checked_before_there_is_a_pod() {
    let kubectl = FakeKubectl::new();
    kubectl.has("version", &json!({"serverVersion": {"gitVersion": "v1.36.2", "minor": "36"}}));
    let nodes = [node("a", "10.0.0.1", "6.18.44"), node("b", "10.0.0.2", "5.4.0-100-generic")];
    kubectl.has("get nodes", &json!({"items": nodes}));
    kubectl.has(PODS, &json!({"items": []}));
    kubectl.has("get namespace kube-system", &json!({"metadata": {"name": "kube-system"}}));
    let set = json!({"metadata": {"namespace": "kube-system", "name": "kube-proxy"}, "status": {"desiredNumberScheduled": 2}});
    kubectl.has("get daemonsets --all-namespaces", &json!({"items": [set]}));
    let config = include_str!("config/kubeadm.yaml");
    let map = json!({"metadata": {"name": "kube-proxy"}, "data": {"config.conf": config}});
    kubectl.has("get configmap kube-proxy -n kube-system", &map);
    let slice = json!({"ports": [{"port": 6443}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let label = "kubernetes.io/service-name=kubernetes";
    kubectl.has(&format!("get endpointslices -n default -l {label}"), &json!({"items": [slice]}));
    for right in ["daemonsets.apps", "configmaps", "serviceaccounts", "secrets", "pods/exec"] {
        kubectl.prints(&format!("auth can-i create {right} -n kube-system"), "yes\n");
    }
    for (verb, right, answer) in [
        ("create", "clusterroles.rbac.authorization.k8s.io", "no\n"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io", "no - no such role\n"),
        ("list", "services", "yes\n"),
        ("list", "nodes", "yes\n"),
        ("list", "endpointslices.discovery.k8s.io", "yes\n"),
    ] {
        kubectl.prints(&format!("auth can-i {verb} {right} --all-namespaces"), answer);
    }
    let said = Said::of(kubectl.plugin(&["check"]));
    assert_eq!(said.code, Some(1), "{said:#?}");
    said.has(&["v1.36.2", "5.4.0-100-generic: b", "mode iptables", "kube-system/kube-proxy runs on 2 nodes"]);
    said.has(&["may not create clusterroles.rbac.authorization.k8s.io, create clusterrolebindings"]);
    said.has(&["10.0.0.1:6443: for k8sServiceHost", "only a node itself can tell"]);
    // Whoever may do less is told what is known without, and what is not.
    for file in [PODS, "get nodes"] {
        let name: String = file.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        std::fs::remove_file(kubectl.path().join(name)).expect("it was there");
    }
    let said = Said::of(kubectl.plugin(&["check"]));
    assert_eq!(said.code, Some(1), "{said:#?}");
    said.has(&["v1.36.2", "may not create", "ask as somebody who may list pods", "ask as somebody who may list nodes"]);
}

#[test]
fn a_cluster_with_portway_is_checked_on_its_nodes() {
    in_netns(|| {
        let cluster = Cluster::start();
        cluster.kubectl.has("version", &json!({"serverVersion": {"gitVersion": "v1.36.2", "minor": "36"}}));
        let said = cluster.run(&["check"]);
        said.has(&["n1: ", "on the node", "n4: does not answer: does not run", "connection refused"]);
        assert!(!said.err.contains("only a node itself"), "{said:#?}");
    });
}

/// As kubectl asks the program that completes a plugin's words.
#[test]
fn kubectl_completes_its_words() {
    let kubectl = FakeKubectl::new();
    let complete = |words: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/kubectl_complete-portway");
        let path =
            kubectl.command(&[]).get_envs().find_map(|(name, value)| value.filter(|_| name == "PATH").map(Into::into));
        let path: std::ffi::OsString = path.expect("a PATH");
        let said = Said::of(Command::new(script).args(words).env("PATH", path).output().expect("started"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{words:?}: {said:#?}");
        let lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
        assert_eq!(lines.last().map(String::as_str), Some(":4"), "{words:?}: {said:#?}");
        lines[..lines.len() - 1].to_vec()
    };
    let all = complete(&[""]);
    for command in ["status", "check", "explain", "bundle", "test"] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
    assert!(!all.iter().any(|word| word.starts_with('-')), "{all:?}");
    assert_eq!(complete(&["stat"]), ["status"]);
    assert_eq!(complete(&["status", "--stri"]), ["--strict"]);
    assert_eq!(complete(&["status", "--output", "js"]), ["json"]);
    assert_eq!(complete(&["nosuch", "x"]), [""; 0]);
}

/// Commands in the documents are ones there are, with flags there are.
#[test]
fn documents_show_commands_there_are() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let kubectl = FakeKubectl::new();
    let mut found = 0;
    for file in ["README.md", "docs/kubectl.md", "docs/migration.md", "docs/install.md", "charts/portway/README.md"] {
        let text = std::fs::read_to_string(root.join(file)).expect("text");
        let lines = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
        for line in lines {
            let words = line
                .strip_prefix("kubectl portway ")
                .or(line.strip_prefix("portway test").and(line.strip_prefix("portway ")));
            let Some(words) = words else { continue };
            let words: Vec<&str> = words.split_whitespace().chain(["--help"]).collect();
            let said = Said::of(kubectl.plugin(&words));
            assert!(said.code == Some(0) && said.out.contains("Usage: kubectl portway"), "{file}: {line}: {said:#?}");
            found += 1;
        }
    }
    assert!(found >= 10, "only {found}");
}

/// Whoever interrupts it waits for nobody.
#[test]
fn an_interrupt_ends_it() {
    in_netns(|| {
        let cluster = Cluster::start();
        cluster.kubectl.does("exec", "p2", "exec sleep 60\n");
        let plugin = cluster.kubectl.command(&["status"]);
        // Whatever started the tests may ignore interrupts, as shells do for what runs in the background.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(plugin.get_program()).args(plugin.get_args());
        command.envs(plugin.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(plugin.get_current_dir().expect("a folder"));
        let child = command.stdout(Stdio::null()).spawn().expect("started");
        std::thread::sleep(Duration::from_millis(700));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        let output = child.wait_with_output().expect("ended");
        assert_eq!(output.status.signal(), Some(2));
    });
}
