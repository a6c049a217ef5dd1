//! A node of a cluster and everything around it, in two network namespaces.
//!
//! ```text
//!   outside namespace            node namespace
//!   -----------------            --------------------------------------------
//!   out-uplink  =============== uplink0   node addresses, default routes
//!   out-pods    =============== pods0     (or the bridge / interface the scenario names)
//! ```
//!
//! The outside has no addresses and no routes: it is two cable ends on which the runner writes and reads frames. The node
//! routes everything to a gateway with a permanent neighbour entry, so each destination that anybody may think of can be
//! reached without asking, and every packet that leaves the node is seen, under the addresses it carries there. What is
//! delivered on the node itself is seen by raw sockets, which get a copy of every packet after the last hook, whether or
//! not any program listens.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, recv, recvmsg,
    send, setsockopt, sockopt,
};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use super::netns::{Namespace, ip_batch, set_sysctls};
use super::packets::{Probe, Protocol, Sight};

const UPLINK_MAC: &str = "02:70:77:00:01:01";
const OUT_UPLINK_MAC: &str = "02:70:77:00:01:02";
const PODS_MAC: &str = "02:70:77:00:02:01";
const OUT_PODS_MAC: &str = "02:70:77:00:02:02";

/// What the node looks like.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Every address of the node.
    pub(crate) addresses: Vec<IpAddr>,
    /// The ranges of the pods on this node.
    pub(crate) pod_ranges: Vec<IpNet>,
    /// How pods are attached.
    pub(crate) pod_interface: PodInterface,
}

/// The interface of the node on which its pods' packets arrive.
#[derive(Debug)]
pub(crate) enum PodInterface {
    /// A bridge with this name, the pods behind one of its ports.
    Bridge(String),
    /// A plain interface with this name.
    Plain(String),
}

impl PodInterface {
    fn name(&self) -> &str {
        match self {
            Self::Bridge(name) | Self::Plain(name) => name,
        }
    }
}

/// Where somebody stands, or where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On the node itself.
    Node,
    /// In a pod on this node.
    Pods,
    /// Anywhere else.
    Uplink,
}

/// The node, its surroundings and the sockets that observe them. The thread that made it stands in the node's namespace.
#[derive(Debug)]
pub(crate) struct World {
    uplink: Wire,
    pods: Wire,
    local_v4: Vec<Socket>,
    local_v6: Vec<(u8, Socket)>,
    send_v4: Socket,
    send_v6: Socket,
    // Last, so that it outlives the sockets.
    _node: Namespace,
}

impl World {
    /// Builds the two namespaces and moves the calling thread into the node's.
    pub(crate) fn build(layout: &Layout) -> Result<Self> {
        let outside = Namespace::create()?;
        set_sysctls(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        let node = Namespace::create()?;
        set_sysctls(NODE_SYSCTLS)?;
        outside.enter()?;
        ip_batch(&cables(&layout.pod_interface, &node.path()))?;
        let uplink = Wire::attach("out-uplink", UPLINK_MAC, OUT_UPLINK_MAC)?;
        let pods = Wire::attach("out-pods", PODS_MAC, OUT_PODS_MAC)?;
        node.enter()?;
        ip_batch(&node_side(layout))?;
        wait_until_running(&["uplink0", layout.pod_interface.name()])?;
        outside.enter()?;
        wait_until_running(&["out-uplink", "out-pods"])?;
        node.enter()?;
        let raw = |domain, number: u8| {
            Socket::new(domain, Type::RAW, Some(SocketProtocol::from(i32::from(number))))
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .with_context(|| format!("cannot open a raw socket for protocol {number}"))
        };
        let transports = Protocol::ALL.map(Protocol::number);
        // Errors come last: whoever reads the sockets in order sees a delivered packet before the complaint about it.
        let local_v4 =
            transports.into_iter().chain([1]).map(|number| raw(Domain::IPV4, number)).collect::<Result<_>>()?;
        let mut local_v6 = Vec::new();
        for number in transports.into_iter().chain([58]) {
            let socket = raw(Domain::IPV6, number)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).context("cannot ask for packet information")?;
            local_v6.push((number, socket));
        }
        let (send_v4, send_v6) = (raw(Domain::IPV4, 255)?, raw(Domain::IPV6, 255)?);
        Ok(Self { uplink, pods, local_v4, local_v6, send_v4, send_v6, _node: node })
    }

