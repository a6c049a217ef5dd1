//! The swap: kube-proxy's rules to ours and back, under a client that connects without pause. And both side by side.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::netns::{Namespace, ip_batch, set_sysctls};

/// kube-proxy 1.36's shape for one Service, in its nftables mode.
const KUBE_PROXY: &str = "
table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain endpoint-A {
        meta l4proto tcp dnat to 10.244.1.2:8080
    }
    chain service-A {
        ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        numgen random mod 1 vmap { 0 : goto endpoint-A }
    }
    chain mark-for-masquerade {
        meta mark set meta mark | 0x4000
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain filter-forward {
        type filter hook forward priority filter; policy accept;
        ct state new ip daddr 10.96.0.0/12 drop
    }
}
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-A }
";

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.244.1.2], nodeName: node-a}]
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.7.1}]}
";

/// A Service for the proxy named `portway`, and the range of all ClusterIPs.
const LABELLED: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: default, name: ours, labels: {service.kubernetes.io/service-proxy-name: portway}}
spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: ours-1, labels: {kubernetes.io/service-name: ours}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.244.1.2], nodeName: node-a}]
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12]}
";

/// Asks without pause, some 1,000 times a second, until told to stop.
struct Client {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Client {
    fn start(namespace: Arc<Namespace>, service: &str) -> Self {
        let service: SocketAddr = service.parse().expect("an address");
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            namespace.enter().expect("the client's namespace");
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let result = TcpStream::connect_timeout(&service, Duration::from_millis(900)).and_then(|mut stream| {
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer)?;
                    Ok(answer)
                });
                match result {
                    Ok(answer) if answer == "pod" => {}
                    other => failures.push(format!("{other:?}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(1_000).saturating_sub(start.elapsed()));
            }
            failures
        });
        Self { stop, asked, thread }
    }

    /// Waits until this many more requests were made.
    fn ask(&self, more: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.asked.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the client got stuck");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().expect("the client");
        (self.asked.load(Ordering::Relaxed), failures)
    }
}

/// Runs a program in a namespace.
fn start(namespace: &Namespace, program: &str, args: &[&str]) -> Child {
    std::thread::scope(|scope| {
        let spawn = || {
            namespace.enter().expect("the namespace");
            Command::new(program).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
        };
        scope.spawn(spawn).join().expect("spawned")
    })
}

fn output(namespace: &Namespace, program: &str, args: &[&str]) -> String {
    let output = start(namespace, program, args).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn namespace(commands: &str) -> Arc<Namespace> {
    std::thread::scope(|scope| {
        let make = || {
            let namespace = Namespace::create().expect("network namespaces need root");
            ip_batch(commands).expect("links");
            Arc::new(namespace)
        };
        scope.spawn(make).join().expect("made")
    })
}

/// A folder of manifests, and kube-proxy's rules for `nft -f` in it.
fn files(manifests: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("all.yaml"), manifests).expect("writable");
    let rules = folder.path().join("kube-proxy.nft");
    std::fs::write(&rules, KUBE_PROXY).expect("writable");
    (folder, rules)
}

