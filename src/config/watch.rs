//! Notices that the configuration file says something else than at start.

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
/// How often to look without being told: some file systems do not tell.
const LOOK: Duration = Duration::from_secs(60);

/// Returns when the file has other content than `file` says. A file that is gone has not changed.
///
/// The folder is watched, not the file: a mounted ConfigMap changes by a symbolic link in the folder.
pub async fn changed(file: &ConfigFile) {
    let noticed = Arc::new(Notify::new());
    let _watcher = watch(&file.path, &noticed);
    loop {
        if differs(file).await {
            return;
        }
        // Nothing noticed for a while is a reason to look as well.
        if timeout(LOOK, noticed.notified()).await.is_ok() {
            debug!("something happened beside {}", file.path.display());
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

async fn differs(file: &ConfigFile) -> bool {
    let Some(mut text) = read(&file.path) else { return false };
    loop {
        if text == file.text.as_bytes() {
            return false;
        }
        sleep(SETTLE).await;
        match read(&file.path) {
            Some(again) if again == text => return true,
            Some(again) => text = again,
            None => return false,
        }
    }
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
        let watching = tokio::spawn(async move { changed(&file).await });
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