    /// Sends a probe from where its source stands. A refusal by the node's own hooks is not an error of the runner.
    pub(crate) fn send(&self, from: Place, probe: &Probe) -> Result<()> {
        let packet = probe.to_bytes();
        let socket = match (from, probe.target) {
            (Place::Uplink, _) => return self.uplink.send(&packet),
            (Place::Pods, _) => return self.pods.send(&packet),
            (Place::Node, SocketAddr::V4(_)) => &self.send_v4,
            (Place::Node, SocketAddr::V6(_)) => &self.send_v6,
        };
        match socket.send_to(&packet, &SocketAddr::new(probe.target.ip(), 0).into()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {probe:?} from the node")),
        }
    }

    /// Hands over everything seen since the last call, without waiting.
    pub(crate) fn look(&self, mut seen: impl FnMut(Place, Sight)) -> Result<()> {
        let mut buffer = [0; 2048];
        for (socket, place) in [(&self.uplink, Place::Uplink), (&self.pods, Place::Pods)] {
            while let Some(packet) = socket.receive(&mut buffer)? {
                Sight::in_ip_packet(packet).into_iter().for_each(|sight| seen(place, sight));
            }
        }
        for mut socket in &self.local_v4 {
            while let Some(length) = unless_empty(socket.read(&mut buffer))? {
                Sight::in_ip_packet(&buffer[..length]).into_iter().for_each(|sight| seen(Place::Node, sight));
            }
        }
        for (number, socket) in &self.local_v6 {
            while let Some((source, target, length)) = receive_v6(socket, &mut buffer)? {
                let sight = Sight::in_ip_body(source, target, *number, &buffer[..length]);
                sight.into_iter().for_each(|sight| seen(Place::Node, sight));
            }
        }
        Ok(())
    }

    /// Looks again and again until `enough` says so or the time is over.
    pub(crate) fn watch(
        &self,
        limit: Duration,
        mut seen: impl FnMut(Place, Sight),
        enough: impl Fn() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.look(&mut seen)?;
            if enough() {
                // What was decided on an error alone may have been delivered a moment before.
                return self.look(&mut seen);
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// An end of a cable outside of the node.
#[derive(Debug)]
struct Wire {
    socket: OwnedFd,
    own: [u8; 6],
    node: [u8; 6],
}

impl Wire {
    /// Opens the interface with this name in the calling thread's namespace.
    fn attach(interface: &str, node_mac: &str, own_mac: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = nix::sys::socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .context("cannot open a packet socket")?;
        // The kernel's own description of the interface is the address to bind to.
        let address = getifaddrs()
            .context("cannot list interfaces")?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("there is no interface {interface}"))?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("cannot bind to {interface}"))?;
        Ok(Self { socket, own: mac(own_mac), node: mac(node_mac) })
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        let ether_type = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&self.node[..], &self.own, &ether_type, packet].concat();
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a frame").map(drop)
    }

    /// The next IP packet that the node has sent.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) if length > 14 && buffer[..6] == self.own => return Ok(Some(&buffer[14..length])),
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error).context("cannot read frames"),
            }
        }
    }
}

/// Waits until interfaces of the calling thread's namespace have a carrier; the kernel notices that a moment after both
/// ends of a cable are up, and until then throws packets away.
fn wait_until_running(names: &[&str]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let running = |entry: &InterfaceAddress| entry.flags.contains(InterfaceFlags::IFF_RUNNING);
        let up: Vec<String> =
            getifaddrs().context("cannot list interfaces")?.filter(running).map(|entry| entry.interface_name).collect();
        if names.iter().all(|name| up.iter().any(|other| other == name)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "of the interfaces {names:?} only {up:?} came up");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads one packet off a raw IPv6 socket, which hands over the addresses apart from the packet.
fn receive_v6(socket: &Socket, buffer: &mut [u8]) -> Result<Option<(IpAddr, IpAddr, usize)>> {
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
    let Some(message) = unless_empty(message.map_err(std::io::Error::from))? else { return Ok(None) };
    let source = message.address.context("a packet without a sender")?.ip();
    let target = message.cmsgs().context("cut control message")?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    Ok(Some((source.into(), target.context("a packet without a destination")?, message.bytes)))
}

fn unless_empty<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("cannot read a raw socket"),
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// A router that speaks only when spoken to and never counts its errors.
const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/icmp_ratemask", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/icmp/ratelimit", "0"),
];

