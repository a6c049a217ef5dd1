//! A client behind a router that spreads over three ingress nodes; two more nodes have a pod each. The program runs on all five.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::netns::{Namespace, ip_batch, output_of, set_sysctls};
use super::program::program_file;
use super::wait::eventually;

/// The client's addresses.
pub const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:c::2"];
/// The nodes, and the last part of their addresses.
pub const NODES: [(&str, u8); 5] = [("i1", 11), ("i2", 12), ("i3", 13), ("e1", 14), ("e2", 15)];
/// Nodes by which connections come in.
pub const INGRESS: [&str; 3] = ["i1", "i2", "i3"];
/// Where pods listen.
const POD_PORT: u16 = 8080;

/// All namespaces, and what runs in them.
pub struct Ecmp {
    pub client: Namespace,
    pub router: Namespace,
    pub nodes: Vec<(&'static str, Namespace)>,
    _pods: Vec<Arc<Namespace>>,
    programs: Vec<Child>,
    folder: tempfile::TempDir,
}

/// Does something in a namespace, on a thread of its own.
pub fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            namespace.enter().expect("entered");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn namespace(sysctls: &[(&str, &str)]) -> Namespace {
    std::thread::scope(|scope| {
        let make = || {
            let namespace = Namespace::create().expect("network namespaces need root");
            set_sysctls(&[("net/ipv6/conf/default/accept_dad", "0"), ("net/ipv6/conf/all/accept_dad", "0")])
                .expect("set");
            set_sysctls(sysctls).expect("set");
            ip_batch("link set lo up").expect("loopback");
            namespace
        };
        scope.spawn(make).join().expect("made")
    })
}

const FORWARDING: [(&str, &str); 2] = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

impl Ecmp {
    /// Makes the network; nothing runs on the nodes yet.
    pub fn build() -> Self {
        let hash = [("net/ipv4/fib_multipath_hash_policy", "1"), ("net/ipv6/fib_multipath_hash_policy", "1")];
        let router = namespace(&[&FORWARDING[..], &hash].concat());
        let client = namespace(&[]);
        let nodes: Vec<_> = NODES.iter().map(|(name, _)| (*name, namespace(&FORWARDING))).collect();
        let pods: Vec<_> = (0..2).map(|_| Arc::new(namespace(&[]))).collect();
        within(&router, || {
            let mut commands = format!(
                "link add lan type bridge\nlink set lan up\naddr add 10.0.0.1/24 dev lan\naddr add fd00::1/64 dev lan nodad\n\
                 link add out type veth peer name eth0 netns {}\nlink set out up\n\
                 addr add 198.51.100.1/24 dev out\naddr add 2001:db8:c::1/64 dev out nodad\n",
                client.path()
            );
            for (name, namespace) in &nodes {
                let path = namespace.path();
                commands +=
                    &format!("link add {name} type veth peer name eth0 netns {path}\nlink set {name} master lan up\n");
            }
            ip_batch(&commands).expect("links");
        });
        let host = |addresses: [&str; 2], gateways: [&str; 2]| {
            format!(
                "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
                 route add default via {}\nroute add default via {}\n",
                addresses[0], addresses[1], gateways[0], gateways[1]
            )
        };
        within(&client, || ip_batch(&host(CLIENT, ["198.51.100.1", "2001:db8:c::1"])).expect("addresses"));
        for ((_, namespace), (_, number)) in nodes.iter().zip(NODES) {
            let [v4, v6] = node_addresses(number);
            within(namespace, || ip_batch(&host([&v4, &v6], ["10.0.0.1", "fd00::1"])).expect("addresses"));
        }
        for (index, pod) in pods.iter().enumerate() {
            let ([v4, v6], [gateway4, gateway6]) = (pod_addresses(index), gateways(index));
            within(&nodes[3 + index].1, || {
                let path = pod.path();
                let commands = format!(
                    "link add pod type veth peer name eth0 netns {path}\nlink set pod up\n\
                     addr add {gateway4}/24 dev pod\naddr add {gateway6}/64 dev pod nodad"
                );
                ip_batch(&commands).expect("a pod");
            });
            within(pod, || ip_batch(&host([&v4, &v6], [&gateway4, &gateway6])).expect("addresses"));
            serve(pod);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let this = Self { client, router, nodes, _pods: pods, programs: Vec::new(), folder };
        this.nodes.iter().for_each(|(name, _)| this.route_to_pods(name));
        this.count_packets();
        this
    }

    /// A node knows the way to the pods of others, as in a cluster with plain routes.
    fn route_to_pods(&self, node: &str) {
        for (index, (other, number)) in NODES[3..].iter().enumerate().filter(|(_, (other, _))| *other != node) {
            assert_ne!(*other, node);
            let [node4, node6] = node_addresses(*number);
            let (net4, net6) = (format!("10.1.{index}.0/24"), format!("fd01:0:0:{index}::/64"));
            let commands = format!("route replace {net4} via {node4}\nroute replace {net6} via {node6}");
            within(self.node(node), || ip_batch(&commands).expect("routes"));
        }
    }

    /// Puts the nodes' addresses on a bridge `br0`, of which `eth0` is a port. Netfilter is kept off it: else packets are translated
    /// while they are bridged, and leave again by the port they came in on.
    pub fn bridge_nodes(&self) {
        for (name, number) in NODES {
            let [v4, v6] = node_addresses(number);
            let commands = format!(
                "link add br0 type bridge\nlink set br0 up\naddr flush dev eth0 scope global\nlink set eth0 master br0\n\
                 addr add {v4}/24 dev br0\naddr add {v6}/64 dev br0 nodad\n\
                 route add default via 10.0.0.1\nroute replace default via fd00::1"
            );
            within(self.node(name), || {
                ip_batch(&commands).expect("a bridge");
                for sysctl in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
                    // Where the module is not loaded there is no such setting.
                    if std::path::Path::new("/proc/sys").join(sysctl).exists() {
                        set_sysctls(&[(sysctl, "0")]).expect("set");
                    }
                }
            });
            self.route_to_pods(name);
        }
    }

