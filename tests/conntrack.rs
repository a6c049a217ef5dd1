//! UDP clients that keep their source port follow their Service, with real flows through the real kernel.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::conntrack::{Cleaning, ConntrackObserver};
use portway::controller::Controller;
use portway::model::{EndpointSlice, Event, Family, ObjectKey, Protocol, Service, ServicePort, ServiceType, SlicePort};
use portway::nftables::NftKernel;
use portway::testing::{self, added, added_node, added_slice, all_listed, endpoint, ip, service_port, slice_port};
use support::netns::{Namespace, ip_batch, output_of, set_sysctls};

const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses of the two backends, the client pod, the client outside, and the node, in one family.
struct Plan {
    backends: [&'static str; 2],
    client_pod: &'static str,
    outside: &'static str,
    node: &'static str,
    cluster_ip: &'static str,
    external_ip: &'static str,
}

const IPV4: Plan = Plan {
    backends: ["10.1.0.1", "10.1.0.2"],
    client_pod: "10.1.0.9",
    outside: "192.168.9.2",
    node: "192.168.9.1",
    cluster_ip: "10.96.0.10",
    external_ip: "1.2.3.4",
};
const IPV6: Plan = Plan {
    backends: ["fd01::1", "fd01::2"],
    client_pod: "fd01::9",
    outside: "fd09::2",
    node: "fd09::1",
    cluster_ip: "fd96::10",
    external_ip: "fd0e::4",
};

/// A backend that answers every datagram with its own name, on every port given.
struct Backend {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    fn start(address: &str, ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = ports.iter().map(|port| {
            let name = SocketAddr::new(ip(address), *port);
            let socket = UdpSocket::bind(name).expect("a backend's socket");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                        socket.send_to(name.to_string().as_bytes(), client).ok();
                    }
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
    }
}

/// A client that keeps its source port.
struct Client(UdpSocket);

impl Client {
    fn new(address: &str) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(ip(address), 0)).expect("a client's socket");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        Self(socket)
    }

    /// Who answers; `None` for silence or a refusal.
    fn ask(&self, to: SocketAddr) -> Option<String> {
        let mut buffer = [0; 64];
        // A refusal of an earlier datagram is reported here, once.
        if self.0.send_to(b"who?", to).is_err() {
            self.0.send_to(b"who?", to).ok()?;
        }
        let (len, from) = self.0.recv_from(&mut buffer).ok()?;
        assert_eq!(from, to, "answers come from where the question went");
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("bound").port()
    }
}

/// The node with two backends, a client pod and a client outside, each in a namespace of its own, and Portway.
struct World {
    plan: Plan,
    node: Namespace,
    pod: Namespace,
    outside: Namespace,
    controller: Controller<NftKernel>,
    cleanings: Receiver<Cleaning>,
    _backends: Vec<(Namespace, Backend)>,
}

impl World {
    fn new(plan: Plan) -> Self {
        let node = Namespace::create().expect("network namespaces need root");
        ip_batch("link set lo up").expect("loopback");
        set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).expect("forwarding");
        let backends = plan.backends.iter().enumerate().map(|(index, address)| {
            let namespace = attach(&node, &format!("backend{index}"), address, false, &plan);
            namespace.enter().expect("the backend's namespace");
            (namespace, Backend::start(address, &[53, 5353]))
        });
        let backends = backends.collect();
        let pod = attach(&node, "client", plan.client_pod, false, &plan);
        let outside = attach(&node, "outside", plan.outside, true, &plan);
        node.enter().expect("the node's namespace");

