//! Hears who else changes our tables, for kernels that cannot protect them.
//!
//! The kernel announces every change of any table. Our own are kept out of the socket by a filter; those of other tables
//! are dropped by the thread that listens, without waking anybody.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use socket2::{SockFilter, SockRef};

use super::abi::{self, msg};
use super::attr::Attrs;
use super::message::{HEADER_LEN, PREFIX_LEN, messages};
use crate::ruleset::TABLE_NAME;

/// The group of changes of nf_tables (`NFNLGRP_NFTABLES`), as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// Room for the announcements of large transactions.
const RECEIVE_ROOM: usize = 4 << 20;
/// More than the kernel puts into one announcement.
const RECEIVE_LEN: usize = 64 * 1024;
/// Where a message says whose doing it announces: `nlmsg_pid`.
const PORT_OFFSET: u32 = 12;

/// Starts the thread; see [`super::NftKernel::watch`].
pub(super) fn start(own_port: u32, mut tell: impl FnMut(Option<String>) -> bool + Send + 'static) -> io::Result<()> {
    let socket = open(own_port)?;
    let listen = move || {
        let (mut ear, mut buffer) = (Ear::default(), vec![0; RECEIVE_LEN]);
        loop {
            let wanted = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => ear.hear(&buffer[..len]).is_none_or(|by| tell(Some(by))),
                Err(Errno::EINTR) => true,
                // The kernel had more to say than there was room for.
                Err(Errno::ENOBUFS) => tell(None),
                Err(errno) => {
                    tracing::error!(%errno, "cannot hear any longer whether others change the tables");
                    false
                }
            };
            if !wanted {
                return;
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(listen).map(drop)
}

fn open(own_port: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    SockRef::from(&fd).attach_filter(&all_but(own_port))?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_ROOM)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_ROOM))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
    Ok(fd)
}

/// A filter that lets pass what others do. What one send of the kernel announces is the work of one transaction, so its
/// first message tells. Without the filter a first sync would overflow the socket.
fn all_but(own_port: u32) -> [SockFilter; 4] {
    let code = |code: u32| code as u16;
    // A filter sees words in network order, the port is in that of the host.
    let port = u32::from_be_bytes(own_port.to_ne_bytes());
    [
        SockFilter::new(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, PORT_OFFSET),
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, port),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
    ]
}

/// Follows announcements, which may come in several pieces for one transaction.
#[derive(Debug, Default)]
struct Ear {
    /// The transaction that is being announced has changed our tables.
    touched: bool,
}

impl Ear {
    /// Who changed our tables, once the last message of a transaction is there.
    fn hear(&mut self, bytes: &[u8]) -> Option<String> {
        let mut by = None;
        for (header, body) in messages(bytes) {
            if header.kind >> 8 != abi::SUBSYSTEM {
                continue;
            }
            let attrs = Attrs::new(body.get(PREFIX_LEN - HEADER_LEN..).unwrap_or_default());
            if header.kind & 0xff == msg::NEWGEN {
                if std::mem::take(&mut self.touched) {
                    by = Some(who(&attrs));
                }
            } else {
                self.touched = self.touched || is_ours(body.first().copied(), &attrs);
            }
        }
        by
    }
}

/// Whether an object is in one of our tables, or is one. Whatever the object, its first attribute is the table's name.
fn is_ours(family: Option<u8>, attrs: &Attrs<'_>) -> bool {
    let families = [libc::NFPROTO_IPV4, libc::NFPROTO_IPV6];
    family.is_some_and(|family| families.contains(&i32::from(family)))
        && attrs.str_of(abi::table::NAME) == Some(TABLE_NAME)
}

/// `nft (pid 123)`, in numbers of the first PID namespace.
fn who(attrs: &Attrs<'_>) -> String {
    let name = attrs.str_of(abi::GEN_PROC_NAME).unwrap_or("a process");
    match attrs.u32_of(abi::GEN_PROC_PID) {
        Some(pid) => format!("{name} (pid {pid})"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::attr;
    use super::*;

    fn message(kind: u16, family: i32, attrs: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = vec![family as u8, 0, 0, 0];
        attrs(&mut body);
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&(abi::SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes
    }

    fn element(family: i32, table: &str) -> Vec<u8> {
        message(msg::NEWSETELEM, family, |buf| attr::put_str(buf, abi::elem::LIST_TABLE, table))
    }

    fn generation(name: &str, pid: u32) -> Vec<u8> {
        message(msg::NEWGEN, libc::AF_UNSPEC, |buf| {
            attr::put_u32(buf, abi::GEN_ID, 7);
            attr::put_u32(buf, abi::GEN_PROC_PID, pid);
            attr::put_str(buf, abi::GEN_PROC_NAME, name);
        })
    }

    #[test]
    fn only_changes_of_our_tables_count_and_say_whose_they_are() {
        let mut ear = Ear::default();
        for (family, table) in [
            (libc::NFPROTO_IPV4, "portway-trial"),
            (libc::NFPROTO_IPV6, "kube-proxy"),
            (libc::NFPROTO_INET, "portway"),
            (libc::NFPROTO_BRIDGE, "portway"),
        ] {
            let bytes = [element(family, table), generation("nft", 1)].concat();
            assert_eq!(ear.hear(&bytes), None, "{family} {table}");
        }
        let bytes = [element(libc::NFPROTO_IPV6, "other"), element(libc::NFPROTO_IPV6, "portway")].concat();
        assert_eq!(ear.hear(&bytes), None, "there is more to come");
        assert_eq!(ear.hear(&element(libc::NFPROTO_IPV6, "other")), None);
        assert_eq!(ear.hear(&generation("nft", 815)).as_deref(), Some("nft (pid 815)"));
        assert_eq!(ear.hear(&generation("nft", 815)), None, "that was another transaction");
    }

    #[test]
    fn noise_is_no_change() {
        let mut ear = Ear::default();
        for bytes in [&[][..], &[0; 16], &[20; 40]] {
            assert_eq!(ear.hear(bytes), None);
        }
        let mut other = element(libc::NFPROTO_IPV4, "portway");
        other[5] = 2;
        assert_eq!(ear.hear(&[other, generation("conntrack", 1)].concat()), None, "another subsystem");
    }
}
