//! The socket and what is answered there.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::services::{self, ConnectionCounts};
use super::{
    ALIVE, Admin, AdminError, DiffRow, Refusal, comparison, endpoints, explain, faults, kernel, present, status,
};
use crate::controller::Snapshot;
use crate::diff::Mirror;
use crate::metrics::Format;
use crate::model::{Family, Protocol};
use crate::nftables::NftKernel;
use crate::plan::Target;
use crate::serve::accept::{self, Places};
use crate::serve::http::{Request, Response, Routes, json, not_found, text};

/// Listens at a path and answers there, on a thread of its own, until the process ends. What is left of an earlier process
/// is replaced.
pub fn start(path: &Path, admin: Admin) -> io::Result<()> {
    let listener = bind(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => {
                    let site = Site::new(admin);
                    accept::serve::<(), _>(listener, site, Places::default()).await;
                }
                Err(cause) => tracing::warn!(%cause, "the admin socket cannot be served"),
            }
        });
    })?;
    Ok(())
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if let Ok(there) = path.symlink_metadata()
        && !there.file_type().is_socket()
    {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    // It gets its name when nobody but root can open it any more.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    std::fs::remove_file(draft)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    let listener = UnixListener::bind(draft)?;
    std::fs::set_permissions(draft, Permissions::from_mode(0o600))?;
    std::fs::rename(draft, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[derive(Clone)]
struct Site {
    admin: Arc<Admin>,
    /// Opened with the first question.
    kernel: Arc<Mutex<Option<NftKernel>>>,
    /// One question at a time.
    queue: Arc<Semaphore>,
}

impl Site {
    fn new(admin: Admin) -> Self {
        Self { admin: Arc::new(admin), kernel: Arc::default(), queue: Arc::new(Semaphore::new(1)) }
    }

    fn with_kernel<T>(&self, work: impl FnOnce(&mut NftKernel) -> Result<T, AdminError>) -> Result<T, AdminError> {
        let mut slot = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kernel = match slot.take() {
            Some(kernel) => kernel,
            None => NftKernel::open_to_read()?,
        };
        let result = work(&mut kernel);
        // After a failure a new socket is the safer one.
        *slot = result.is_ok().then_some(kernel);
        result
    }

    fn snapshot(&self) -> Result<(Snapshot, Mirror), AdminError> {
        let mut snapshot = self.admin.snapshots.take(comparison::PATIENCE)?;
        let mirror = snapshot.mirror.take().ok_or(AdminError::NotSynced)?;
        Ok((snapshot, mirror))
    }

    fn counters(&self, mirror: &Mirror) -> Result<ConnectionCounts, AdminError> {
        self.with_kernel(|door| Ok(kernel::counters(door, mirror.families())?))
    }

    fn services(&self) -> Result<Response, AdminError> {
        let (snapshot, mirror) = self.snapshot()?;
        Ok(rows(&services::rows(&snapshot.model, &mirror, &self.counters(&mirror)?)))
    }

    fn explain(&self, request: &Request) -> Result<Response, AdminError> {
        let (at, protocol) = request.query("to").and_then(destination).ok_or(AdminError::Destination)?;
        let (snapshot, mirror) = self.snapshot()?;
        let problems = self.admin.metrics.present_problems();
        let mut found = explain::rows(&snapshot.model, &mirror, &problems, &self.counters(&mirror)?, at, protocol);
        let lacks = self.admin.options.shortfalls(&snapshot.model).into_iter();
        found.notes.extend(lacks.filter(|lack| lack.family == Family::of(at.ip)).map(|lack| lack.text));
        Ok(rows(&found))
    }

    fn route(&self, request: &Request) -> Result<Response, AdminError> {
        Ok(match request.path() {
            "/status" => self.with_kernel(|kernel| Ok(rows(&status::report(&self.admin, kernel))))?,
            "/services" => self.services()?,
            "/endpoints" => {
                let (snapshot, mirror) = self.snapshot()?;
                let problems = self.admin.metrics.present_problems();
                rows(&endpoints::rows(&snapshot.model, mirror.settings(), &problems))
            }
            "/faults" => {
                let (snapshot, mirror) = self.snapshot()?;
                let mut found = present::of_node(&self.admin, &snapshot.model);
                found.extend(faults::present(&snapshot.model, &mirror, &self.admin.metrics.present_problems()));
                rows(&found)
            }
            "/diff" => {
                let found = self.with_kernel(|kernel| comparison::differences(kernel, &self.admin.snapshots))?;
                rows(&found.into_iter().map(|command| DiffRow { command }).collect::<Vec<_>>())
            }
            "/explain" => self.explain(request)?,
            "/configuration" => rows(&self.admin.configuration.values),
            "/problems" => rows(&self.admin.recent.lines()),
            ALIVE => text(StatusCode::OK, "yes\n"),
            "/metrics" => text(StatusCode::OK, self.admin.metrics.encode(Format::Prometheus)),
            _ => not_found(),
        })
    }
}

impl Routes for Site {
    fn queue(&self, head: &Parts) -> Option<Arc<Semaphore>> {
        (head.uri.path() != ALIVE).then(|| self.queue.clone())
    }

    fn answer(&self, request: &Request) -> Response {
        self.route(request).unwrap_or_else(|error| {
            let status = match error {
                AdminError::Destination => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let refusal = Refusal { error: error.to_string() };
            json(status, serde_json::to_string(&refusal).unwrap_or_default())
        })
    }
}

fn rows(rows: &impl Serialize) -> Response {
    // Rows are strings and numbers: writing them does not fail.
    json(StatusCode::OK, serde_json::to_string(rows).unwrap_or_default())
}

/// `10.96.0.1:443/TCP`, `[fd00::1]:53/UDP`.
pub(super) fn destination(text: &str) -> Option<(Target, Protocol)> {
    let (address, protocol) = text.split_once('/')?;
    let at: std::net::SocketAddr = address.parse().ok()?;
    Some((Target { ip: at.ip(), port: at.port() }, Protocol::parse(protocol)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_roots_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/admin.sock");
        for _ in 0..2 {
            drop(bind(&path).expect("bound"));
            assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(path.parent().expect("a folder").metadata().expect("there").permissions().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").expect("written");
        bind(&file).expect_err("no socket");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "precious");
    }

    #[test]
    fn destinations() {
        assert!(destination("10.96.0.1:443/TCP").is_some() && destination("[fd00::1]:53/udp").is_some());
        assert!(["", "10.96.0.1:443", "10.96.0.1/TCP", "10.96.0.1:443/icmp"].iter().all(|t| destination(t).is_none()));
    }
}
