//! Kernel settings that are made after the first sync, or as soon as they are there (specification 8.2).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};

/// More connections than this are not asked for, however many CPUs there are.
const MAX_CEILING: u64 = 1_048_576;
/// The kernel's own ratio of connections to hash buckets.
const ENTRIES_PER_BUCKET: u64 = 4;

/// The settings of connection tracking; the defaults are kube-proxy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackSysctls {
    /// Connections to track per CPU; 0 leaves the limit as it is and makes `min` void.
    pub max_per_core: u32,
    /// At least this many connections, whatever the number of CPUs.
    pub min: u32,
    /// Idle timeout of established TCP connections; zero leaves it as it is.
    pub tcp_established: Duration,
    /// Timeout of TCP connections in CLOSE_WAIT; zero leaves it as it is.
    pub tcp_close_wait: Duration,
    /// Do not treat TCP packets outside of the window as invalid. `false` does not undo it.
    pub tcp_be_liberal: bool,
    /// Idle timeout of UDP flows without an answer; zero leaves it as it is.
    pub udp: Duration,
    /// Idle timeout of UDP flows with answers; zero leaves it as it is.
    pub udp_stream: Duration,
    /// Count the packets of connections, as the fast path needs it. `false` does not undo it.
    pub count_packets: bool,
}

impl Default for ConntrackSysctls {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Duration::from_secs(24 * 3600),
            tcp_close_wait: Duration::from_secs(3600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
            count_packets: false,
        }
    }
}

impl ConntrackSysctls {
    /// The limit of connections on a machine with so many CPUs; `None` to leave it as it is.
    pub fn max(&self, cpus: usize) -> Option<u64> {
        if self.max_per_core == 0 {
            return None;
        }
        let scaled = u64::from(self.max_per_core).saturating_mul(cpus as u64);
        Some(if scaled > MAX_CEILING { MAX_CEILING } else { scaled.max(self.min.into()) })
    }
}

/// Why a setting was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set net.netfilter.{name} to {wanted}: {source}; {advice}")]
pub struct SettingError {
    /// The setting, one of `net.netfilter`.
    pub name: &'static str,
    /// The value that it should have.
    pub wanted: String,
    /// The cause.
    pub source: io::Error,
    /// What can be done.
    pub advice: String,
}

impl SettingError {
    /// The setting is not there; it may come.
    fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Where the kernel's settings are.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc/sys/net`, where it can be written: in containers that are not privileged /proc/sys cannot.
    pub net: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), net: "/proc/sys/net".into() }
    }
}

/// A file to write.
struct Setting {
    name: &'static str,
    path: PathBuf,
    wanted: u64,
    /// A higher value is fine too.
    at_least: bool,
    /// What to change in the configuration when it cannot be set.
    opt_out: &'static str,
}

/// Makes the settings, and keeps what could not be made: on a cold node some are not there before the first sync has the
/// kernel load connection tracking.
#[derive(Debug)]
pub struct Maker {
    settings: ConntrackSysctls,
    roots: Roots,
    missing: Mutex<Vec<SettingError>>,
}

impl Maker {
    /// Nothing is made yet.
    pub fn new(settings: ConntrackSysctls, roots: Roots) -> Self {
        Self { settings, roots, missing: Mutex::default() }
    }

    /// Makes the settings, each only where it differs. One that fails does not keep the others from being made. Whether it
    /// may help to try again later: some are not there yet.
    pub fn make(&self) -> bool {
        let errors = apply(&self.settings, &self.roots);
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |error: &SettingError| missing.iter().any(|known| known.name == error.name);
        for error in errors.iter().filter(|error| !is_known(error)) {
            if error.is_absent() {
                info!(setting = error.name, "not there yet; it is set as soon as connection tracking is loaded");
            } else {
                warn!("{error}");
            }
        }
        *missing = errors;
        missing.iter().any(SettingError::is_absent)
    }

    /// What is not made yet, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.iter().map(SettingError::to_string).collect()
    }
}

/// Makes the settings, each only where it differs.
fn apply(settings: &ConntrackSysctls, roots: &Roots) -> Vec<SettingError> {
    list(settings, roots, cpus()).iter().filter_map(|setting| setting.apply().err()).collect()
}

