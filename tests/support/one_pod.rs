//! A client, a node and a pod in a row; the client connects without pause.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::manifests::{ipv4_slice, service};
use super::netns::{Namespace, ip_batch, set_sysctls};
use super::program::program_file;
use super::wait::eventually;

/// A Service of the pod, and the node.
pub fn manifests() -> String {
    const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.7.1}]}
---
";
    [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"), &pod_slice("web")].concat()
}

/// The slice of a Service of the pod.
pub fn pod_slice(service: &str) -> String {
    ipv4_slice(service, &["10.244.1.2"], Some("node-a"))
}

/// Asks without pause, some 1,000 times a second, until told to stop.
pub struct Client {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Client {
    pub fn start(namespace: Arc<Namespace>, service: &str) -> Self {
        let service: SocketAddr = service.parse().expect("an address");
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            namespace.enter().expect("the client's namespace");
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let result = TcpStream::connect_timeout(&service, Duration::from_millis(900)).and_then(|mut stream| {
                    let mut answer = [0; 3];
                    stream.read_exact(&mut answer)?;
                    Ok(answer)
                });
                match result {
                    Ok(answer) if answer == *b"pod" => {}
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
    pub fn ask(&self, more: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.asked.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the client got stuck");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it. No request may have failed; says how many there were.
    pub fn lost_nothing(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().expect("the client");
        let asked = self.asked.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {asked} failed: {failures:?}", failures.len());
        asked
    }
}

/// Runs a program in a namespace.
pub fn start(namespace: &Namespace, program: impl AsRef<OsStr> + Send, args: &[&str]) -> Child {
    std::thread::scope(|scope| {
        let spawn = || {
            namespace.enter().expect("the namespace");
            Command::new(program).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
        };
        scope.spawn(spawn).join().expect("spawned")
    })
}

/// Kills a program, and waits until it has ended.
pub fn kill(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("ended");
}

/// Tells a program to end, and waits until it has.
pub fn terminate(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    signal::kill(pid, Signal::SIGTERM).expect("it runs");
    child.wait().expect("ended")
}

pub fn output(namespace: &Namespace, program: &str, args: &[&str]) -> String {
    let output = start(namespace, program, args).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).expect("text")
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
pub struct OnePodNetwork {
    pub client: Arc<Namespace>,
    pub node: Arc<Namespace>,
}

impl OnePodNetwork {
    pub fn build() -> Self {
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
            for mut stream in listener.incoming().flatten() {
                // The client closes first. Otherwise the pod would remember its connections in TIME_WAIT, and refuse a new one
                // that masquerading gave the random port of an old one.
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
                drop(stream.write_all(b"pod").and_then(|()| stream.read(&mut [0])));
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
    pub fn load(&self, rules: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rules.nft");
        std::fs::write(&file, rules).expect("writable");
        output(&self.node, "nft", &["-f", file.to_str().expect("plain")]);
    }

    /// Starts Portway on the node.
    pub fn portway(&self, folder: &Path, manifests: &str, more: &[&str]) -> Child {
        std::fs::write(folder.join("all.yaml"), manifests).expect("writable");
        let folder = folder.to_str().expect("plain");
        let run = ["run", "--manifests", folder, "--hostname-override", "node-a", "--cluster-cidr", "10.244.0.0/16"];
        start(&self.node, program_file(), &[&run[..], more].concat())
    }
}
