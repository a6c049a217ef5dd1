//! A node whose pods have an interface each, and a client outside: who talks to whom, and what passes the node's hooks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use portway::nftables::{FastKernel, KernelOptions};

use super::ecmp::load;
use super::netns::{Namespace, ip_batch, output_of, set_sysctls};
use super::program::program_file;
use super::wire::wait_until_running;

/// By family.
pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd96::10"];
pub const NODE_IPS: [&str; 2] = ["10.51.0.1", "fd51::1"];
pub const NODE_PORT: u16 = 30_080;
const CLIENT: [&str; 2] = ["10.51.0.100", "fd51::100"];
/// The last of the pods only calls.
pub const CALLER: usize = 2;
const PODS: usize = 3;
/// What pods listen on.
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The addresses of a pod, by family.
pub fn pod(index: usize) -> [String; 2] {
    [format!("10.1.0.{}", index + 1), format!("fd01::{}", index + 1)]
}

/// The node's addresses as the pods see it.
const GATEWAYS: [&str; 2] = ["10.1.0.254", "fd01::fe"];

/// The thread that made it stands in the node's namespace.
pub struct FastNetwork {
    client: Namespace,
    node: Namespace,
    pods: Vec<Namespace>,
    folder: tempfile::TempDir,
}

impl FastNetwork {
    /// Each pod has an interface of the node to itself.
    pub fn build() -> Self {
        Self::build_with(false)
    }

    /// Pods are on a bridge `cni0`, whose packets pass the node's hooks where the kernel has br_netfilter.
    pub fn bridged() -> Self {
        Self::build_with(true)
    }

