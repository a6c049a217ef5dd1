//! The socket and what is answered there.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{info, warn};

use super::place::{Answerer, Place, WHO};
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
use crate::serve::accept::{self, ConnectionSlots};
use crate::serve::http::{Request, Response, Routes, json, not_found, text};

/// How often is looked whether the socket is ours, or can be.
const LOOK: Duration = Duration::from_secs(1);

/// Answers at a path, on a thread of its own, until the process ends: at once, or as soon as no other process has more right
/// to the path.
pub fn start(path: &Path, admin: Admin) -> io::Result<()> {
    let mut place = Place::new(path);
    let first = place.take(admin.activity.has_tables());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(answer(place, first, admin)))?;
    Ok(())
}

async fn answer(mut place: Place, mut taken: io::Result<UnixListener>, admin: Admin) {
    let activity = admin.activity.clone();
    let site = AdminRoutes::new(admin);
    let path = place.path().display().to_string();
    let mut told = None;
    loop {
        match taken.and_then(tokio::net::UnixListener::from_std) {
            Ok(listener) => {
                if told.take().is_some() {
                    info!("answering the operator's commands on {path}");
                }
                tokio::select! {
                    () = accept::serve(listener, site.clone(), ConnectionSlots::default()) => {}
                    () = lost(&place) => info!("{path} is another process's now, or gone"),
                }
            }
            Err(cause) => {
                let cause = cause.to_string();
                if told.as_ref() != Some(&cause) {
                    warn!(
                        "cannot listen on {path}, so `portway status` and the like do not ask this process: {cause}; see --admin-socket"
                    );
                    told = Some(cause);
                }
                sleep(LOOK).await;
            }
        }
        taken = place.take(activity.has_tables());
    }
}

/// Comes back when the file is not ours any more.
async fn lost(place: &Place) {
    while place.is_ours() {
        sleep(LOOK).await;
    }
}

#[derive(Clone)]
struct AdminRoutes {
    admin: Arc<Admin>,
    /// Opened with the first question.
    kernel: Arc<Mutex<Option<NftKernel>>>,
    /// One question at a time.
    queue: Arc<Semaphore>,
}

impl AdminRoutes {
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
        self.with_kernel(|nft| Ok(kernel::counters(nft, mirror.families())?))
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
                rows(&endpoints::rows(&snapshot.model, &mirror, &problems))
            }
            "/faults" => {
                let (snapshot, mirror) = self.snapshot()?;
                let mut found = present::of_node(&self.admin, &snapshot.model);
                found.extend(present::of_direct_return(&self.admin));
                found.extend(present::of_fast_path(&self.admin));
                found.extend(faults::present(&snapshot.model, &mirror, &self.admin.metrics.present_problems()));
                rows(&found)
            }
            "/diff" => {
                let mut found = self.with_kernel(|kernel| comparison::differences(kernel, &self.admin.snapshots))?;
                found.extend(comparison::direct_differences(self.admin.direct.as_ref())?);
                found.extend(comparison::fast_differences(self.admin.fast.as_ref())?);
                rows(&found.into_iter().map(|command| DiffRow { command }).collect::<Vec<_>>())
            }
            "/explain" => self.explain(request)?,
            "/configuration" => rows(&self.admin.configuration.values),
            "/problems" => rows(&self.admin.recent.lines()),
            ALIVE => text(StatusCode::OK, "yes\n"),
            WHO => rows(&Answerer { pid: std::process::id(), has_tables: self.admin.activity.has_tables() }),
            "/metrics" => text(StatusCode::OK, self.admin.metrics.encode(Format::Prometheus)),
            _ => not_found(),
        })
    }
}

impl Routes for AdminRoutes {
    fn queue(&self, head: &Parts) -> Option<Arc<Semaphore>> {
        (![ALIVE, WHO].contains(&head.uri.path())).then(|| self.queue.clone())
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
    fn destinations() {
        assert!(destination("10.96.0.1:443/TCP").is_some() && destination("[fd00::1]:53/udp").is_some());
        assert!(["", "10.96.0.1:443", "10.96.0.1/TCP", "10.96.0.1:443/icmp"].iter().all(|t| destination(t).is_none()));
    }
}
