//! The commands' side of the socket.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{ALIVE, Refusal};

/// Reading back and comparing a big table takes its time; for ever is too long.
const LIMIT: Duration = Duration::from_secs(60);
/// Silence after which the daemon is asked whether it is alive, which it answers at once whatever it is doing. So long it
/// may be silent then, too.
const SILENCE: Duration = Duration::from_millis(1500);

/// Asks a running daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("the daemon does not answer on {socket}: {cause}; is Portway running here, with this --admin-socket?")]
    Down {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is there, but says nothing.
    #[error(
        "the daemon on {socket} does not answer: its process is stopped or gets no CPU. The rules stay in force, but nobody \
         follows changes. Look at its state (`ps -o pid,stat,wchan:20,cmd -C portway`); continue it, or restart it"
    )]
    Silent {
        /// Where.
        socket: PathBuf,
    },
    /// It is at work, on this or on what others asked.
    #[error(
        "the daemon on {socket} is alive, but has not answered within {limit:.0?}; ask again when it has less to do"
    )]
    Busy {
        /// Where.
        socket: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Only root may ask.
    #[error("needs root: may not open {socket}")]
    NotRoot {
        /// Where.
        socket: PathBuf,
    },
    /// It is there but has no answer.
    #[error("the daemon says: {0}")]
    Refused(String),
    /// The answer is not in the form this version expects.
    #[error("the daemon's answer cannot be read ({0}); is it of another version?")]
    Garbled(String),
}

impl ClientError {
    /// There is no daemon to ask, or none that could answer.
    pub fn is_absent(&self) -> bool {
        matches!(self, ClientError::Down { .. } | ClientError::Silent { .. })
    }

    /// Asking again may help.
    pub fn may_pass(&self) -> bool {
        self.is_absent() || matches!(self, ClientError::Busy { .. } | ClientError::Refused(_))
    }
}

impl Client {
    /// For the daemon behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), limit: LIMIT }
    }

    /// The same with less patience.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit.min(LIMIT);
        self
    }

    /// Asks for a view.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_str(&self.text(path)?).map_err(|cause| ClientError::Garbled(cause.to_string()))
    }

    /// Asks for an answer as it is.
    pub fn text(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.exchange(path).map_err(|cause| match cause.kind() {
            ErrorKind::PermissionDenied => ClientError::NotRoot { socket: self.socket.clone() },
            ErrorKind::TimedOut => ClientError::Busy { socket: self.socket.clone(), limit: self.limit },
            ErrorKind::WouldBlock => ClientError::Silent { socket: self.socket.clone() },
            _ => ClientError::Down { socket: self.socket.clone(), cause },
        })?;
        let garbled = || ClientError::Garbled("no HTTP".to_owned());
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(garbled)?;
        match head.split_whitespace().nth(1).ok_or_else(garbled)? {
            "200" => Ok(body.to_owned()),
            _ => {
                let refusal = serde_json::from_str::<Refusal>(body);
                Err(ClientError::Refused(refusal.map_or_else(|_| body.trim().to_owned(), |refusal| refusal.error)))
            }
        }
    }

    fn exchange(&self, path: &str) -> io::Result<String> {
        let mut stream = self.ask(path)?;
        let (mut answer, mut buffer, start) = (Vec::new(), vec![0; 64 * 1024], Instant::now());
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => {
                    return String::from_utf8(answer).map_err(|cause| io::Error::new(ErrorKind::InvalidData, cause));
                }
                Ok(read) => answer.extend_from_slice(&buffer[..read]),
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                // It may be working on the answer, or on somebody else's.
                Err(cause) if is_timeout(&cause) => {
                    self.check_alive()?;
                    if start.elapsed() >= self.limit {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(cause) => return Err(cause),
            }
        }
    }

    /// An error when the daemon says nothing at all.
    fn check_alive(&self) -> io::Result<()> {
        self.ask(ALIVE)?.read_exact(&mut [0])
    }

    /// Sends a question; the answer comes, or [`SILENCE`] ends in an error.
    fn ask(&self, path: &str) -> io::Result<UnixStream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_read_timeout(Some(SILENCE))?;
        // Also of connecting: a daemon that is stopped accepts nobody, and its queue may be full.
        socket.set_write_timeout(Some(SILENCE))?;
        socket.connect(&SockAddr::unix(&self.socket)?)?;
        let mut stream = UnixStream::from(OwnedFd::from(socket));
        // Without chunks the answer is the body as it is; HTTP/1.0 has none, and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: portway\r\n\r\n").as_bytes())?;
        Ok(stream)
    }
}

/// The system's word for the end of [`SILENCE`].
fn is_timeout(cause: &io::Error) -> bool {
    cause.kind() == ErrorKind::WouldBlock
}
