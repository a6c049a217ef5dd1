//! A stand-in for kube-proxy on the node of a network, and a load balancer's view of the node.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::netns::Namespace;
use super::one_pod::OnePodNetwork;

/// What it answers on all of its ports.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nkube-proxy";
/// kube-proxy 1.36's shape in its nftables mode, for the pod's Services. They replace rules of its own from before.
pub fn rules(cluster_ips: &[&str]) -> String {
    let add = |ip: &&str| format!("add element ip kube-proxy service-ips {{ {ip} . tcp . 80 : goto service-A }}\n");
    format!("{TABLE}{}", cluster_ips.iter().map(add).collect::<String>())
}

const TABLE: &str = "
add table ip kube-proxy
delete table ip kube-proxy
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
";
/// From its start until its rules are in force.
const UNTIL_RULES: Duration = Duration::from_secs(2);
/// Its metrics, its health, and the health checks of a Service.
pub const PORTS: [(Ipv4Addr, u16); 3] =
    [(Ipv4Addr::LOCALHOST, 10249), (Ipv4Addr::UNSPECIFIED, 10256), (Ipv4Addr::new(192, 168, 7, 1), 31000)];

/// As kube-proxy does, it tries each port once and never again, and adds its rules a while later. When it ends, they stay.
pub struct KubeProxy {
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
    /// Ports that somebody else had.
    pub taken: Vec<u16>,
    rules: Option<String>,
    started: Instant,
}

impl KubeProxy {
    /// Binds its ports; its rules come by [`KubeProxy::program`].
    pub fn start(network: &OnePodNetwork, rules: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut servers, mut taken) = (Vec::new(), Vec::new());
        for address in PORTS.map(SocketAddr::from) {
            match within(&network.node, || TcpListener::bind(address)) {
                Ok(listener) => servers.push(serve(listener, stop.clone())),
                Err(_) => taken.push(address.port()),
            }
        }
        Self { stop, servers, taken, rules: Some(rules.to_owned()), started: Instant::now() }
    }

    /// Adds its rules when their time has come.
    pub fn program(&mut self, network: &OnePodNetwork) {
        sleep(UNTIL_RULES.saturating_sub(self.started.elapsed()));
        network.load(&self.rules.take().expect("once"));
    }

    /// Ends it; its rules stay.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.servers.into_iter().for_each(|server| server.join().expect("served"));
    }
}

fn serve(listener: TcpListener, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    listener.set_nonblocking(true).expect("set");
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                sleep(Duration::from_millis(1));
                continue;
            };
            let mut request = [0; 1024];
            stream.set_nonblocking(false).expect("set");
            // Who asks may have gone.
            drop(stream.read(&mut request).and_then(|_| stream.write_all(ANSWER.as_bytes())));
        }
    })
}

/// Who answers 200 at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Portway,
    KubeProxy,
}

/// Asks all ports without pause, as a load balancer does now and then.
pub struct LoadBalancer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<u16, Seen>>,
}

/// What was seen of a port.
#[derive(Debug, Clone)]
pub struct Seen {
    last: Option<Instant>,
    /// The longest time without an answer between two answers.
    pub pause: Duration,
    /// Who answered last.
    pub owner: Option<Owner>,
}

impl LoadBalancer {
    pub fn start(network: &OnePodNetwork) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (node, stopped) = (network.node.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            node.enter().expect("the node");
            let mut seen = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                for (ip, port) in PORTS {
                    let seen = seen.entry(port).or_insert(Seen { last: None, pause: Duration::ZERO, owner: None });
                    let ip = if ip.is_unspecified() { Ipv4Addr::new(192, 168, 7, 1) } else { ip };
                    let Some(owner) = ask((ip, port).into()) else { continue };
                    let now = Instant::now();
                    let pause = seen.last.map_or(Duration::ZERO, |last| now.duration_since(last));
                    *seen = Seen { last: Some(now), pause: seen.pause.max(pause), owner: Some(owner) };
                }
                sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> BTreeMap<u16, Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load balancer")
    }
}

/// Who answers on the node at this moment, at each port.
pub fn owners(network: &OnePodNetwork) -> BTreeMap<u16, Option<Owner>> {
    let ask = |(ip, port): (Ipv4Addr, u16)| {
        let ip = if ip.is_unspecified() { Ipv4Addr::new(192, 168, 7, 1) } else { ip };
        (port, within(&network.node, || ask((ip, port).into())))
    };
    PORTS.into_iter().map(ask).collect()
}

fn ask(address: SocketAddr) -> Option<Owner> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let is_fine = answer.split_whitespace().nth(1) == Some("200");
    is_fine.then(|| if answer.ends_with("\r\n\r\nkube-proxy") { Owner::KubeProxy } else { Owner::Portway })
}

/// Does something in a network namespace.
pub fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        namespace.enter().expect("the namespace");
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().expect("done"))
}
