//! A folder of Kubernetes manifests as the source: for hosts without Kubernetes, and for `render` and `explain`.

mod document;
mod folder;
mod id;
mod locate;
#[cfg(test)]
mod tests;
mod unknown;
mod watch;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use self::folder::ManifestFolder;
use self::watch::FolderWatch;
use super::problem::{Problem, Reporter, SourceStats};
use super::{EventSender, SourceError};
use crate::model::Event;

/// How often the folder is looked at without being told, in case notifications are missed or unavailable.
const POLL: Duration = Duration::from_secs(2);
/// The folder is there or not, as a whole.
const WHOLE: &str = "folder";

/// Reads a folder (or a single file) of manifests once: the lists of all kinds, and what is wrong in them.
pub fn load_dir(
    path: &Path,
    node_name: &str,
    proxy_name: Option<Arc<str>>,
) -> Result<(Vec<Event>, Vec<Problem>), SourceError> {
    load_dir_with_nodes(path, node_name, proxy_name, false)
}

/// The same, and addresses of all nodes, where direct return needs them.
pub fn load_dir_with_nodes(
    path: &Path,
    node_name: &str,
    proxy_name: Option<Arc<str>>,
    all_nodes: bool,
) -> Result<(Vec<Event>, Vec<Problem>), SourceError> {
    let loaded = ManifestFolder::new(path, node_name).serving(proxy_name).with_all_nodes(all_nodes).reload()?;
    Ok((loaded.events, loaded.problems.into_iter().flat_map(|(_, problems)| problems).collect()))
}

/// Follows a folder of manifests. Each change of the folder is one batch with complete lists of all kinds.
///
/// Read are the `.yaml`, `.yml` and `.json` files of the folder itself, in the order of their names. What a file held
/// stays in force while its new version cannot be read.
#[derive(Debug)]
pub struct ManifestSource {
    folder: ManifestFolder,
    host_ips: Option<fn() -> Vec<IpAddr>>,
    reporter: Reporter,
    stats: Arc<SourceStats>,
}

impl ManifestSource {
    /// Takes a folder that must exist. Only the Node called `node_name` is looked at.
    pub fn open(path: impl AsRef<Path>, node_name: &str) -> Result<Self, SourceError> {
        let path = path.as_ref();
        match path.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(SourceError::NotAFolder(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SourceError::NoFolder(path.to_owned()));
            }
            Err(error) => return Err(SourceError::Unreadable { path: path.to_owned(), error }),
        }
        Ok(Self {
            folder: ManifestFolder::new(path, node_name),
            host_ips: None,
            reporter: Reporter,
            stats: Arc::new(SourceStats::of(path.display().to_string())),
        })
    }

    /// Takes the Services with this label `service.kubernetes.io/service-proxy-name`; `None`: those without it.
    #[must_use]
    pub fn serving(mut self, proxy_name: Option<Arc<str>>) -> Self {
        self.folder = self.folder.serving(proxy_name);
        self
    }

    /// Takes addresses of all nodes, too, where direct return needs them.
    #[must_use]
    pub fn with_all_nodes(mut self, all_nodes: bool) -> Self {
        self.folder = self.folder.with_all_nodes(all_nodes);
        self
    }

    /// While the folder has no Node, a Node with the addresses that `ips` gives counts.
    #[must_use]
    pub fn on_host(mut self, ips: fn() -> Vec<IpAddr>) -> Self {
        self.host_ips = Some(ips);
        self
    }

    /// The counters, which outlive [`ManifestSource::run`].
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Sends the folder's content, then again after each change, until the receiver is dropped.
    pub async fn run(mut self, sender: EventSender) -> Result<(), SourceError> {
        let mut watch = FolderWatch::default();
        let (mut first, mut away) = (true, false);
        loop {
            // Watch before reading, or a change in between is lost.
            watch.renew(&self.folder);
            let seen = self.folder.fingerprint();
            if let Some(ips) = self.host_ips {
                self.folder.set_host_ips(ips());
            }
            let (loaded, fingerprint);
            (self, loaded) = self.reload().await?;
            match loaded {
                Ok(batch) => {
                    self.stats.outages.works(WHOLE);
                    if std::mem::take(&mut away) {
                        info!(folder = %self.folder.path().display(), "the folder of manifests is back");
                    }
                    if let Some(batch) = batch
                        && sender.send(batch).await.is_err()
                    {
                        return Ok(());
                    }
                    fingerprint = seen;
                }
                Err(error) if first => return Err(error),
                Err(error) => {
                    SourceStats::add(&self.stats.errors);
                    self.stats.outages.fails(WHOLE, error.to_string());
                    if !std::mem::replace(&mut away, true) {
                        warn!("{error}; its objects stay in force until it is back");
                    }
                    fingerprint = None;
                }
            }
            first = false;
            loop {
                tokio::select! {
                    () = sender.closed() => return Ok(()),
                    () = watch.noticed() => {
                        watch.settled().await;
                        break;
                    }
                    () = tokio::time::sleep(POLL) => {
                        let now = self.folder.fingerprint();
                        let has_moved = self.host_ips.is_some_and(|ips| !self.folder.has_host_ips(&ips()));
                        if now.is_none() || now != fingerprint || has_moved {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Reads the folder off the async threads: parsing megabytes of YAML takes a while. A batch only if it changed.
    async fn reload(mut self) -> Result<(Self, Result<Option<Vec<Event>>, SourceError>), SourceError> {
        let reload = move || {
            let loaded = self.folder.reload().map(|loaded| {
                self.stats.skipped.fetch_add(loaded.broken, std::sync::atomic::Ordering::Relaxed);
                if !loaded.changed {
                    return None;
                }
                SourceStats::add(&self.stats.lists);
                self.reporter.retain(&self.stats, |file| loaded.problems.iter().any(|(listed, _)| listed == file));
                for (file, problems) in loaded.problems {
                    self.reporter.report(&self.stats, &file, problems);
                }
                Some(loaded.events)
            });
            (self, loaded)
        };
        tokio::task::spawn_blocking(reload).await.map_err(|error| SourceError::Internal(error.to_string()))
    }
}
