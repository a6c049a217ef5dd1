//! A client, a node and a pod network in a row, in network namespaces: one lane for each table that is compared.
//!
//! Packets are put on the client's cable as they are, so that nothing but the node's work is in the time: whoever sends
//! does, in the same call and on the same CPU, the node's forwarding up to the pods' end of the other cable.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, sendto, socket,
};
use portway::model::Protocol;

use super::netns::{Namespace, ip_batch, set_sysctls};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const NODE_POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Bytes in front of the IP header.
const ETHERNET: usize = 14;

/// TCP flags of a first packet, its answer, and everything after.
pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;

/// One flow's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: (Ipv4Addr, u16),
    /// What it asks for.
    pub target: (Ipv4Addr, u16),
}

impl Flow {
    /// Client number `n` of many, all of them pods of other nodes.
    pub fn from_client(n: u32, protocol: Protocol, target: (Ipv4Addr, u16)) -> Self {
        let [_, _, c, d] = (n / 50_000).to_be_bytes();
        Self { protocol, source: (Ipv4Addr::new(11, 253, c, d), 10_000 + (n % 50_000) as u16), target }
    }

    fn back(self) -> Self {
        Self { source: self.target, target: self.source, ..self }
    }

    /// An Ethernet frame. The node does not check checksums of TCP, as with hardware that has done so.
    fn frame(self, to: [u8; 6], from: [u8; 6], flags: u8) -> Vec<u8> {
        let (number, body_len) = if self.protocol == Protocol::Tcp { (6, 20) } else { (17, 20) };
        let mut frame = [&to[..], &from, &[8, 0]].concat();
        let mut ip = vec![0x45, 0, 0, 20 + body_len, 0, 0, 0x40, 0, 64, number, 0, 0];
        ip.extend(self.source.0.octets());
        ip.extend(self.target.0.octets());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame.extend(ip);
        frame.extend(self.source.1.to_be_bytes());
        frame.extend(self.target.1.to_be_bytes());
        if self.protocol == Protocol::Tcp {
            // Sequence numbers begin at 0 on both sides.
            let (seq, ack) = (u32::from(flags == ACK), u32::from(flags != SYN));
            frame.extend(seq.to_be_bytes());
            frame.extend(ack.to_be_bytes());
            frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            frame.extend([0, 20, 0, 0]); // no checksum
            frame.extend([0; 12]);
        }
        frame
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..ETHERNET + 24)?;
        let protocol = match (frame[12], frame[13], ip[9]) {
            (8, 0, 6) => Protocol::Tcp,
            (8, 0, 17) => Protocol::Udp,
            _ => return None,
        };
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        Some(Self { protocol, source: (address(12), port(20)), target: (address(16), port(22)) })
    }
}

/// The three namespaces.
pub struct Lane {
    pub client: Namespace,
    pub node: Namespace,
    pub pods: Namespace,
    wire: OwnedFd,
    conntrack: OwnedFd,
}

impl Lane {
    /// Builds it; the calling thread stands in the node's namespace afterwards.
    pub fn build() -> Self {
        let (client, pods, node) = (namespace(), namespace(), namespace());
        set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/disable_ipv6", "1")]).expect("sysctls");
        let (client_path, pods_path) = (client.path(), pods.path());
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let (near, far) = (mac(NODE_MAC), mac(NODE_POD_MAC));
        let (outer, inner) = (mac(CLIENT_MAC), mac(POD_MAC));
        let links = format!(
            "link set lo up\n\
             link add near address {near} type veth peer name c0 address {outer} netns {client_path}\n\
             link add far address {far} type veth peer name p0 address {inner} netns {pods_path}\n\
             link set near up\nlink set far up\n\
             addr add 11.255.0.1/16 dev near\naddr add 11.254.0.1/24 dev far\n\
             neigh add 11.254.0.2 lladdr {inner} dev far nud permanent\n\
             neigh add 11.255.0.2 lladdr {outer} dev near nud permanent\n\
             route add 11.253.0.0/16 via 11.255.0.2\n\
             route add 11.0.0.0/9 via 11.254.0.2\nroute add 12.0.0.0/8 via 11.254.0.2\n"
        );
        ip_batch(&links).expect("links of the node");
        let conntrack =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
                .expect("ctnetlink");
        pods.enter().expect("a namespace");
        ip_batch("link set lo up\nlink set p0 up\naddr add 11.254.0.2/24 dev p0\nroute add default via 11.254.0.1\n")
            .expect("links of the pods");
        client.enter().expect("a namespace");
        ip_batch("link set lo up\nlink set c0 up\naddr add 11.255.0.2/16 dev c0\nroute add default via 11.255.0.1\n")
            .expect("links of the client");
        let wire = packets_of("c0", None);
        node.enter().expect("a namespace");
        Self { client, node, pods, wire, conntrack }
    }