    /// Gives a node a second interface `side0`, on a network of its own with the router, and sends what is for clients that way.
    pub fn add_side(&self, node: &str) {
        let number = NODES.iter().find(|(name, _)| *name == node).expect("a node").1;
        let path = self.node(node).path();
        let commands = format!(
            "link add side-{node} type veth peer name side0 netns {path}\nlink set side-{node} up\n\
             addr add 10.9.{number}.1/24 dev side-{node}\naddr add fd09:0:0:{number}::1/64 dev side-{node} nodad"
        );
        within(&self.router, || ip_batch(&commands).expect("a link"));
        let commands = format!(
            "link set side0 up\naddr add 10.9.{number}.2/24 dev side0\naddr add fd09:0:0:{number}::2/64 dev side0 nodad\n\
             route add 198.51.100.0/24 via 10.9.{number}.1\nroute add 2001:db8:c::/64 via fd09:0:0:{number}::1"
        );
        within(self.node(node), || ip_batch(&commands).expect("an interface"));
    }

    /// Has the router send packets to Services to the second interface of a node.
    pub fn send_by_side(&self, vips: &[&str], node: &str) {
        let number = NODES.iter().find(|(name, _)| *name == node).expect("a node").1;
        let via = |vip: &&str| {
            if vip.contains(':') { format!("fd09:0:0:{number}::2") } else { format!("10.9.{number}.2") }
        };
        let commands: String = vips.iter().map(|vip| format!("route replace {vip} via {}\n", via(vip))).collect();
        within(&self.router, || ip_batch(&commands).expect("routes"));
    }

    /// Has the router spread over these ingress nodes, by a hash of addresses and ports.
    pub fn spread(&self, vips: &[&str], over: &[&str]) {
        let number = |name: &&str| NODES.iter().find(|(node, _)| node == name).expect("a node").1;
        let mut commands = String::new();
        for vip in vips {
            let which = usize::from(vip.contains(':'));
            let hops = over.iter().map(|name| format!(" nexthop via {}", node_addresses(number(name))[which]));
            commands += &format!("route replace {vip}{}\n", hops.collect::<String>());
        }
        within(&self.router, || ip_batch(&commands).expect("routes"));
    }

