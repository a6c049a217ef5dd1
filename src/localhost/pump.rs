//! Bytes from one TCP socket to another, with splice(2): they stay in the kernel.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

use super::budget::{Budget, Held};

/// Bytes at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// Bytes at a time without a pipe.
const ROOM: usize = 16 * 1024;
/// Empty pipes that are kept for the next connection.
const SPARE: usize = 64;

/// A pipe that is empty, unless a copy through it has failed.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    _held: Held,
}

/// Pipes. A connection has one only while bytes flow: idle ones need their two sockets and nothing else.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: Mutex<Vec<Pipe>>,
    budget: Budget,
}

impl Pipes {
    pub(super) fn new(budget: Budget) -> Self {
        Self { spare: Mutex::default(), budget }
    }

    /// An empty pipe; `None` when there are no file descriptors left.
    fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Some(pipe);
        }
        let held = self.budget.take(2)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        Some(Pipe { read, write, _held: held })
    }

    fn give_back(&self, pipe: Pipe) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(pipe);
        }
    }
}

/// Copies everything that comes from one side to the other until it ends, then says so to the other. Reads no faster than
/// the other side takes it.
pub(super) async fn pump(from: &TcpStream, to: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    let mut is_over = false;
    while !is_over {
        from.readable().await?;
        is_over = match pipes.take() {
            Some(pipe) => {
                let is_over = through_pipe(from, to, &pipe).await?;
                pipes.give_back(pipe);
                is_over
            }
            None => through_memory(from, to).await?,
        };
    }
    shut_down(to)
}

/// Copies what is there; whether that was all there will ever be.
async fn through_pipe(from: &TcpStream, to: &TcpStream, pipe: &Pipe) -> io::Result<bool> {
    loop {
        // A connection that is never idle lets others have their turn.
        consume_budget().await;
        let mut left = match from.try_io(Interest::READABLE, || move_bytes(from, &pipe.write, CHUNK)) {
            Ok(0) => return Ok(true),
            Ok(count) => count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(cause) => return Err(cause),
        };
        while left > 0 {
            match to.try_io(Interest::WRITABLE, || move_bytes(&pipe.read, to, left)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => left -= count,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => to.writable().await?,
                Err(cause) => return Err(cause),
            }
        }
    }
}

async fn through_memory(from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
    let mut room = vec![0; ROOM];
    loop {
        consume_budget().await;
        let count = match from.try_read(&mut room) {
            Ok(0) => return Ok(true),
            Ok(count) => count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(cause) => return Err(cause),
        };
        let mut left = &room[..count];
        while !left.is_empty() {
            match to.try_write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => left = &left[count..],
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => to.writable().await?,
                Err(cause) => return Err(cause),
            }
        }
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from.as_fd(), None, to.as_fd(), None, count, flags).map_err(io::Error::from) {
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Nothing more comes this way; the other way stays open.
fn shut_down(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        // It has gone as a whole.
        Err(cause) if cause.kind() == ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
