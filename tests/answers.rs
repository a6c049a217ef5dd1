//! What a node answers in the place of endpoints: a reset for connections to those that are gone, and pings. Real sockets, the
//! real program; a client outside, a pod that calls, and pods that serve.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use support::corpus::Scenario;
use support::manifests::slice;
use support::netns::{Namespace, ip_batch, output_of, set_sysctls};
use support::objects::Objects;
use support::program::Program;
use support::wait::eventually;
use support::wire::wait_until_running;

/// The pods that serve, one address of each family.
const PODS: [[&str; 2]; 2] = [["10.1.0.1", "fd00:1::1"], ["10.1.0.2", "fd00:1::2"]];
const POD_PORT: u16 = 8080;
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const BALANCERS: [&str; 2] = ["198.51.100.10", "2001:db8::10"];
const NODE_IPS: [&str; 2] = ["10.51.0.1", "fd51::1"];
const NODE_PORT: u16 = 30_080;
/// What the issue promises.
const A_SECOND: Duration = Duration::from_secs(1);

/// The thread that made it stands in the node's namespace.
struct Network {
    client: Namespace,
    caller: Namespace,
    node: Namespace,
    _pods: Namespace,
}

impl Network {
    fn build() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let make = || Namespace::create().expect("a namespace");
        let (client, caller, pods, node) = (make(), make(), make(), make());
        set_sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/icmp_ratemask", "0"),
        ])
        .expect("sysctls");
        let links = |commands: &str| ip_batch(commands).expect("links");
        for (namespace, here, there, addresses) in [
            (&client, "c0", "uplink0", &["10.51.0.100/24", "fd51::100/64"][..]),
            (&caller, "v0", "pods1", &["10.1.0.200/25", "fd00:1:0:1::200/64"][..]),
            (&pods, "p0", "pods0", &["10.1.0.1/25", "10.1.0.2/25", "fd00:1::1/64", "fd00:1::2/64"][..]),
        ] {
            namespace.enter().expect("a namespace");
            let path = node.path();
            links(&format!(
                "link set lo up\nlink add {here} type veth peer name {there} netns {path}\nlink set {here} up\n"
            ));
            addresses.iter().for_each(|address| add_address(address, here));
        }
        node.enter().expect("a namespace");
        links("link set lo up\nlink set uplink0 up\nlink set pods0 up\nlink set pods1 up\n");
        for (address, device) in [
            ("10.51.0.1/24", "uplink0"),
            ("fd51::1/64", "uplink0"),
            ("10.1.0.126/25", "pods0"),
            ("fd00:1::fe/64", "pods0"),
            ("10.1.0.254/25", "pods1"),
            ("fd00:1:0:1::fe/64", "pods1"),
        ] {
            add_address(address, device);
        }
        links("route add default via 10.51.0.100\nroute add default via fd51::100\n");
        wait_until_running(&["uplink0", "pods0", "pods1"]).expect("links");
        for (namespace, device, gateways) in [
            (&client, "c0", NODE_IPS),
            (&caller, "v0", ["10.1.0.254", "fd00:1:0:1::fe"]),
            (&pods, "p0", ["10.1.0.126", "fd00:1::fe"]),
        ] {
            namespace.enter().expect("a namespace");
            let [ipv4, ipv6] = gateways;
            links(&format!("route add default via {ipv4}\nroute add default via {ipv6}\n"));
            wait_until_running(&[device]).expect("a link");
        }
        pods.enter().expect("a namespace");
        PODS.as_flattened().iter().for_each(|address| serve(ip(address)));
        node.enter().expect("a namespace");
        Self { client, caller, node, _pods: pods }
    }

    fn within<T>(&self, namespace: &Namespace, act: impl FnOnce() -> T) -> T {
        namespace.enter().expect("a namespace");
        let result = act();
        self.node.enter().expect("the node's namespace");
        result
    }

    /// Connections to the Service, by every way there is to it.
    fn call_all(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for (cluster_ip, node_ip) in CLUSTER_IPS.into_iter().zip(NODE_IPS) {
            calls.push(self.within(&self.caller, || Call::to("pod to ClusterIP", cluster_ip, 80)));
            calls.push(self.within(&self.node, || Call::to("node to ClusterIP", cluster_ip, 80)));
            calls.push(self.within(&self.client, || Call::to("outside to ClusterIP", cluster_ip, 80)));
            calls.push(self.within(&self.client, || Call::to("outside to NodePort", node_ip, NODE_PORT)));
        }
        calls
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn add_address(address: &str, device: &str) {
    let nodad = if address.contains("::") { " nodad" } else { "" };
    ip_batch(&format!("addr add {address} dev {device}{nodad}\n")).expect("an address");
}

/// A pod that echoes, in the calling thread's namespace.
fn serve(pod: IpAddr) {
    let listener = TcpListener::bind((pod, POD_PORT)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
        }
    });
}

