//! The sockets through which the runner sends and sees packets: cable ends outside of the node, raw sockets on it.

use std::io::{ErrorKind, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, recv, recvmsg,
    send,
};
use socket2::Socket;

use super::netns::output_of;

/// An end of a cable outside of the node.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    own: [u8; 6],
    node: [u8; 6],
}

impl Wire {
    /// Opens the interface with this name in the calling thread's namespace.
    pub fn attach(interface: &str, node_mac: &str, own_mac: &str) -> Result<Self> {
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

    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let ether_type = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&self.node[..], &self.own, &ether_type, packet].concat();
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a frame").map(drop)
    }

    /// The next IP packet that the node has sent.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
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

/// Reads one packet off a raw IPv6 socket, which hands over the addresses apart from the packet.
pub fn receive_v6(socket: &Socket, buffer: &mut [u8]) -> Result<Option<(IpAddr, IpAddr, usize)>> {
    let mut parts = [IoSliceMut::new(buffer)];
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

pub fn unless_empty<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("cannot read a raw socket"),
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// Waits until interfaces of the calling thread's namespace have a carrier, and a queue: the kernel notices that a moment
/// after both ends of a cable are up, and until then throws packets away. A bridge counts as running before it has either.
/// On a busy machine that deletes namespaces meanwhile it takes seconds.
pub fn wait_until_running(names: &[&str]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let running = |entry: &InterfaceAddress| entry.flags.contains(InterfaceFlags::IFF_RUNNING);
        let up: Vec<String> =
            getifaddrs().context("cannot list interfaces")?.filter(running).map(|entry| entry.interface_name).collect();
        let sends = |name: &&str| !output_of("ip", &["-o", "link", "show", "dev", name]).contains(" qdisc noop ");
        if names.iter().all(|name| up.iter().any(|other| other == name)) && names.iter().all(sends) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "of the interfaces {names:?} only {up:?} came up");
        std::thread::sleep(Duration::from_millis(1));
    }
}