        let (sender, cleanings) = channel();
        let observer = ConntrackObserver::start(move |cleaning| {
            sender.send(cleaning.clone()).ok();
        });
        let options = Options::new("here");
        let (mut controller, _) = Controller::new(NftKernel::open().expect("nf_tables"), options);
        controller.observe(observer.expect("ctnetlink"));
        let node_events =
            [added_node(testing::node("here", &[plan.node])), Event::LocalAddresses([ip(plan.node)].into())];
        controller.handle(node_events.into_iter().chain(all_listed()), Instant::now());
        Self { plan, node, pod, outside, controller, cleanings, _backends: backends }
    }

    fn family(&self) -> Family {
        Family::of(ip(self.plan.node))
    }

    /// Applies changes and waits until stale entries are gone.
    fn change(&mut self, events: impl IntoIterator<Item = Event>) -> Cleaning {
        while self.cleanings.try_recv().is_ok() {}
        self.controller.handle(events, Instant::now());
        let cleaning = self.cleanings.recv_timeout(PATIENCE).expect("a cleaning run");
        assert_eq!((cleaning.family, &cleaning.error), (self.family(), &None));
        cleaning
    }

    /// Applies changes that no cleaning must follow.
    fn change_quietly(&mut self, events: impl IntoIterator<Item = Event>) {
        self.controller.handle(events, Instant::now());
        assert!(self.cleanings.recv_timeout(Duration::from_millis(200)).is_err(), "nothing to clean");
    }

    fn client(&self, place: &str) -> Client {
        let (namespace, address) = match place {
            "pod" => (&self.pod, self.plan.client_pod),
            "outside" => (&self.outside, self.plan.outside),
            _ => (&self.node, self.plan.node),
        };
        namespace.enter().expect("the client's namespace");
        let client = Client::new(address);
        self.node.enter().expect("the node's namespace");
        client
    }

    fn at(&self, address: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip(address), port)
    }

    fn backend(&self, index: usize, port: u16) -> Option<String> {
        Some(self.at(self.plan.backends[index], port).to_string())
    }

    /// The Service `dns` with all kinds of frontends.
    fn service(&self) -> Service {
        Service {
            created: Some(1),
            service_type: ServiceType::LoadBalancer,
            external_ips: vec![ip(self.plan.external_ip)],
            ports: vec![ServicePort { protocol: Protocol::Udp, node_port: Some(30053), ..service_port("", 53) }],
            ..testing::service("dns", self.plan.cluster_ip)
        }
    }

    fn put_service(&self) -> Event {
        added(self.service())
    }

    /// The slice of `dns` with some of the backends.
    fn slice(&self, backends: &[usize], port: u16) -> Event {
        added_slice(EndpointSlice {
            key: ObjectKey::new("ns", "dns"),
            family: self.family(),
            ports: vec![SlicePort { protocol: Protocol::Udp, ..slice_port("", port) }],
            endpoints: backends.iter().map(|index| endpoint(ip(self.plan.backends[*index]), "here")).collect(),
            ..testing::slice("dns", "", &[])
        })
    }

    /// How many entries of UDP flows from a port the kernel has.
    fn entries(&self, client: &Client) -> usize {
        let family = self.family().to_string().to_lowercase();
        let port = client.port().to_string();
        let listed = output_of("conntrack", &["-L", "-f", &family, "-p", "udp", "--sport", &port]);
        listed.lines().filter(|line| line.contains("udp")).count()
    }

    /// From where to where clients talk to `dns`.
    fn paths(&self) -> Vec<(String, Client, SocketAddr)> {
        let frontends = [(self.plan.cluster_ip, 53), (self.plan.external_ip, 53), (self.plan.node, 30053)]
            .map(|(a, p)| self.at(a, p));
        let mut paths = Vec::new();
        for place in ["pod", "node", "outside"] {
            for frontend in frontends {
                paths.push((format!("{place} to {frontend}"), self.client(place), frontend));
            }
        }
        paths
    }
}

/// Makes a namespace with one address, connected to the node by a cable of its own.
fn attach(node: &Namespace, name: &str, address: &str, uplink: bool, plan: &Plan) -> Namespace {
    let inside = Namespace::create().expect("network namespaces need root");
    let v6 = address.contains(':');
    let (bits, gateway, nodad) = if v6 { (128, "fe80::1", "nodad") } else { (32, "169.254.1.1", "") };
    node.enter().expect("the node's namespace");
    ip_batch(&format!("link add {name} type veth peer name eth0 netns {}", inside.path())).expect("a cable");
    let mut here = format!("link set {name} up\naddress add {gateway}/{bits} dev {name} {nodad}\n");
    if v6 {
        here = format!("link set {name} addrgenmode none\n{here}");
    }
    here += &format!("route add {address}/{bits} dev {name}\n");
    if uplink {
        here += &format!("address add {}/{bits} dev {name} {nodad}\n", plan.node);
        here += &format!("route add default via {address} dev {name} src {}\n", plan.node);
    }
    ip_batch(&here).expect("the node's end");
    inside.enter().expect("the new namespace");
    ip_batch(&format!(
        "link set lo up\nlink set eth0 up\naddress add {address}/{bits} dev eth0 {nodad}\n\
         route add default via {gateway} dev eth0 onlink\n"
    ))
    .expect("the other end");
    inside
}

/// Runs a test on a thread of its own, which it may move between namespaces.
fn in_world(plan: Plan, test: impl FnOnce(&mut World) + Send + 'static) {
    let result = std::thread::spawn(move || test(&mut World::new(plan))).join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn follows_the_service(plan: Plan) {
    in_world(plan, |world| {
        world.change([world.put_service(), world.slice(&[0], 53)]);
        let paths = world.paths();
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{path}, at first");
        }
        let cleaning = world.change([world.slice(&[1], 53)]);
        assert_eq!(cleaning.deleted, paths.len() as u64);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(1, 53), "{path}, after a change of endpoint");
        }
        world.change([world.slice(&[1], 5353)]);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(1, 5353), "{path}, after a change of target port");
        }
        world.change([world.slice(&[], 53)]);
        for (path, client, frontend) in &paths {
            assert_eq!(world.entries(client), 0, "{path}, without endpoints");
            assert_eq!(client.ask(*frontend), None, "{path}, without endpoints");
        }
        world.change([world.slice(&[0], 53)]);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{path}, with an endpoint again");
        }
        world.change([Event::ServiceDeleted(ObjectKey::new("ns", "dns"))]);
        for (path, client, _) in &paths {
            assert_eq!(world.entries(client), 0, "{path}, without Service");
        }
    });
}

