//! The netlink socket: for requests and their answers, or for the kernel's announcements.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _};

use mnl::Bus;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, recv, sendmsg, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use socket2::{SockFilter, SockRef};

use crate::ffi::{self, NetlinkSocket};

/// Room for failures of a whole batch, in bytes.
const RECEIVE_ROOM: usize = 1 << 20;
/// The kernel answers requests at once; this only keeps a thread from waiting for ever.
const PATIENCE: TimeVal = TimeVal::new(30, 0);

/// `NETLINK_CAP_ACK`: errors without a copy of the message.
const CAP_ACK: i32 = 10;
/// `NETLINK_EXT_ACK`: errors with the place of the offending attribute.
const EXT_ACK: i32 = 11;
/// `SOL_NETLINK`.
const SOL_NETLINK: i32 = 270;

/// A socket in the network namespace of the thread that opened it. A child process does not get it: it would keep owning our
/// tables after us.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: NetlinkSocket,
    seq: u32,
}

impl Socket {
    /// Opens a socket for requests.
    pub(crate) fn open(bus: Bus) -> io::Result<Self> {
        let this = Self::bound(bus, 0, &[])?;
        this.wait_at_most(PATIENCE)?;
        this.reserve_receiving(RECEIVE_ROOM)?;
        Ok(this)
    }

    /// Opens a socket for what the kernel announces to these groups (a bit each), as far as the filter lets it pass; with this
    /// room in bytes.
    pub(crate) fn listen(bus: Bus, groups: u32, filter: &[SockFilter], room: usize) -> io::Result<Self> {
        let this = Self::bound(bus, groups, filter)?;
        this.reserve_receiving(room)?;
        Ok(this)
    }

    fn bound(bus: Bus, groups: u32, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = NetlinkSocket::open(bus)?;
        if !filter.is_empty() {
            SockRef::from(&socket).attach_filter(filter)?;
        }
        socket.bind(groups)?;
        Ok(Self { socket, seq: 0 })
    }

    /// Its address: what the kernel knows the owner of a table by.
    pub(crate) fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// A number for the next request.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Errors say which attribute they are about, and do not repeat the message. Kernels before 4.12 and 4.15 do without.
    pub(crate) fn ask_for_precise_errors(&self) {
        for option in [EXT_ACK, CAP_ACK] {
            if let Err(error) = ffi::set_option(self.socket.as_fd(), SOL_NETLINK, option, 1) {
                tracing::debug!(option, %error, "netlink option not available");
            }
        }
    }

    /// How long [`Socket::receive`] waits.
    pub(crate) fn wait_at_most(&self, time: TimeVal) -> io::Result<()> {
        Ok(setsockopt(&self.socket, sockopt::ReceiveTimeout, &time)?)
    }

    /// Room in bytes for what is received. More than the system's limit takes CAP_NET_ADMIN in the first user namespace;
    /// without it the limit applies.
    pub(crate) fn reserve_receiving(&self, room: usize) -> io::Result<()> {
        let forced = setsockopt(&self.socket, sockopt::RcvBufForce, &room);
        Ok(forced.or_else(|_| setsockopt(&self.socket, sockopt::RcvBuf, &room))?)
    }

    /// Room in bytes for what is sent at once; whether there is that much now. Beyond the system's limit as above.
    pub(crate) fn reserve_sending(&self, room: usize) -> bool {
        if setsockopt(&self.socket, sockopt::SndBufForce, &room).is_ok() {
            return true;
        }
        if let Err(error) = setsockopt(&self.socket, sockopt::SndBuf, &room) {
            tracing::warn!(room, %error, "cannot raise the netlink buffer");
        }
        false
    }

    /// Sends requests. The kernel has handled them, but for the rest of a dump, when this returns.
    pub(crate) fn send(&self, requests: &[u8]) -> io::Result<()> {
        self.send_slices(&[IoSlice::new(requests)])
    }

    /// The same from several places.
    pub(crate) fn send_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendmsg(self.socket.as_fd().as_raw_fd(), slices, &[], MsgFlags::empty(), Some(&kernel)) {
                Ok(sent) if sent == len => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                // Interrupted before anything was sent.
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for messages. ENOBUFS means that some were lost.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = self.receive_len(buffer, MsgFlags::empty())?;
        Ok(&buffer[..len])
    }

    /// Messages that are there already; `None` when there are no more. ENOBUFS means that some were lost.
    pub(crate) fn try_receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.receive_len(buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn receive_len(&self, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
        loop {
            match recv(self.socket.as_fd().as_raw_fd(), buffer, flags) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }
}

/// Whether an error says that messages were lost for want of room.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}