    /// Has the router send each packet to another ingress node, whatever connection it is of.
    pub fn spread_each_packet(&self, vips: &[&str]) {
        let mut commands = String::new();
        for (table, name) in (1..).zip(INGRESS) {
            let number = NODES.iter().find(|(node, _)| *node == name).expect("a node").1;
            let [v4, v6] = node_addresses(number);
            commands += &format!("rule add fwmark {table} table {table}\nroute add default via {v4} table {table}\n");
            commands +=
                &format!("-6 rule add fwmark {table} table {table}\nroute add default via {v6} table {table}\n");
        }
        let sets = |v6: bool| vips.iter().filter(|vip| vip.contains(':') == v6).copied().collect::<Vec<_>>().join(", ");
        let rules = format!(
            "table inet spread {{\nchain pre {{ type filter hook prerouting priority mangle;\n\
             ip daddr {{ {} }} meta mark set numgen inc mod 3 offset 1\nip6 daddr {{ {} }} meta mark set numgen inc mod 3 offset 1\n}}\n}}\n",
            sets(false),
            sets(true)
        );
        within(&self.router, || {
            for line in commands.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let said = output_of("ip", &words);
                assert!(!said.contains("failed"), "{said}");
            }
            load(&rules);
        });
    }

    /// Starts the program on all nodes, with these objects; each is to have a first sync.
    pub fn start(&mut self, objects: &str, flags: &[&str]) {
        let folder = self.folder.path();
        std::fs::create_dir_all(folder.join("manifests")).expect("a folder");
        std::fs::write(folder.join("manifests/all.yaml"), objects).expect("manifests");
        for (name, namespace) in &self.nodes {
            let log = File::create(folder.join(format!("{name}.log"))).expect("a log");
            // On this thread, which lives as long as the test: the program must not outlive it.
            namespace.enter().expect("entered");
            let child = {
                Command::new("setpriv")
                    .args(["--pdeathsig", "KILL", "--"])
                    .arg(program_file())
                    .args(["run", "--hostname-override", name, "-v", "4", "--cluster-cidr", "10.1.0.0/16,fd01::/48"])
                    .arg(format!("--manifests={}", folder.join("manifests").display()))
                    .arg(format!("--admin-socket={}", self.socket(name).display()))
                    .args(["--healthz-bind-address", "", "--metrics-bind-address", ""])
                    .args(flags)
                    .stderr(Stdio::from(log))
                    .spawn()
                    .expect("setpriv (util-linux)")
            };
            self.programs.push(child);
        }
        for (name, _) in NODES {
            eventually(&format!("the first sync of {name}"), || self.log(name).contains("first sync done"));
        }
    }

    /// Ends the program on all nodes.
    pub fn stop(&mut self) {
        for mut program in self.programs.drain(..) {
            program.kill().expect("killed");
            program.wait().expect("ended");
        }
    }