#[test]
fn clients_follow_the_service() {
    follows_the_service(IPV4);
}

#[test]
fn clients_follow_the_service_over_ipv6() {
    follows_the_service(IPV6);
}

#[test]
fn flows_from_before_the_service_are_translated_from_then_on() {
    in_world(IPV4, |world| {
        let paths = world.paths();
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), None, "{path}");
            assert!(world.entries(client) <= 1);
        }
        let before: usize = paths.iter().map(|(_, client, _)| world.entries(client)).sum();
        assert!(before >= 3, "there are untranslated entries: {before}");
        world.change([world.put_service(), world.slice(&[0], 53)]);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{path}");
        }
    });
}

#[test]
fn a_new_frontend_of_a_running_service_works_at_once() {
    in_world(IPV4, |world| {
        let mut plain = world.service();
        plain.external_ips.clear();
        plain.ports[0].node_port = None;
        world.change([Event::Service(Arc::new(plain)), world.slice(&[0], 53)]);
        let (vip, node_port) = (world.at(world.plan.external_ip, 53), world.at(world.plan.node, 30053));
        let clients = [(world.client("outside"), vip), (world.client("outside"), node_port)];
        for (client, frontend) in &clients {
            assert_eq!(client.ask(*frontend), None);
            assert_eq!(world.entries(client), 1, "untranslated");
        }
        world.change([world.put_service()]);
        for (client, frontend) in &clients {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{frontend}");
        }
    });
}

#[test]
fn flows_to_endpoints_that_still_serve_stay() {
    in_world(IPV4, |world| {
        world.change([world.put_service(), world.slice(&[0], 53)]);
        let paths = world.paths();
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{path}");
        }
        let Event::Slice(mut draining) = world.slice(&[0, 1], 53) else { unreachable!() };
        let first = &mut Arc::make_mut(&mut draining).endpoints[0];
        (first.ready, first.terminating) = (false, true);
        let cleaning = world.change([Event::Slice(draining.clone())]);
        assert_eq!(cleaning.deleted, 0);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(0, 53), "{path}, while it drains");
            assert_eq!(world.client("pod").ask(*frontend), world.backend(1, 53), "new flows go elsewhere");
        }
        Arc::make_mut(&mut draining).endpoints[0].serving = false;
        world.change([Event::Slice(draining)]);
        for (path, client, frontend) in &paths {
            assert_eq!(client.ask(*frontend), world.backend(1, 53), "{path}, when it has stopped");
        }
        let mut local = world.service();
        local.affinity_seconds = Some(10);
        world.change_quietly([Event::Service(Arc::new(local))]);
    });
}

