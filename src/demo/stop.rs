//! Ending early: signals, and the socket to which `portway demo --clean` connects.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// An abstract socket: the kernel frees the name however the process ends.
const SOCKET_NAME: &[u8] = b"portway-demo";
/// How often waiting looks up.
const TICK: Duration = Duration::from_millis(20);
/// How long a demonstration may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether somebody wants the demonstration to end.
#[derive(Debug, Clone)]
pub(super) struct StopSignal {
    asked: Arc<AtomicBool>,
    // Held as long as anything of the demonstration is there.
    socket: Arc<UnixListener>,
}

/// The demonstration was asked to end; not a failure of Portway.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

impl StopSignal {
    /// Listens for signals on `runtime`, and takes the name of the socket, so that there is one demonstration at a time.
    pub(super) fn listen(runtime: &Runtime) -> Result<Self> {
        let socket = match UnixListener::bind_addr(&socket_address()?) {
            Err(cause) if cause.kind() == ErrorKind::AddrInUse => {
                bail!("another demo is running: wait for it, or end a kept one with `portway demo --clean`")
            }
            other => other.context("cannot make the socket for --clean")?,
        };
        socket.set_nonblocking(true).context("cannot prepare the socket for --clean")?;
        let stop = Self { asked: Arc::default(), socket: Arc::new(socket) };
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let _context = runtime.enter();
            let (mut signals, own) = (signal(kind).context("cannot listen for signals")?, stop.clone());
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    own.set();
                }
            });
        }
        Ok(stop)
    }

    fn set(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// An error once the demonstration should end.
    pub(super) fn check(&self) -> Result<()> {
        if self.asked.load(Ordering::SeqCst) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Waits for that, or for `portway demo --clean`. Only a kept demonstration waits; another one ends soon by itself.
    pub(super) fn wait(&self) {
        while self.check().is_ok() && self.socket.accept().is_err() {
            thread::sleep(TICK);
        }
    }
}

/// Asks a kept demonstration to end, or lets one that plays come to its end; says whether there was one.
pub(super) fn end_running() -> Result<bool> {
    let address = socket_address()?;
    // Open until the end: a demonstration that is not kept does not accept it, and ends by itself.
    let Ok(_connection) = UnixStream::connect_addr(&address) else {
        return Ok(false);
    };
    let start = Instant::now();
    while UnixListener::bind_addr(&address).is_err() {
        if start.elapsed() > PATIENCE {
            bail!("the running demo does not end: kill it, then clean again");
        }
        thread::sleep(TICK);
    }
    Ok(true)
}

fn socket_address() -> Result<SocketAddr> {
    SocketAddr::from_abstract_name(SOCKET_NAME).context("cannot name the socket for --clean")
}