    /// Replaces all objects on all nodes.
    pub fn replace(&self, objects: &str) {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, objects).expect("manifests");
        std::fs::rename(draft, self.folder.path().join("manifests/all.yaml")).expect("manifests");
    }

    /// What the program on a node has logged.
    pub fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{node}.log"))).unwrap_or_default()
    }

    /// What a command of the program says on a node.
    pub fn ask(&self, node: &str, args: &[&str]) -> String {
        let socket = format!("--admin-socket={}", self.socket(node).display());
        let program = program_file();
        within(self.node(node), || {
            let output = Command::new(&program).args(args).arg(&socket).output().expect("it starts");
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        })
    }

    fn socket(&self, node: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{node}.sock"))
    }

    pub fn node(&self, name: &str) -> &Namespace {
        &self.nodes.iter().find(|(node, _)| *node == name).expect("a node").1
    }

    /// Cuts a node off, and takes it out of the router's choice.
    pub fn kill(&self, node: &str, vips: &[&str]) {
        within(&self.router, || ip_batch(&format!("link set {node} down")).expect("down"));
        let left: Vec<&str> = INGRESS.into_iter().filter(|name| *name != node).collect();
        self.spread(vips, &left);
    }

    /// The same node is there again.
    pub fn revive(&self, node: &str, vips: &[&str]) {
        within(&self.router, || ip_batch(&format!("link set {node} up")).expect("up"));
        self.spread(vips, &INGRESS);
    }

    /// Counts packets of clients, and answers of pods or Services, as they arrive at each node.
    fn count_packets(&self) {
        let rules = "table netdev watch {\ncounter requests {}\ncounter answers {}\n\
            chain in { type filter hook ingress device eth0 priority -300;\n\
            meta l4proto { tcp, udp } th dport 80 counter name requests\n\
            meta l4proto { tcp, udp } th sport { 80, 8080 } counter name answers\n}\n}\n";
        for (_, namespace) in &self.nodes {
            within(namespace, || load(rules));
        }
    }

    /// How many packets of clients, and answers, have arrived at a node.
    pub fn counted(&self, node: &str) -> (u64, u64) {
        let listing = within(self.node(node), || output_of("nft", &["list", "counters", "table", "netdev", "watch"]));
        let mut numbers = listing
            .split("packets ")
            .skip(1)
            .map(|rest| rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"));
        let mut next = || numbers.next().expect("two counters");
        (next(), next())
    }
}

impl Drop for Ecmp {
    fn drop(&mut self) {
        for program in &mut self.programs {
            program.kill().ok();
            program.wait().ok();
        }
    }
}

/// Loads rules in the calling thread's namespace.
pub fn load(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("written");
    assert!(child.wait().expect("ended").success(), "{rules}");
}

/// A node's addresses, of both families.
pub fn node_addresses(number: u8) -> [String; 2] {
    [format!("10.0.0.{number}"), format!("fd00::{number}")]
}

/// A pod's addresses, of both families.
pub fn pod_addresses(index: usize) -> [String; 2] {
    [format!("10.1.{index}.2"), format!("fd01:0:0:{index}::2")]
}

fn gateways(index: usize) -> [String; 2] {
    [format!("10.1.{index}.1"), format!("fd01:0:0:{index}::1")]
}

/// The Nodes, and a Service of both pods at these addresses.
pub fn objects(services: &[(&str, [&str; 2], &str)]) -> String {
    let mut out = String::new();
    for (name, number) in NODES {
        let [v4, v6] = node_addresses(number);
        out += &format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: {v4}}}, \
             {{type: InternalIP, address: \"{v6}\"}}]}}\n---\n"
        );
    }
    for (index, (name, vips, annotations)) in services.iter().enumerate() {
        let ports = "ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]";
        out += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {name}, annotations: {{{annotations}}}}}\n\
             spec: {{type: LoadBalancer, clusterIP: 10.96.0.{n}, clusterIPs: [10.96.0.{n}, \"fd96::{n}\"], \
             ipFamilies: [IPv4, IPv6], {ports}}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: {}}}, {{ip: \"{}\"}}]}}}}\n---\n",
            vips[0],
            vips[1],
            n = index + 1
        );
        for (which, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let endpoint = |pod: usize| {
                let (address, node) = (&pod_addresses(pod)[which], NODES[3 + pod].0);
                format!("{{addresses: [\"{address}\"], nodeName: {node}}}")
            };
            out += &format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{namespace: default, name: {name}-{which}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 addressType: {family}\nports: [{{name: t, port: {POD_PORT}}}, {{name: u, port: {POD_PORT}, protocol: UDP}}]\n\
                 endpoints: [{}, {}]\n---\n",
                endpoint(0),
                endpoint(1)
            );
        }
    }
    out
}