/// Makes it less likely (or more) that the kernel ends this process when memory is short; -1000 to 1000.
pub fn set_oom_score(adjustment: i32, roots: &Roots) -> io::Result<()> {
    write_if_different(&roots.proc.join("self/oom_score_adj"), &adjustment.to_string())
}

fn list(settings: &ConntrackSysctls, roots: &Roots, cpus: usize) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut sysctl = |name: &'static str, wanted, at_least, opt_out| {
        let path = roots.net.join("netfilter").join(name);
        list.push(Setting { name, path, wanted, at_least, opt_out });
    };
    if let Some(max) = settings.max(cpus) {
        // kube-proxy would lower it, too: on a host that somebody gave more room, connections would be lost.
        sysctl("nf_conntrack_max", max, true, "conntrack.maxPerCore: 0");
        // The same as hashsize in /sys, which kube-proxy writes.
        sysctl("nf_conntrack_buckets", max / ENTRIES_PER_BUCKET, true, "conntrack.maxPerCore: 0");
    }
    let seconds = |duration: Duration| Some(duration.as_secs()).filter(|seconds| *seconds > 0);
    let be_liberal = settings.tcp_be_liberal.then_some(1);
    let count_packets = settings.count_packets.then_some(1);
    for (name, wanted, opt_out) in [
        (
            "nf_conntrack_tcp_timeout_established",
            seconds(settings.tcp_established),
            "conntrack.tcpEstablishedTimeout: 0s",
        ),
        ("nf_conntrack_tcp_timeout_close_wait", seconds(settings.tcp_close_wait), "conntrack.tcpCloseWaitTimeout: 0s"),
        ("nf_conntrack_tcp_be_liberal", be_liberal, "conntrack.tcpBeLiberal: false"),
        ("nf_conntrack_udp_timeout", seconds(settings.udp), "conntrack.udpTimeout: 0s"),
        ("nf_conntrack_udp_timeout_stream", seconds(settings.udp_stream), "conntrack.udpStreamTimeout: 0s"),
        ("nf_conntrack_acct", count_packets, "fastPathDevices: []"),
    ] {
        if let Some(wanted) = wanted {
            sysctl(name, wanted, false, opt_out);
        }
    }
    list
}

impl Setting {
    fn apply(&self) -> Result<(), SettingError> {
        if let Some(present) = read_number(&self.path).filter(|present| self.at_least && *present >= self.wanted) {
            if present > self.wanted {
                debug!(setting = %self.path.display(), present, wanted = self.wanted, "kernel setting is higher, and stays");
            }
            return Ok(());
        }
        write_if_different(&self.path, &self.wanted.to_string()).map_err(|source| {
            let advice = self.advice(&source);
            SettingError { name: self.name, wanted: self.wanted.to_string(), source, advice }
        })
    }

    fn advice(&self, error: &io::Error) -> String {
        let present = std::fs::read_to_string(&self.path).unwrap_or_default();
        let opt_out = self.opt_out;
        match (error.kind(), present.trim()) {
            (io::ErrorKind::NotFound, _) => {
                format!("load the kernel module nf_conntrack on the node, or set {opt_out}")
            }
            (_, "") => format!("set it on the node itself, or set {opt_out}"),
            (_, present) => format!("it stays {present}: set it on the node itself, or set {opt_out} to keep it"),
        }
    }
}

/// Whether the kernel counts the packets of new connections (`net.netfilter.nf_conntrack_acct`).
pub fn counts_packets(roots: &Roots) -> bool {
    read_number(&roots.net.join("netfilter/nf_conntrack_acct")) == Some(1)
}

fn write_if_different(path: &Path, wanted: &str) -> io::Result<()> {
    let present = std::fs::read_to_string(path)?;
    if present.trim() == wanted {
        return Ok(());
    }
    // Never creates a file: what is not there is not a setting.
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    io::Write::write_all(&mut file, wanted.as_bytes())?;
    info!(setting = %path.display(), old = present.trim(), new = wanted, "kernel setting changed");
    Ok(())
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// CPUs of the machine, whatever share of them this process may use.
fn cpus() -> usize {
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests;
