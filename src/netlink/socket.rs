//! A netlink socket with what every conversation needs.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Room for failures of a whole batch.
const RECEIVE_ROOM: usize = 1 << 20;
/// The kernel answers at once; this only keeps a thread from waiting for ever.
const PATIENCE: TimeVal = TimeVal::new(30, 0);

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE)?;
        // Beyond the system's limit needs a right that containers may lack; the limit does too.
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_ROOM)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_ROOM))?;
        Ok(Self { fd, seq: 0 })
    }

    /// A number for the next request.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Sends requests. The kernel has handled them, but for the rest of a dump, when this returns.
    pub(crate) fn send(&self, requests: &[u8]) -> io::Result<()> {
        loop {
            match sendto(self.fd.as_raw_fd(), requests, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
                Ok(sent) if sent == requests.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for messages.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                result => break result?,
            }
        };
        Ok(&buffer[..len])
    }

    /// Messages that are there already; `None` when there are no more. Some may have been lost.
    pub(crate) fn try_receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let len = loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                result => break result?,
            }
        };
        Ok(Some(&buffer[..len]))
    }
}

/// The error at the beginning of a body, as a positive number; 0 is success.
pub(crate) fn errno(body: &[u8]) -> i32 {
    body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
}