/// An open connection.
struct Call {
    way: String,
    stream: TcpStream,
}

impl Call {
    fn to(way: &str, address: &str, port: u16) -> Self {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(ip(address), port), Duration::from_secs(3));
        let way = format!("{way} {address}");
        let mut call = Self { stream: stream.unwrap_or_else(|error| panic!("{way}: {error}")), way };
        call.talk();
        call
    }

    /// Sends something and waits for it to come back.
    fn talk(&mut self) {
        assert_eq!(self.speak(Duration::from_secs(3)).expect("an echo"), 4, "{}", self.way);
    }

    /// Sends something, and what comes of it.
    fn speak(&mut self, patience: Duration) -> Result<usize, ErrorKind> {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout");
        self.stream.write_all(b"word").map_err(|error| error.kind())?;
        self.stream.read(&mut [0; 8]).map_err(|error| error.kind())
    }
}

fn scenario(config: &str) -> Scenario {
    let text = format!(
        "name: answers\nnode: {{name: node-a, nodeIPs: [10.51.0.1, 'fd51::1'], localAddresses: [10.51.0.1, 'fd51::1']}}\n\
         config: {{detectLocalMode: ClusterCIDR, clusterCIDR: '10.1.0.0/16,fd00:1::/48'{config}}}\n\
         serviceCIDRs: [10.96.0.0/16, 'fd00:96::/112']\nphases: []\n"
    );
    serde_yaml::from_str(&text).expect("a scenario")
}

/// The cluster with the shop, whose slices have these pods, in these conditions.
fn cluster(scenario: &Scenario, pods: &[([&str; 2], &str)]) -> String {
    let mut text = Objects::of_cluster(scenario).and_then(|objects| objects.to_yaml()).expect("objects") + "---\n";
    let (cluster_ips, balancers) = (CLUSTER_IPS.map(|ip| format!("'{ip}'")).join(", "), BALANCERS);
    text += &format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: shop}}\nspec: {{type: LoadBalancer, clusterIP: {}, \
         clusterIPs: [{cluster_ips}], ipFamilies: [IPv4, IPv6], ports: [{{port: 80, nodePort: {NODE_PORT}}}]}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: {}}}, {{ip: '{}'}}]}}}}\n---\n",
        CLUSTER_IPS[0], balancers[0], balancers[1]
    );
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoint = |(pod, conditions): &([&str; 2], &str)| {
            format!("{{addresses: ['{}'], nodeName: node-a, conditions: {{{conditions}}}}}", pod[index])
        };
        let endpoints = pods.iter().map(endpoint).collect::<Vec<_>>().join(", ");
        let rest = format!("addressType: {family}\nports: [{{port: {POD_PORT}}}]\nendpoints: [{endpoints}]");
        text += &slice("shop/shop", &format!("shop-{index}"), &rest);
    }
    text
}

const READY: &str = "ready: true";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// Takes the way to a pod away, as a network plugin does that has a route for each pod.
fn unplug(pod: [&str; 2]) {
    ip_batch(&format!("route add blackhole {}/32\nroute add blackhole {}/128\n", pod[0], pod[1])).expect("routes");
}

fn plug(pod: [&str; 2]) {
    ip_batch(&format!("route del blackhole {}/32\nroute del blackhole {}/128\n", pod[0], pod[1])).expect("routes");
}

fn has_resets() -> bool {
    output_of("nft", &["list", "ruleset"]).contains("tcp reset")
}

/// Says something on each connection, which must then be reset within a second.
fn expect_resets(calls: &mut [Call]) {
    for call in calls {
        let start = Instant::now();
        assert_eq!(call.speak(Duration::from_secs(3)), Err(ErrorKind::ConnectionReset), "{}", call.way);
        assert!(start.elapsed() < A_SECOND, "{}: {:?}", call.way, start.elapsed());
    }
}

