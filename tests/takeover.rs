//! The swap: kube-proxy's rules to ours and back, and from the table of an earlier version, under a client that connects
//! without pause. And both proxies side by side.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
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

/// The shape of our own table when affinity records were kept for each address and port.
const EARLIER: &str = "
table ip portway {
    map services {
        type ipv4_addr . inet_proto . inet_service : verdict
        counter
    }
    map affinity {
        type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
        size 131072
        flags dynamic,timeout
    }
    chain sticky-1 {
        dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity
        meta l4proto tcp dnat to 10.244.1.2:8080
    }
    chain dispatch {
        ip daddr . meta l4proto . th dport vmap @services
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump dispatch
    }
}
add element ip portway services { 10.96.0.1 . tcp . 80 : goto sticky-1 }
";

const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

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

/// A client, a node and a pod that answers, in a row.
struct Street {
    client: Arc<Namespace>,
    node: Arc<Namespace>,
}

impl Street {
    fn build() -> Self {
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
        let server = pod.clone();
        std::thread::spawn(move || {
            server.enter().expect("entered");
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
        Self { client, node }
    }

    /// Loads rules on the node.
    fn load(&self, rules: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rules.nft");
        std::fs::write(&file, rules).expect("writable");
        output(&self.node, "nft", &["-f", file.to_str().expect("plain")]);
    }

    /// Starts Portway on the node.
    fn portway(&self, folder: &Path, manifests: &str, more: &[&str]) -> Child {
        std::fs::write(folder.join("all.yaml"), manifests).expect("writable");
        let folder = folder.to_str().expect("plain");
        let run = ["run", "--manifests", folder, "--hostname-override", "node-a", "--cluster-cidr", "10.244.0.0/16"];
        start(&self.node, PORTWAY, &[&run[..], more].concat())
    }
}

#[test]
fn from_kube_proxy_to_portway_and_back_without_a_lost_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let street = Street::build();
    street.load(KUBE_PROXY);
    let asking = Client::start(street.client.clone(), "10.96.0.1:80");
    asking.ask(300);

    let mut child = street.portway(folder.path(), MANIFESTS, &["--takeover"]);
    eventually("the takeover", || {
        let tables = output(&street.node, "nft", &["list", "tables"]);
        tables.contains("portway") && !tables.contains("kube-proxy")
    });
    asking.ask(500);

    // Back: kube-proxy starts and programs, then Portway ends and its tables go.
    street.load(KUBE_PROXY);
    asking.ask(200);
    child.kill().expect("killed");
    child.wait().expect("ended");
    asking.ask(200);
    let mut cleanup = start(&street.node, PORTWAY, &["cleanup", "--stay"]);
    let mut said = BufReader::new(cleanup.stdout.take().expect("piped")).lines();
    assert!(said.any(|line| line.expect("text").starts_with("staying")), "it stays");
    assert!(!output(&street.node, "nft", &["list", "tables"]).contains("portway"));
    asking.ask(500);
    let pid = Pid::from_raw(i32::try_from(cleanup.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("sent");
    assert!(cleanup.wait().expect("ended").success(), "told to stop, it ends");

    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    println!("{asked} connections through both swaps, none lost");
}

#[test]
fn the_table_of_an_earlier_version_is_replaced_without_a_lost_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let street = Street::build();
    street.load(EARLIER);
    let asking = Client::start(street.client.clone(), "10.96.0.1:80");
    asking.ask(300);
    let table = || output(&street.node, "nft", &["list", "map", "ip", "portway", "affinity"]);
    assert!(!table().contains("classid"));
    let mut child = street.portway(folder.path(), MANIFESTS, &[]);
    eventually("the new table", || table().contains("classid"));
    asking.ask(500);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let (asked, failures) = asking.finish();
    assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
}

#[test]
fn beside_kube_proxy_each_serves_its_services() {
    let folder = tempfile::tempdir().expect("a folder");
    let street = Street::build();
    street.load(KUBE_PROXY);
    let theirs = Client::start(street.client.clone(), "10.96.0.1:80");
    theirs.ask(100);
    let manifests = format!("{MANIFESTS}---{LABELLED}");
    let mut child = street.portway(folder.path(), &manifests, &["--service-proxy-name", "portway"]);
    eventually("our table", || output(&street.node, "nft", &["list", "ruleset"]).contains("default/ours"));
    let table = output(&street.node, "nft", &["list", "table", "ip", "portway"]);
    assert!(!table.contains("default/web"), "{table}");

    let ours = Client::start(street.client.clone(), "10.96.0.2:80");
    ours.ask(200);
    theirs.ask(200);
    for client in [ours, theirs] {
        let (asked, failures) = client.finish();
        assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}
