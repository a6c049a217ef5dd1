//! Named network namespaces, as `ip netns` makes them, and threads that live in them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where named namespaces are, for `ip netns` too.
const FOLDER: &str = "/run/netns";
/// All names of ours begin like this; whatever else is in the folder is somebody else's.
pub(super) const PREFIX: &str = "portway-demo-";

/// A named network namespace; removed when dropped.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// Creates a namespace called [`PREFIX`] and `suffix`.
    pub(super) fn create(suffix: &str) -> Result<Self> {
        share_folder()
            .with_context(|| format!("cannot prepare {FOLDER} (within a container this needs --privileged)"))?;
        let name = format!("{PREFIX}{suffix}");
        let path = Path::new(FOLDER).join(&name);
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let this = Self { name, path };
        // `unshare` moves the calling thread only; the mount is what keeps the namespace when that thread ends.
        thread::scope(|scope| scope.spawn(|| this.unshare_and_mount()).join())
            .map_err(|_| anyhow!("the thread that creates {} has panicked", this.name))??;
        Ok(this)
    }

    fn unshare_and_mount(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
        mount(Some("/proc/thread-self/ns/net"), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount {}", self.path.display()))
    }

    /// The full name, for `ip netns exec`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A handle to the namespace, to move links into it.
    pub(super) fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))
    }

    /// Runs `work` on a thread within the namespace and waits for it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&file)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread in {} has panicked", self.name))?
        })
    }

    /// Starts a thread within the namespace. The thread is never used for anything else.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.open()?;
        let inside = move || {
            enter(&file)?;
            drop(file);
            work()
        };
        thread::Builder::new().spawn(inside).context("cannot start a thread")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(cause) = remove(&self.path) {
            eprintln!("cannot remove {}: {cause}", self.path.display());
        }
    }
}

fn enter(file: &File) -> Result<()> {
    setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
}

/// Makes the folder a shared mount, as `ip netns add` does: else a later one of that could leave ours undeletable.
fn share_folder() -> Result<()> {
    fs::create_dir_all(FOLDER)?;
    let share = || mount(None::<&str>, FOLDER, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: only the file is there, of a run that was killed before it mounted.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// Removes all namespaces a run before has left, and says how many there were.
pub(super) fn remove_leftovers() -> Result<usize> {
    let entries = match fs::read_dir(FOLDER) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.with_context(|| format!("cannot read {FOLDER}"))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove(&entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
            removed += 1;
        }
    }
    Ok(removed)
}