#[test]
fn connections_to_an_endpoint_that_is_gone_are_reset() {
    let network = Network::build();
    let scenario = scenario(", resetConnectionsFor: 8s");
    let [a, b] = PODS;
    let program = Program::start(&scenario, &cluster(&scenario, &[(a, READY)])).expect("a first sync");
    let mut calls = network.call_all();
    let mut later = network.call_all();
    let mut direct = network.within(&network.caller, || Call::to("pod to pod", a[0], POD_PORT));
    assert!(!has_resets(), "nobody is gone");

    program.reload(&cluster(&scenario, &[(a, TERMINATING), (b, READY)])).expect("a sync");
    calls.iter_mut().for_each(Call::talk);
    assert!(!has_resets(), "it still terminates");
    network.call_all().iter_mut().for_each(Call::talk);

    unplug(a);
    program.reload(&cluster(&scenario, &[(b, READY)])).expect("a sync");
    let left = Instant::now();
    expect_resets(&mut calls);
    assert!(left.elapsed() < A_SECOND, "all of them: {:?}", left.elapsed());
    let listing = output_of("nft", &["-s", "list", "chain", "ip", "portway", "reset-arriving"]);
    assert!(
        listing.contains("ct status dnat ip daddr . th dport @gone tcp flags ! rst reject with tcp reset"),
        "{listing}"
    );
    network.call_all().iter_mut().for_each(Call::talk);
    assert_eq!(direct.speak(A_SECOND), Err(ErrorKind::WouldBlock), "a connection that is none of the proxy's business");

    // The next process goes on.
    drop(program);
    let program = Program::start(&scenario, &cluster(&scenario, &[(b, READY)])).expect("a first sync");
    expect_resets(&mut later);

    // It forgets by itself, and nothing stays behind.
    eventually("the chains go", || !has_resets());
    for family in ["ip", "ip6"] {
        assert!(!output_of("nft", &["list", "table", family, "portway"]).contains("gone"), "{family}");
    }

    // An address that comes back is served at once.
    program.reload(&cluster(&scenario, &[])).expect("a sync");
    assert!(has_resets());
    plug(a);
    program.reload(&cluster(&scenario, &[(a, READY)])).expect("a sync");
    network.call_all().iter_mut().for_each(Call::talk);
    assert_eq!(direct.stream.take_error().expect("asked").map(|error| error.kind()), None);
}

#[test]
fn without_the_flag_they_are_not() {
    let network = Network::build();
    let scenario = scenario("");
    let [a, b] = PODS;
    let program = Program::start(&scenario, &cluster(&scenario, &[(a, READY)])).expect("a first sync");
    let mut calls = network.call_all();
    unplug(a);
    program.reload(&cluster(&scenario, &[(b, READY)])).expect("a sync");
    for call in &mut calls[..2] {
        assert!(call.speak(A_SECOND).is_err_and(|kind| kind != ErrorKind::ConnectionReset), "{}", call.way);
    }
    assert!(!has_resets());
}

/// Sends an echo request, and says who answers, or what is wrong.
fn ping(to: IpAddr) -> Result<(), ErrorKind> {
    // Another one each time: pings with the same number are one flow to connection tracking.
    static NUMBER: AtomicU8 = AtomicU8::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("a raw socket");
    socket.connect(&SocketAddr::new(to, 0).into()).map_err(|error| error.kind())?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut packet = [request, 0, 0, 0, 0x70, number, 0, 1];
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    // The kernel has its own way with ICMPv6.
    packet[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    socket.write_all(&packet).map_err(|error| match error.kind() {
        // What is refused in the output hook says so at once.
        ErrorKind::PermissionDenied => ErrorKind::ConnectionRefused,
        kind => kind,
    })?;
    let mut answer = [0; 128];
    loop {
        let len = socket.read(&mut answer).map_err(|error| error.kind())?;
        let body = if to.is_ipv4() { &answer[20..len] } else { &answer[..len] };
        if body[0] == reply && body[4..8] == packet[4..8] {
            return Ok(());
        }
    }
}

#[test]
fn service_addresses_with_an_endpoint_answer_pings_and_others_refuse_them() {
    let network = Network::build();
    let scenario = scenario(", answerPings: true");
    let program = Program::start(&scenario, &cluster(&scenario, &[(PODS[0], READY)])).expect("a first sync");
    let ask_all = |wanted: Result<(), ErrorKind>| {
        for (cluster_ip, balancer) in CLUSTER_IPS.into_iter().zip(BALANCERS) {
            for (who, namespace) in [("pod", &network.caller), ("node", &network.node), ("outside", &network.client)] {
                for to in [cluster_ip, balancer] {
                    let seen = network.within(namespace, || ping(ip(to)));
                    assert_eq!(seen, wanted, "{who} to {to}");
                }
            }
        }
    };
    ask_all(Ok(()));
    program.reload(&cluster(&scenario, &[])).expect("a sync");
    ask_all(Err(ErrorKind::ConnectionRefused));
    program.reload(&cluster(&scenario, &[(PODS[1], READY)])).expect("a sync");
    ask_all(Ok(()));
    assert_eq!(network.within(&network.caller, || ping(ip("10.96.0.99"))), Err(ErrorKind::WouldBlock));
    network.call_all().iter_mut().for_each(Call::talk);
}