/// A client, and the node between it and a pod that serves.
fn world() -> (Arc<Namespace>, Arc<Namespace>) {
    let (client, pod) = (namespace("link set lo up"), namespace("link set lo up"));
    let node = namespace(&format!(
        "link set lo up\nlink add c type veth peer name eth0 netns {}\nlink add p type veth peer name eth0 netns {}\n\
         addr add 192.168.7.1/24 dev c\naddr add 10.244.1.1/24 dev p\nlink set c up\nlink set p up",
        client.path(),
        pod.path()
    ));
    for (namespace, address, gateway) in
        [(&client, "192.168.7.2/24", "192.168.7.1"), (&pod, "10.244.1.2/24", "10.244.1.1")]
    {
        let commands = format!("addr add {address} dev eth0\nlink set eth0 up\nroute add default via {gateway}");
        std::thread::scope(|scope| {
            let set = || {
                namespace.enter().expect("entered");
                ip_batch(&commands).expect("addresses");
            };
            scope.spawn(set).join().expect("set up");
        });
    }
    std::thread::scope(|scope| {
        let forward = || {
            node.enter().expect("entered");
            set_sysctls(&[("net/ipv4/ip_forward", "1")]).expect("forwarding");
        };
        scope.spawn(forward).join().expect("set up");
    });
    std::thread::spawn(move || {
        pod.enter().expect("entered");
        let listener = TcpListener::bind("10.244.1.2:8080").expect("bound");
        for stream in listener.incoming().flatten() {
            use std::io::Write;
            let mut stream = stream;
            drop(stream.write_all(b"pod"));
        }
    });
    // New links lose what is sent before the kernel has noticed that they are up.
    std::thread::scope(|scope| {
        let reach = || {
            client.enter().expect("entered");
            let pod: SocketAddr = "10.244.1.2:8080".parse().expect("an address");
            eventually("the first packet", || TcpStream::connect_timeout(&pod, Duration::from_millis(100)).is_ok());
        };
        scope.spawn(reach).join().expect("reached");
    });
    (client, node)
}

#[test]
fn from_kube_proxy_to_portway_and_back_without_a_lost_connection() {
    let (folder, rules) = files(MANIFESTS);
    let (folder, rules) = (folder.path().to_str().expect("plain"), rules.to_str().expect("plain"));
    let (client, node) = world();

    output(&node, "nft", &["-f", rules]);
    let asking = Client::start(client, "10.96.0.1:80");
    asking.ask(300);

    let portway = env!("CARGO_BIN_EXE_portway");
    let run = ["run", "--manifests", folder, "--hostname-override", "node-a", "--cluster-cidr", "10.244.0.0/16"];
    let mut child = start(&node, portway, &[&run[..], &["--takeover"]].concat());
    eventually("the takeover", || {
        let tables = output(&node, "nft", &["list", "tables"]);
        tables.contains("portway") && !tables.contains("kube-proxy")
    });
    asking.ask(500);

    // Back: kube-proxy starts and programs, then Portway ends and its tables go.
    output(&node, "nft", &["-f", rules]);
    asking.ask(200);
    child.kill().expect("killed");
    child.wait().expect("ended");
    asking.ask(200);
    let mut cleanup = start(&node, portway, &["cleanup", "--stay"]);
    let mut said = BufReader::new(cleanup.stdout.take().expect("piped")).lines();
    assert!(said.any(|line| line.expect("text").starts_with("staying")), "it stays");
    assert!(!output(&node, "nft", &["list", "tables"]).contains("portway"));
    asking.ask(500);
    let pid = Pid::from_raw(i32::try_from(cleanup.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("sent");
    assert!(cleanup.wait().expect("ended").success(), "told to stop, it ends");

    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    println!("{asked} connections through both swaps, none lost");
}

#[test]
fn beside_kube_proxy_each_serves_its_services() {
    let (folder, rules) = files(&format!("{MANIFESTS}---{LABELLED}"));
    let (folder, rules) = (folder.path().to_str().expect("plain"), rules.to_str().expect("plain"));
    let (client, node) = world();

    output(&node, "nft", &["-f", rules]);
    let theirs = Client::start(client.clone(), "10.96.0.1:80");
    theirs.ask(100);
    let run = ["run", "--manifests", folder, "--hostname-override", "node-a", "--cluster-cidr", "10.244.0.0/16"];
    let portway = env!("CARGO_BIN_EXE_portway");
    let mut child = start(&node, portway, &[&run[..], &["--service-proxy-name", "portway"]].concat());
    eventually("our table", || output(&node, "nft", &["list", "ruleset"]).contains("default/ours"));
    let table = output(&node, "nft", &["list", "table", "ip", "portway"]);
    assert!(!table.contains("default/web"), "{table}");

    let ours = Client::start(client, "10.96.0.2:80");
    ours.ask(200);
    theirs.ask(200);
    for client in [ours, theirs] {
        let (asked, failures) = client.finish();
        assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}