/// Has a pod answer everything it is asked over TCP and UDP with the address it was asked from, 64 bytes a time.
fn serve(pod: &Arc<Namespace>) {
    let (sender, ready) = std::sync::mpsc::channel();
    let pod = pod.clone();
    std::thread::spawn(move || {
        pod.enter().expect("entered");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for ip in ["0.0.0.0", "::"] {
                let listen = || -> std::io::Result<(TcpListener, UdpSocket)> {
                    let ip: IpAddr = ip.parse().expect("an address");
                    let domain = socket2::Domain::for_address(SocketAddr::new(ip, POD_PORT));
                    let open = |kind| {
                        let socket = socket2::Socket::new(domain, kind, None)?;
                        if ip.is_ipv6() {
                            socket.set_only_v6(true)?;
                        }
                        socket.set_nonblocking(true)?;
                        socket.bind(&SocketAddr::new(ip, POD_PORT).into())?;
                        Ok::<_, std::io::Error>(socket)
                    };
                    let tcp = open(socket2::Type::STREAM)?;
                    tcp.listen(4096)?;
                    Ok((tcp.into(), open(socket2::Type::DGRAM)?.into()))
                };
                let (tcp, udp) = listen().expect("listening");
                tokio::spawn(answer_tcp(tokio::net::TcpListener::from_std(tcp).expect("a listener")));
                tokio::spawn(answer_udp(tokio::net::UdpSocket::from_std(udp).expect("a socket")));
            }
            sender.send(()).ok();
            std::future::pending::<()>().await;
        });
    });
    ready.recv().expect("the pod listens");
}