    fn build_with(is_bridged: bool) -> Self {
        let make = || Namespace::create().expect("network namespaces need root");
        let (client, pods, node): (_, Vec<_>, _) = (make(), (0..PODS).map(|_| make()).collect(), make());
        set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).expect("sysctls");
        // A pod with a route of its own has its address alone, and no neighbours.
        let connect = |namespace: &Namespace, device: &str, own: [String; 2], gateways: [&str; 2], is_alone: bool| {
            let ([own4, own6], [gateway4, gateway6]) = (own, gateways);
            let (len4, len6) = if is_alone { (32, 128) } else { (24, 64) };
            let path = namespace.path();
            ip_batch(&format!("link add {device} type veth peer name eth0 netns {path}\nlink set {device} up\n"))
                .expect("a link");
            namespace.enter().expect("a namespace");
            ip_batch(&format!(
                "link set lo up\nlink set eth0 up\naddr add {own4}/{len4} dev eth0\naddr add {own6}/{len6} dev eth0 nodad\n\
                 route replace {gateway4} dev eth0\nroute replace {gateway6} dev eth0\nroute add default via {gateway4}\nroute add default via {gateway6}\n"
            ))
            .expect("addresses");
            wait_until_running(&["eth0"]).expect("a link");
            node.enter().expect("a namespace");
            wait_until_running(&[device]).expect("a link");
        };
        ip_batch("link set lo up\n").expect("loopback");
        connect(&client, "uplink0", CLIENT.map(str::to_owned), NODE_IPS, false);
        ip_batch(&format!("addr add {}/24 dev uplink0\naddr add {}/64 dev uplink0 nodad\n", NODE_IPS[0], NODE_IPS[1]))
            .expect("addresses");
        if is_bridged {
            ip_batch(&format!(
                "link add cni0 type bridge\nlink set cni0 up\naddr add {}/24 dev cni0\naddr add {}/64 dev cni0 nodad\n",
                GATEWAYS[0], GATEWAYS[1]
            ))
            .expect("a bridge");
        }
        for (index, namespace) in pods.iter().enumerate() {
            let device = format!("pod{index}");
            connect(namespace, &device, pod(index), GATEWAYS, !is_bridged);
            let [pod4, pod6] = pod(index);
            ip_batch(&match is_bridged {
                true => format!("link set {device} master cni0\nlink set {device} type bridge_slave hairpin on\n"),
                // As Calico and others do: the node answers for all addresses, and has a route to each pod.
                false => format!(
                    "addr add {}/32 dev {device}\naddr add {}/128 dev {device} nodad\nroute add {pod4} dev {device}\n\
                     route add {pod6} dev {device}\n",
                    GATEWAYS[0], GATEWAYS[1]
                ),
            })
            .expect("a pod");
        }
        if is_bridged {
            for family in ["iptables", "ip6tables"] {
                let name = format!("net/bridge/bridge-nf-call-{family}");
                if std::path::Path::new("/proc/sys").join(&name).exists() {
                    set_sysctls(&[(&name, "1")]).expect("sysctls");
                }
            }
            wait_until_running(&["cni0"]).expect("the bridge");
        }
        for (index, namespace) in pods[..CALLER].iter().enumerate() {
            namespace.enter().expect("a namespace");
            pod(index).into_iter().for_each(|address| serve(&address, index));
        }
        node.enter().expect("a namespace");
        load("table inet watch {\nchain forward {\ntype filter hook forward priority -300;\ncounter\n}\n}\n");
        Self { client, node, pods, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Flags for the program: pods' range, and a socket of its own.
    pub fn flags(&self, more: &[&str]) -> Vec<String> {
        let own = ["--cluster-cidr=10.1.0.0/16,fd01::/48".to_owned(), self.socket()];
        own.into_iter().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
    }

    fn socket(&self) -> String {
        format!("--admin-socket={}", self.folder.path().join("admin.sock").display())
    }

    /// What a command of the operator prints.
    pub fn ask(&self, args: &[&str]) -> String {
        let output = Command::new(program_file()).args(args).arg(self.socket()).output().expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Does something where the client is.
    pub fn outside<T>(&self, act: impl FnOnce() -> T) -> T {
        self.within(&self.client, act)
    }

    /// Does something in a pod.
    pub fn in_pod<T>(&self, index: usize, act: impl FnOnce() -> T) -> T {
        self.within(&self.pods[index], act)
    }

    fn within<T>(&self, namespace: &Namespace, act: impl FnOnce() -> T) -> T {
        namespace.enter().expect("a namespace");
        let result = act();
        self.node.enter().expect("the node's namespace");
        result
    }

    /// How many packets have passed the node's forward hook.
    pub fn forwarded(&self) -> u64 {
        let text = output_of("nft", &["list", "chain", "inet", "watch", "forward"]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// Whether the kernel has flow tables; says so where it has none.
    pub fn has_flow_tables(&self) -> bool {
        let trial = FastKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.trial());
        trial.map_err(|cause| eprintln!("this kernel has no flow tables: {cause}")).is_ok()
    }
}

/// The cluster: a Service with a NodePort, TCP and UDP, and these pods in these conditions.
pub fn cluster(pods: &[(usize, &str)], service: &str) -> String {
    let [ipv4, ipv6] = CLUSTER_IPS;
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nstatus: {{addresses: [{{type: InternalIP, address: {}}}, \
         {{type: InternalIP, address: '{}'}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: web}}\nspec: {{type: NodePort, clusterIP: {ipv4}, \
         clusterIPs: [{ipv4}, '{ipv6}'], ipFamilies: [IPv4, IPv6]{service}, ports: [\
         {{name: t, port: 80, targetPort: {TCP_PORT}, nodePort: {NODE_PORT}}}, \
         {{name: u, port: 53, protocol: UDP, targetPort: {UDP_PORT}, nodePort: 30053}}]}}\n",
        NODE_IPS[0], NODE_IPS[1]
    );
    for (which, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoint = |(index, conditions): &(usize, &str)| {
            format!("{{addresses: ['{}'], nodeName: n1, conditions: {{{conditions}}}}}", pod(*index)[which])
        };
        let endpoints = pods.iter().map(endpoint).collect::<Vec<_>>().join(", ");
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: default, name: web-{which}, \
             labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nports: [{{name: t, port: {TCP_PORT}}}, \
             {{name: u, port: {UDP_PORT}, protocol: UDP}}]\nendpoints: [{endpoints}]\n"
        );
    }
    text
}

/// A pod that says its number first and then echoes, over TCP; and answers with its number over UDP.
fn serve(address: &str, index: usize) {
    let ip: IpAddr = address.parse().expect("an address");
    let listener = TcpListener::bind((ip, TCP_PORT)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                stream.write_all(&[index as u8])?;
                std::io::copy(&mut stream.try_clone()?, &mut stream)
            });
        }
    });
    let socket = UdpSocket::bind((ip, UDP_PORT)).expect("a free port");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&[index as u8], from).ok();
            }
        }
    });
}

/// An open connection, and the pod at its other end.
pub struct Call {
    stream: TcpStream,
    pub way: String,
    pub pod: usize,
}

impl Call {
    pub fn to(way: &str, address: &str, port: u16) -> Self {
        let to = SocketAddr::new(address.parse().expect("an address"), port);
        let way = format!("{way} {to}");
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("{way}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("TCP");
        let mut number = [0];
        stream.read_exact(&mut number).unwrap_or_else(|error| panic!("{way}: {error}"));
        Self { stream, way, pod: number[0].into() }
    }

    /// Sends something and waits for it to come back.
    pub fn speak(&mut self) -> Result<(), ErrorKind> {
        self.stream.write_all(b"word").map_err(|error| error.kind())?;
        self.stream.read_exact(&mut [0; 4]).map_err(|error| error.kind())
    }

    /// The same so many times, which must succeed.
    pub fn talk(&mut self, times: usize) {
        (0..times).for_each(|_| self.speak().unwrap_or_else(|kind| panic!("{}: {kind}", self.way)));
    }
}

/// A client that keeps its port.
pub struct UdpCall(UdpSocket);

impl UdpCall {
    pub fn to(address: &str, port: u16) -> Self {
        let to = SocketAddr::new(address.parse().expect("an address"), port);
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket.connect(to).expect("a route");
        Self(socket)
    }

    /// Asks once; who answers.
    pub fn speak(&self) -> Option<usize> {
        let mut number = [0; 8];
        self.0.send(b"who?").ok()?;
        self.0.recv(&mut number).ok()?;
        Some(number[0].into())
    }
}
