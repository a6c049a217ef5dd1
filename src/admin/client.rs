//! The commands' side of the socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Refusal;

/// Reading back and comparing a big table takes its time; for ever is too long.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks a running daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
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
    /// Only root may ask.
    #[error("may not open {socket}: only root may")]
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
    /// No daemon runs here.
    pub fn is_down(&self) -> bool {
        matches!(self, ClientError::Down { .. })
    }
}

impl Client {
    /// For the daemon behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for a view.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_str(&self.text(path)?).map_err(|cause| ClientError::Garbled(cause.to_string()))
    }

    /// Asks for an answer as it is.
    pub fn text(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.exchange(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotRoot { socket: self.socket.clone() },
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
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // Without chunks the answer is the body as it is; HTTP/1.0 has none, and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: portway\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}
