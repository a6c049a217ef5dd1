//! Network namespaces without names.
//!
//! A namespace made here is held by an open file of this process and by nothing else, so the kernel takes it down, with
//! every interface and every table in it, when the file is dropped or the process dies in whatever way. There is no name
//! under `/run/netns` that a killed test could leave behind.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this value (and the processes started in it).
#[derive(Debug)]
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// Makes an empty namespace and moves the calling thread into it.
    pub fn create() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        let handle = File::open("/proc/thread-self/ns/net").context("cannot hold the new network namespace")?;
        Ok(Self { handle })
    }

    /// Moves the calling thread into this namespace; processes and sockets it makes from then on live there.
    pub fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
    }

    /// A path by which the `ip` program finds this namespace while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }
}

/// Writes sysctls of the calling thread's network namespace, given as `net/ipv4/ip_forward`-like names.
pub fn set_sysctls(settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        std::fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set sysctl {name}"))?;
    }
    Ok(())
}

/// Runs many `ip` commands, one a line, in the calling thread's network namespace.
pub fn ip_batch(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip` (iproute2)")?;
    child.stdin.take().context("ip has no stdin")?.write_all(commands.as_bytes()).context("cannot feed `ip`")?;
    let output = child.wait_with_output().context("cannot wait for `ip`")?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}\n{commands}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a program in the calling thread's network namespace and returns what it prints, errors included in words.
pub fn output_of(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => format!("`{program}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("cannot run `{program}`: {error}"),
    }
}

/// Runs a closure on a thread of its own in an empty network namespace; sockets and processes it makes live there.
pub fn in_netns<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = Namespace::create().expect("network namespaces need root");
            ip_batch("link set lo up").expect("loopback");
            let result = work();
            drop(namespace);
            result
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