/// The commands that make both cables, run outside.
fn cables(pods: &PodInterface, node: &str) -> String {
    let (port, port_mac) = match pods {
        PodInterface::Bridge(_) => ("podport0", "02:70:77:00:03:01"),
        PodInterface::Plain(name) => (name.as_str(), PODS_MAC),
    };
    format!(
        "link add out-uplink address {OUT_UPLINK_MAC} type veth peer name uplink0 address {UPLINK_MAC} netns {node}\n\
         link add out-pods address {OUT_PODS_MAC} type veth peer name {port} address {port_mac} netns {node}\n\
         link set out-uplink up\nlink set out-pods up\n"
    )
}

/// The commands that give the node its addresses and routes, run on it.
fn node_side(layout: &Layout) -> String {
    let mut commands = vec!["link set lo up".to_owned(), "link set uplink0 up".to_owned()];
    let pods = match &layout.pod_interface {
        PodInterface::Bridge(name) => {
            commands.push(format!("link add {name} address {PODS_MAC} type bridge forward_delay 0 mcast_snooping 0"));
            commands.push(format!("link set podport0 master {name}"));
            // With br_netfilter a packet translated to another pod never leaves the bridge: it goes back through its port.
            commands.push("link set podport0 type bridge_slave hairpin on".to_owned());
            commands.push("link set podport0 up".to_owned());
            name
        }
        PodInterface::Plain(name) => name,
    };
    commands.push(format!("link set {pods} up"));
    for address in &layout.addresses {
        let on_pods = layout.pod_ranges.iter().any(|range| range.contains(address));
        let interface = if on_pods { pods } else { "uplink0" };
        commands.push(address_command("add", *address, interface));
    }
    for (interface, mac, number) in [("uplink0", OUT_UPLINK_MAC, 1), (pods, OUT_PODS_MAC, 2)] {
        commands.push(format!("neigh add 169.254.77.{number} lladdr {mac} dev {interface} nud permanent"));
        commands.push(format!("neigh add fe80::77:{number} lladdr {mac} dev {interface} nud permanent"));
    }
    commands.push("route add 0.0.0.0/0 via 169.254.77.1 dev uplink0 onlink".to_owned());
    commands.push("route add ::/0 via fe80::77:1 dev uplink0".to_owned());
    for range in &layout.pod_ranges {
        commands.push(match range {
            IpNet::V4(range) => format!("route add {range} via 169.254.77.2 dev {pods} onlink"),
            IpNet::V6(range) => format!("route add {range} via fe80::77:2 dev {pods}"),
        });
    }
    commands.join("\n") + "\n"
}

fn address_command(verb: &str, address: IpAddr, interface: &str) -> String {
    match address {
        IpAddr::V4(_) => format!("addr {verb} {address}/32 dev {interface}"),
        IpAddr::V6(_) => format!("addr {verb} {address}/128 dev {interface} nodad"),
    }
}

/// An address that the node has for a while.
#[derive(Debug)]
pub(crate) struct BorrowedAddress(IpAddr);

impl BorrowedAddress {
    /// Gives the node of the calling thread's namespace an address.
    pub(crate) fn take(address: IpAddr) -> Result<Self> {
        ip_batch(&(address_command("add", address, "uplink0") + "\n"))?;
        Ok(Self(address))
    }

    /// Takes the address away again.
    pub(crate) fn give_back(self) -> Result<()> {
        ip_batch(&(address_command("del", self.0, "uplink0").replace(" nodad", "") + "\n"))
    }
}

/// The range in which the neighbours of a pod live.
pub(crate) fn pod_range(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, 24).expect("24 bits").trunc().into(),
        IpAddr::V6(address) => Ipv6Net::new(address, 64).expect("64 bits").trunc().into(),
    }
}

/// An address that no scenario has anything to say about.
pub(crate) fn bystander(family_of: IpAddr) -> SocketAddr {
    match family_of {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::new(203, 0, 113, 251).into(), 9),
        IpAddr::V6(_) => "[2001:db8:ffff:ffff::251]:9".parse().expect("an address"),
    }
}