#[test]
fn unrelated_flows_are_untouched() {
    in_world(IPV4, |world| {
        world.change([world.put_service(), world.slice(&[0], 53)]);
        let bystanders = [
            (world.client("pod"), world.at("192.168.9.2", 30053)),
            (world.client("pod"), world.at("192.168.9.2", 53)),
            (world.client("outside"), world.at("10.1.0.2", 53)),
            (world.client("node"), world.at("10.1.0.1", 53)),
            (world.client("outside"), world.at(world.plan.node, 53)),
        ];
        for (client, to) in &bystanders {
            client.ask(*to);
            assert_eq!(world.entries(client), 1, "{to}");
        }
        // Connections of other protocols that look just like those in question.
        for (protocol, state) in [
            ("tcp", &["--state", "ESTABLISHED"][..]),
            ("sctp", &["--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "2"]),
        ] {
            for (to, port, from) in [(world.plan.cluster_ip, "53", "4000"), (world.plan.node, "30053", "4001")] {
                let mut args = vec!["-I", "-p", protocol, "-s", "10.1.0.9", "-d", to, "--sport", from, "--dport", port];
                args.extend(["-r", "10.1.0.1", "-q", "10.1.0.9", "--reply-port-src", "53", "--reply-port-dst", from]);
                args.extend(["-t", "600"]);
                args.extend(state);
                let said = output_of("conntrack", &args);
                assert!(!said.contains("failed"), "{said}");
            }
        }
        // Flows in the zones of others, that look just like those in question.
        for zone in [&["--zone", "7"][..], &["--orig-zone", "8"]] {
            let mut args = vec!["-I", "-p", "udp", "-s", "10.1.0.9", "-d", world.plan.cluster_ip, "--sport", "4002"];
            args.extend(["--dport", "53", "-r", "10.1.0.77", "-q", "10.1.0.9", "--reply-port-src", "53"]);
            args.extend(["--reply-port-dst", "4002", "-t", "600"]);
            args.extend(zone);
            let said = output_of("conntrack", &args);
            assert!(!said.contains("failed"), "{said}");
        }
        let zoned = || output_of("conntrack", &["-L", "-p", "udp"]).matches("zone").count();
        assert_eq!(zoned(), 2, "{}", output_of("conntrack", &["-L"]));
        let others = |protocol| output_of("conntrack", &["-L", "-p", protocol]).lines().count();
        let (tcp, sctp) = (others("tcp"), others("sctp"));
        assert_eq!((tcp, sctp), (2, 2), "{}", output_of("conntrack", &["-L"]));
        world.change([world.slice(&[1], 53)]);
        world.change([world.slice(&[], 53)]);
        world.change([Event::ServiceDeleted(ObjectKey::new("ns", "dns"))]);
        for (client, to) in &bystanders {
            assert_eq!(world.entries(client), 1, "{to}");
        }
        assert_eq!((others("tcp"), others("sctp")), (tcp, sctp));
        assert_eq!(zoned(), 2, "{}", output_of("conntrack", &["-L"]));
    });
}

#[test]
fn the_kernel_tells_of_the_entries_in_question_only() {
    in_world(IPV4, |world| {
        world.change([world.put_service(), world.slice(&[0], 53)]);
        let elsewhere: Vec<Client> = (0..50).map(|_| world.client("node")).collect();
        elsewhere.iter().for_each(|client| {
            client.ask(world.at("10.1.0.1", 5353));
        });
        let client = world.client("pod");
        client.ask(world.at(world.plan.cluster_ip, 53));
        let cleaning = world.change([world.slice(&[1], 53)]);
        // Linux 5.8 and later.
        assert_eq!((cleaning.scanned, cleaning.deleted), (1, 1));
    });
}

#[test]
fn a_restart_leaves_good_flows_alone_and_clears_bad_ones() {
    let program = |folder: &std::path::Path| {
        let child = Command::new(env!("CARGO_BIN_EXE_portway"))
            .args(["run", "--hostname-override", "here", "--no-table-ownership", "-v", "4", "--manifests"])
            .arg(folder)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        Mutex::new(child.expect("the program"))
    };
    in_world(IPV4, move |world| {
        world.change([world.put_service(), world.slice(&[0, 1], 53)]);
        let frontend = world.at(world.plan.cluster_ip, 53);
        let clients: Vec<Client> = (0..30).map(|_| world.client("pod")).collect();
        let before: Vec<_> = clients.iter().map(|client| client.ask(frontend)).collect();
        assert!(before.contains(&world.backend(0, 53)) && before.contains(&world.backend(1, 53)));
        // From here on the program itself is in charge: its manifests have lost the first backend.
        let (idle, _) = Controller::new(NftKernel::open().expect("nf_tables"), Options::new("here"));
        drop(std::mem::replace(&mut world.controller, idle));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("dns.yaml"), manifests(&world.plan)).expect("manifests");
        let child = program(folder.path());
        let stale = |world: &World| {
            let gone = clients.iter().zip(&before).filter(|(_, answer)| **answer == world.backend(0, 53));
            gone.map(|(client, _)| world.entries(client)).sum::<usize>()
        };
        let deadline = Instant::now() + PATIENCE;
        while stale(world) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(stale(world), 0);
        for (client, answer) in clients.iter().zip(&before) {
            let kept = usize::from(*answer == world.backend(1, 53));
            assert_eq!(world.entries(client), kept, "it was answered by {answer:?}");
            assert_eq!(client.ask(frontend), world.backend(1, 53));
        }
        let mut child = child.lock().expect("no panic");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    });
}

fn manifests(plan: &Plan) -> String {
    format!(
        "apiVersion: v1
kind: Node
metadata: {{name: here}}
status: {{addresses: [{{type: InternalIP, address: {node}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: dns, namespace: test}}
spec: {{clusterIP: {vip}, clusterIPs: [{vip}], ports: [{{port: 53, protocol: UDP}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: dns, namespace: test, labels: {{kubernetes.io/service-name: dns}}}}
addressType: IPv4
ports: [{{name: '', port: 53, protocol: UDP}}]
endpoints: [{{addresses: [{backend}]}}]
",
        node = plan.node,
        vip = plan.cluster_ip,
        backend = plan.backends[1],
    )
}
