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

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use super::netns::{Namespace, ip_batch, set_sysctls};
use super::packets::{Probe, Protocol, Sight};
use super::wire::{Wire, receive_v6, unless_empty, wait_until_running};

const UPLINK_MAC: &str = "02:70:77:00:01:01";
const OUT_UPLINK_MAC: &str = "02:70:77:00:01:02";
const PODS_MAC: &str = "02:70:77:00:02:01";
const OUT_PODS_MAC: &str = "02:70:77:00:02:02";

/// What the node looks like.
#[derive(Debug)]
pub struct Layout {
    /// Every address of the node.
    pub addresses: Vec<IpAddr>,
    /// The ranges of the pods on this node.
    pub pod_ranges: Vec<IpNet>,
    /// How pods are attached.
    pub pod_interface: PodInterface,
}

/// The interface of the node on which its pods' packets arrive.
#[derive(Debug)]
pub enum PodInterface {
    /// A bridge with this name, the pods behind one of its ports.
    Bridge(String),
    /// A plain interface with this name.
    Plain(String),
}

impl PodInterface {
    pub fn name(&self) -> &str {
        match self {
            Self::Bridge(name) | Self::Plain(name) => name,
        }
    }
}

/// Where somebody stands, or where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// On the node itself.
    Node,
    /// In a pod on this node.
    Pods,
    /// Anywhere else.
    Uplink,
}

/// The node, its surroundings and the sockets that observe them. The thread that made it stands in the node's namespace.
#[derive(Debug)]
pub struct World {
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
    pub fn build(layout: &Layout) -> Result<Self> {
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
        let transports = Protocol::TRANSPORTS.map(Protocol::number);
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
    pub fn send(&self, from: Place, probe: &Probe) -> Result<()> {
        let packet = probe.to_bytes();
        let socket = match (from, probe.target) {
            (Place::Uplink, _) => return self.uplink.send(&packet),
            (Place::Pods, _) => return self.pods.send(&packet),
            (Place::Node, SocketAddr::V4(_)) => &self.send_v4,
            (Place::Node, SocketAddr::V6(_)) => &self.send_v6,
        };
        match socket.send_to(&packet, &SocketAddr::new(probe.target.ip(), 0).into()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {probe:?} from the node")),
        }
    }

    /// Hands over everything seen since the last call, without waiting.
    pub fn look(&self, mut seen: impl FnMut(Place, Sight)) -> Result<()> {
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
    pub fn watch(&self, limit: Duration, mut seen: impl FnMut(Place, Sight), enough: impl Fn() -> bool) -> Result<()> {
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
pub struct BorrowedAddress(IpAddr);

impl BorrowedAddress {
    /// Gives the node of the calling thread's namespace an address.
    pub fn take(address: IpAddr) -> Result<Self> {
        ip_batch(&(address_command("add", address, "uplink0") + "\n"))?;
        Ok(Self(address))
    }

    /// Takes the address away again.
    pub fn give_back(self) -> Result<()> {
        ip_batch(&(address_command("del", self.0, "uplink0").replace(" nodad", "") + "\n"))
    }
}

/// The range in which the neighbours of a pod live.
pub fn pod_range(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, 24).expect("24 bits").trunc().into(),
        IpAddr::V6(address) => Ipv6Net::new(address, 64).expect("64 bits").trunc().into(),
    }
}

/// An address that no scenario has anything to say about.
pub fn bystander(family_of: IpAddr) -> SocketAddr {
    match family_of {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::new(203, 0, 113, 251).into(), 9),
        IpAddr::V6(_) => "[2001:db8:ffff:ffff::251]:9".parse().expect("an address"),
    }
}