    /// To be called once the table is there and conntrack with it.
    pub fn trust_checksums(&self) {
        // Without a table that uses conntrack there is none in this namespace, nor its sysctl.
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0").ok();
    }

    /// Frames of first packets, ready to be sent.
    pub fn first_packets(&self, flows: impl Iterator<Item = Flow>) -> Vec<Vec<u8>> {
        flows.map(|flow| flow.frame(NODE_MAC, CLIENT_MAC, SYN)).collect()
    }

    /// Sends frames and has them forwarded.
    pub fn send(&self, frames: &[Vec<u8>]) {
        send_all(&self.wire, frames);
    }

    /// Forgets all flows.
    pub fn forget_flows(&self) {
        let mut request = vec![20, 0, 0, 0, 2, 1, 1, 0]; // IPCTNL_MSG_CT_DELETE of all
        request.resize(20, 0);
        sendto(self.conntrack.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("ctnetlink");
    }

    /// Opens flows as far as both ends having sent, and returns frames that belong to them. Checks that pods, and none
    /// but pods, were asked.
    pub fn establish(&self, flows: &[Flow]) -> Vec<Vec<u8>> {
        self.pods.enter().expect("a namespace");
        let pods = packets_of("p0", Some(SockProtocol::EthAll));
        self.node.enter().expect("a namespace");
        for flow in flows {
            self.send(&self.first_packets(std::iter::once(*flow)));
            let mut buffer = [0; 256];
            let asked = loop {
                let len = recv(pods.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("the packet was forwarded");
                if let Some(seen) = Flow::read(&buffer[..len]).filter(|seen| seen.source == flow.source) {
                    break seen;
                }
            };
            assert!(asked.target.1 == 8080 && [11, 12].contains(&asked.target.0.octets()[0]), "{flow:?} -> {asked:?}");
            let answer = asked.back().frame(NODE_POD_MAC, POD_MAC, SYN_ACK);
            send(pods.as_raw_fd(), &answer, MsgFlags::empty()).expect("the cable takes it");
            self.send(&[flow.frame(NODE_MAC, CLIENT_MAC, ACK)]);
        }
        self.later_packets(flows)
    }

    /// Frames of flows that are open, as far as anybody remembers them.
    pub fn later_packets(&self, flows: &[Flow]) -> Vec<Vec<u8>> {
        flows.iter().map(|flow| flow.frame(NODE_MAC, CLIENT_MAC, ACK)).collect()
    }

    /// Packets that have arrived at the pods' end.
    pub fn arrived(&self) -> u64 {
        self.pods.enter().expect("a namespace");
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("proc");
        self.node.enter().expect("a namespace");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("p0:")).expect("the pods' interface");
        line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number of packets")
    }

    /// Lets the pods' end answer for all pods, or none.
    pub fn serve_pods(&self, on: bool) {
        self.pods.enter().expect("a namespace");
        let verb = if on { "add" } else { "del" };
        ip_batch(&format!("route {verb} local 11.0.0.0/9 dev lo\nroute {verb} local 12.0.0.0/8 dev lo\n"))
            .expect("routes of the pods");
        self.node.enter().expect("a namespace");
    }
}

/// Sends frames by a packet socket.
pub fn send_all(socket: &OwnedFd, frames: &[Vec<u8>]) {
    for frame in frames {
        send(socket.as_raw_fd(), frame, MsgFlags::empty()).expect("the cable takes it");
    }
}

fn namespace() -> Namespace {
    Namespace::create().expect("root, for network namespaces")
}

/// A packet socket on an interface of the calling thread's namespace; without a protocol it receives nothing.
pub fn packets_of(interface: &str, protocol: Option<SockProtocol>) -> OwnedFd {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("root");
    let mut addresses = getifaddrs().expect("interfaces").filter(|entry| entry.interface_name == interface);
    let address = addresses.find_map(|entry| entry.address?.as_link_addr().copied()).expect("a link address");
    bind(fd.as_raw_fd(), &address).expect("an interface that is up");
    fd
}
