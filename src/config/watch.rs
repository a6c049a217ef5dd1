//! Notices that the configuration file says something else than before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::effective::ConfigFile;

/// A file must have been the same for this long before it counts: its writer may be half-way.
const SETTLE: Duration = Duration::from_millis(100);
/// How often to look without a notification: some file systems send none.
const LOOK: Duration = Duration::from_secs(60);

/// Follows the content of a file. One that is gone or cannot be read has not changed.
///
/// The folder is watched, not the file: a mounted ConfigMap changes by a symbolic link in the folder.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    text: Vec<u8>,
    noticed: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    /// From now on, of a file that was read before.
    pub fn new(file: &ConfigFile) -> Self {
        let noticed = Arc::new(Notify::new());
        let watcher = watch(&file.path, &noticed);
        Self { path: file.path.clone(), text: file.text.clone().into_bytes(), noticed, _watcher: watcher }
    }

    /// Returns when the content is another one than the last time, or than what was read before.
    pub async fn changed(&mut self) -> &[u8] {
        loop {
            if let Some(text) = other(&self.path, &self.text).await {
                self.text = text;
                return &self.text;
            }
            // Nothing noticed for a while is a reason to look as well.
            if timeout(LOOK, self.noticed.notified()).await.is_ok() {
                debug!("something happened beside {}", self.path.display());
            }
        }
    }
}

fn watch(path: &Path, noticed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let notify = noticed.clone();
    let handler = move |event: notify::Result<notify::Event>| {
        // Our own reading is reported too.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            notify.notify_one();
        }
    };
    let started = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    started.inspect_err(|error| warn!(%error, "cannot watch {}; looking every {LOOK:?} instead", folder.display())).ok()
}

/// The content, if it is not `known` and has settled.
async fn other(path: &Path, known: &[u8]) -> Option<Vec<u8>> {
    let mut text = read(path)?;
    while text != known {
        sleep(SETTLE).await;
        let again = read(path)?;
        if again == text {
            return Some(text);
        }
        text = again;
    }
    None
}

fn read(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).inspect_err(|error| debug!(%error, "cannot read {}", path.display())).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Does something to a file and says whether it counted as a change.
    async fn notices(prepare: impl FnOnce(&Path), act: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        let path = folder.path().join("config.conf");
        let file = ConfigFile { text: fs::read_to_string(&path).expect("readable"), path };
        let watching = tokio::spawn(async move { FileWatch::new(&file).changed().await.to_vec() });
        sleep(Duration::from_millis(50)).await;
        assert!(!watching.is_finished(), "nothing has happened yet");
        act(folder.path());
        timeout(Duration::from_millis(700), watching).await.is_ok()
    }

    fn plain(folder: &Path) {
        fs::write(folder.join("config.conf"), "a").expect("written");
    }

    /// As the kubelet mounts a ConfigMap.
    fn mounted(folder: &Path) {
        for (version, text) in [("..1", "a"), ("..2", "b"), ("..3", "a")] {
            fs::create_dir(folder.join(version)).expect("made");
            fs::write(folder.join(version).join("config.conf"), text).expect("written");
        }
        symlink("..1", folder.join("..data")).expect("linked");
        symlink("..data/config.conf", folder.join("config.conf")).expect("linked");
    }

    fn swap(folder: &Path, version: &str) {
        symlink(version, folder.join("..data_tmp")).expect("linked");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    }

    #[tokio::test]
    async fn other_content_counts() {
        assert!(notices(plain, |folder| fs::write(folder.join("config.conf"), "b").expect("written")).await);
        assert!(
            notices(plain, |folder| {
                fs::write(folder.join("new"), "b").expect("written");
                fs::rename(folder.join("new"), folder.join("config.conf")).expect("renamed");
            })
            .await
        );
        assert!(notices(mounted, |folder| swap(folder, "..2")).await);
    }

    #[tokio::test]
    async fn equal_content_and_removal_do_not() {
        assert!(!notices(plain, |folder| fs::write(folder.join("config.conf"), "a").expect("written")).await);
        assert!(!notices(plain, |folder| fs::remove_file(folder.join("config.conf")).expect("removed")).await);
        assert!(!notices(plain, |folder| fs::write(folder.join("other"), "b").expect("written")).await);
        assert!(!notices(mounted, |folder| swap(folder, "..3")).await);
    }
}
