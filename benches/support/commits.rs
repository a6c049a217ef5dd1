//! When the kernel committed what: notifications of nf_tables, so that the program measured need not be believed.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);
const NFTABLES: u16 = 10 << 8;
const NEW_ELEMENTS: u16 = NFTABLES | 12;
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
/// Header of netlink and of nfnetlink.
const PREFIX: usize = 20;

/// A transaction of anybody in the network namespace.
#[derive(Debug)]
pub struct Commit {
    /// When its notification was read.
    pub at: Instant,
    /// Addresses among the values of map elements that were added.
    pub added: Vec<Ipv4Addr>,
}

/// Commits from now on, in the network namespace of the caller.
pub fn listen() -> Receiver<Commit> {
    let fd = open(GROUP);
    let (sender, commits) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut added = Vec::new();
        loop {
            let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("notifications, none of them lost");
            let at = Instant::now();
            for (kind, body) in messages(&buffer[..len]) {
                match kind {
                    NEW_ELEMENTS => values(body, &mut added),
                    NEW_GENERATION if sender.send(Commit { at, added: std::mem::take(&mut added) }).is_err() => return,
                    _ => {}
                }
            }
        }
    });
    commits
}

/// Asks for the number of the generation, which every commit raises.
pub struct Generation {
    fd: OwnedFd,
}

impl Generation {
    /// For the network namespace of the caller.
    pub fn new() -> Self {
        let fd = open(0);
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(5, 0)).expect("a timeout");
        Self { fd }
    }

    /// The current one.
    pub fn get(&self) -> u32 {
        let mut request = Vec::new();
        request.extend_from_slice(&(PREFIX as u32).to_ne_bytes());
        request.extend_from_slice(&GET_GENERATION.to_ne_bytes());
        request.extend_from_slice(&1_u16.to_ne_bytes()); // NLM_F_REQUEST
        request.resize(PREFIX, 0);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty()).expect("nf_tables");
        let mut buffer = [0; 4096];
        let len = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("an answer");
        let (kind, body) = messages(&buffer[..len]).next().expect("a message");
        assert_eq!(kind, NEW_GENERATION);
        let (_, value) = attributes(body).find(|(kind, _)| *kind == 1).expect("NFTA_GEN_ID");
        u32::from_be_bytes(value.try_into().expect("four bytes"))
    }
}

fn open(groups: u32) -> OwnedFd {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .expect("a netlink socket");
    setsockopt(&fd, RcvBufForce, &(256 << 20)).expect("root");
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).expect("bound");
    fd
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let body = &bytes[PREFIX.min(len)..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((kind, body))
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = &bytes[4..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

/// `NFTA_SET_ELEM_LIST_ELEMENTS` -> `NFTA_LIST_ELEM` -> `NFTA_SET_ELEM_DATA` -> `NFTA_DATA_VALUE`, if that is an address.
fn values(body: &[u8], found: &mut Vec<Ipv4Addr>) {
    let inside = |bytes, wanted| attributes(bytes).filter(move |(kind, _)| *kind == wanted).map(|(_, value)| value);
    for list in inside(body, 3) {
        for element in inside(list, 1) {
            let values = inside(element, 2).flat_map(|data| inside(data, 1));
            found.extend(values.filter_map(|value| value.first_chunk::<4>()).map(|octets| Ipv4Addr::from(*octets)));
        }
    }
}

/// When the first commit with these addresses was made; fails when there is none within a limit.
pub fn wait_for(commits: &Receiver<Commit>, limit: Duration, is_it: impl Fn(&[Ipv4Addr]) -> bool) -> Instant {
    loop {
        let commit = commits.recv_timeout(limit).expect("the change reaches the kernel");
        if is_it(&commit.added) {
            return commit.at;
        }
    }
}

/// Waits until nothing was committed for a while.
pub fn settle(commits: &Receiver<Commit>, quiet: Duration) {
    while commits.recv_timeout(quiet).is_ok() {}
}