async fn answer_tcp(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    while let Ok((mut stream, peer)) = listener.accept().await {
        tokio::spawn(async move {
            let mut asked = [0; 64];
            while stream.read_exact(&mut asked).await.is_ok() {
                if stream.write_all(&padded(peer)).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn answer_udp(socket: tokio::net::UdpSocket) {
    let mut asked = [0; 2048];
    while let Ok((_, peer)) = socket.recv_from(&mut asked).await {
        socket.send_to(&padded(peer), peer).await.ok();
    }
}

fn padded(peer: SocketAddr) -> [u8; 64] {
    let mut out = [b' '; 64];
    let text = peer.ip().to_string();
    out[..text.len()].copy_from_slice(text.as_bytes());
    out
}

/// Open connections of the client over one protocol, each with the address the pod saw in its first answer.
pub struct Conversations {
    runtime: tokio::runtime::Runtime,
    open: Vec<(Conversation, String)>,
}

enum Conversation {
    Tcp(tokio::net::TcpStream),
    Udp(tokio::net::UdpSocket),
}

/// How long an answer may take: an emulated or busy machine, and retransmissions.
const ANSWER: Duration = Duration::from_secs(20);

impl Conversation {
    async fn open(to: SocketAddr, udp: bool) -> Result<Self, String> {
        let words = |error: std::io::Error| error.to_string();
        if udp {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = tokio::net::UdpSocket::bind((any, 0)).await.map_err(words)?;
            socket.connect(to).await.map_err(words)?;
            return Ok(Self::Udp(socket));
        }
        Ok(Self::Tcp(tokio::net::TcpStream::connect(to).await.map_err(words)?))
    }

    /// Asks who we are.
    async fn ask(&mut self) -> Result<String, String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let words = |error: std::io::Error| error.to_string();
        let mut answer = [0; 64];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&[b'?'; 64]).await.map_err(words)?;
                stream.read_exact(&mut answer).await.map_err(words)?;
            }
            Self::Udp(socket) => {
                // The first packets to a neighbour that is not known yet may get lost.
                for attempt in 0.. {
                    socket.send(&[b'?'; 64]).await.map_err(words)?;
                    match tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await {
                        Ok(received) => {
                            received.map_err(words)?;
                            break;
                        }
                        Err(_) if attempt < 3 => {}
                        Err(_) => return Err("no answer".to_owned()),
                    }
                }
            }
        }
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }
}

impl Conversations {
    /// Opens as many from the calling thread's namespace, one each `pause`; `meanwhile` is called when half of them are open.
    pub fn open(to: SocketAddr, udp: bool, number: usize, pause: Duration, mut meanwhile: impl FnMut()) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let open = runtime.block_on(async {
            let mut opening = Vec::with_capacity(number);
            for index in 0..number {
                if index == number / 2 {
                    meanwhile();
                }
                opening.push(tokio::spawn(async move {
                    let begin = async {
                        let mut one = Conversation::open(to, udp).await?;
                        let seen = one.ask().await?;
                        Ok::<_, String>((one, seen))
                    };
                    tokio::time::timeout(ANSWER, begin).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
                }));
                tokio::time::sleep(pause).await;
            }
            let mut open = Vec::with_capacity(number);
            for one in opening {
                open.push(
                    one.await.expect("no panic").unwrap_or_else(|cause| panic!("cannot begin with {to}: {cause}")),
                );
            }
            open
        });
        Self { runtime, open }
    }

    /// What pods saw as the client's address, each once.
    pub fn seen(&self) -> std::collections::BTreeSet<String> {
        self.open.iter().map(|(_, seen)| seen.clone()).collect()
    }

    /// How many pods saw this address.
    pub fn seen_as(&self, address: &str) -> usize {
        self.open.iter().filter(|(_, seen)| seen == address).count()
    }

    /// Asks again by all at the same time. For each: the address that was seen in the beginning, and what it comes to now.
    pub fn ask(&mut self) -> Vec<(String, Result<String, String>)> {
        let open = &mut self.open;
        self.runtime.block_on(async {
            let asking = open.iter_mut().map(|(one, first)| async {
                let answer = tokio::time::timeout(ANSWER, one.ask()).await;
                (first.clone(), answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
            });
            futures::future::join_all(asking).await
        })
    }
}

/// Has the client have more addresses, as many clients would: IPv4 and IPv6, a list each.
pub fn more_clients(ecmp: &Ecmp, number: u8) -> [Vec<IpAddr>; 2] {
    let of = |n: u8| [format!("198.51.100.{}", 10 + n), format!("2001:db8:c::1:{n}")];
    let commands: String = (0..number)
        .map(|n| {
            let [v4, v6] = of(n);
            format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n")
        })
        .collect();
    within(&ecmp.client, || ip_batch(&commands).expect("addresses"));
    [0, 1].map(|which| (0..number).map(|n| of(n)[which].parse().expect("an address")).collect())
}

/// Sends a UDP packet to a Service from this address and port of the client, a few times if need be; what the pod saw of the
/// client.
pub fn ask_once(ecmp: &Ecmp, from: SocketAddr, to: SocketAddr) -> Option<String> {
    within(&ecmp.client, || {
        let socket = UdpSocket::bind(from).expect("a socket");
        socket.connect(to).expect("a route");
        socket.set_read_timeout(Some(Duration::from_millis(600))).expect("set");
        let mut answer = [0; 64];
        for _ in 0..8 {
            socket.send(&[b'?'; 64]).ok()?;
            if socket.recv(&mut answer).is_ok() {
                return Some(String::from_utf8_lossy(&answer).trim().to_owned());
            }
        }
        None
    })
}

/// Remembers which clients' packets to Services come in on this node's interface from now on.
pub fn remember_arrivals(ecmp: &Ecmp, node: &str) {
    let chain = |ip: &str, kind: &str| {
        format!(
            "set of-{ip} {{ type {kind} . inet_service; size 65535; flags dynamic; }}\n\
             chain in-{ip} {{ type filter hook ingress device eth0 priority -310; udp dport 80 update @of-{ip} {{ {ip} saddr . udp sport }}; }}\n"
        )
    };
    let rules = format!("table netdev arrivals {{\n{}{}}}\n", chain("ip", "ipv4_addr"), chain("ip6", "ipv6_addr"));
    within(ecmp.node(node), || {
        output_of("nft", &["delete", "table", "netdev", "arrivals"]);
        load(&rules);
    });
}

/// Whose packets have come in: a listing in which each is `ADDRESS . PORT`.
pub fn arrivals(ecmp: &Ecmp, node: &str) -> String {
    within(ecmp.node(node), || output_of("nft", &["-n", "list", "table", "netdev", "arrivals"]))
}
