//! One Portway at a time in a network namespace, where tables cannot be owned.
//!
//! The lock is a name among the abstract unix sockets. Each network namespace has its own, as it has its own tables; no
//! file system is needed, and the name goes with the process that has it, however that ends.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, UnixCredentials, bind, connect, getsockopt, listen, socket,
};
use nix::unistd::{geteuid, getpid};

use super::process::process_in_words;
use crate::ruleset::{KernelError, TABLE_NAME};

/// Backlog of the lock socket. Connections are never accepted; callers beyond it cannot learn the holder.
const QUEUE: i32 = 128;

/// The state of the lock.
#[derive(Debug, Default)]
pub(super) enum Lock {
    /// Not taken yet.
    #[default]
    Free,
    /// Somebody has it.
    Theirs(String),
    /// We have it as long as the socket is open.
    Ours { _socket: OwnedFd },
    /// Somebody has it who cannot be a Portway, or who is this process itself.
    Void,
}

impl Lock {
    /// Takes the lock, unless that was done before.
    pub(super) fn take(&mut self) -> Result<(), KernelError> {
        if matches!(self, Lock::Ours { .. } | Lock::Void) {
            return Ok(());
        }
        let attempt =
            self.attempt().map_err(|source| KernelError::Io { doing: "looking for another Portway", source })?;
        *self = attempt;
        match self {
            Lock::Theirs(holder) => Err(KernelError::Locked { holder: holder.clone() }),
            _ => Ok(()),
        }
    }

    fn attempt(&self) -> io::Result<Self> {
        let address = UnixAddr::new_abstract(TABLE_NAME.as_bytes())?;
        let socket = open()?;
        match bind(socket.as_raw_fd(), &address) {
            Ok(()) => {
                listen(&socket, Backlog::new(QUEUE)?)?;
                Ok(Lock::Ours { _socket: socket })
            }
            Err(Errno::EADDRINUSE) => Ok(match self {
                // Asking once is enough: the queue of those who ask is never emptied.
                Lock::Theirs(holder) => Lock::Theirs(holder.clone()),
                _ => judge(holder(&address)?),
            }),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Any process can take the name, but only one that may change tables is worth waiting for.
fn judge(holder: Option<UnixCredentials>) -> Lock {
    let Some(holder) = holder else { return Lock::Theirs(String::new()) };
    if holder.pid() == getpid().as_raw() {
        return Lock::Void;
    }
    let words = u32::try_from(holder.pid()).ok().filter(|pid| *pid != 0);
    let words = process_in_words(words).unwrap_or_else(|| " (in another container)".to_owned());
    if holder.uid() != 0 && holder.uid() != geteuid().as_raw() {
        tracing::warn!(uid = holder.uid(), "another program holds Portway's lock{words}; continuing without it");
        return Lock::Void;
    }
    Lock::Theirs(words)
}

/// Who listens at an address; `None` when that is not to be learned.
fn holder(address: &UnixAddr) -> io::Result<Option<UnixCredentials>> {
    let socket = open()?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) => Ok(Some(getsockopt(&socket, PeerCredentials)?)),
        Err(Errno::ECONNREFUSED | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_worth_waiting_for() {
        let mut theirs = UnixCredentials::new();
        assert!(matches!(judge(Some(theirs)), Lock::Void), "this process itself");
        assert!(matches!(judge(None), Lock::Theirs(words) if words.is_empty()));
        let with = |pid, uid| UnixCredentials::from(libc::ucred { pid, uid, gid: 0 });
        theirs = with(1, 0);
        assert!(matches!(judge(Some(theirs)), Lock::Theirs(words) if words.ends_with(", pid 1)")));
        theirs = with(0, geteuid().as_raw());
        assert!(matches!(judge(Some(theirs)), Lock::Theirs(words) if words == " (in another container)"));
        assert!(matches!(judge(Some(with(1, 65_533))), Lock::Void), "some user");
    }
}
