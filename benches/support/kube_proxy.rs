//! kube-proxy itself, where there is one to compare with.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::api_server::ApiServer;
use super::commits::{listen, settle, wait_for};
use super::process::Memory;

/// Changes of one endpoint that are measured, and how long it is left alone before each: it does not sync twice within its
/// shortest time between syncs.
const CHANGES: usize = 9;
const PAUSE: Duration = Duration::from_secs(2);
/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(300);

/// The one in the folder KUBEBUILDER_ASSETS, and which version it says it is.
pub fn find() -> Option<(PathBuf, String)> {
    let path = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?).join("kube-proxy");
    let output = Command::new(&path).arg("--version").output().ok()?;
    Some((path, format!("kube-proxy of {}", String::from_utf8(output.stdout).ok()?.trim())))
}

/// The process, in nftables mode.
pub struct KubeProxy(Child);

impl KubeProxy {
    /// Starts it in the network namespace of the caller.
    pub fn start(path: &Path, master: &str) -> Self {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(path)
            .args(["--proxy-mode", "nftables", "--master", master, "--kube-api-content-type", "application/json"])
            .args(["--hostname-override", "node-0", "--cluster-cidr", "11.0.0.0/8", "--conntrack-max-per-core", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        // Its errors begin with an E.
        std::thread::spawn(move || lines.filter(|line| line.starts_with('E')).for_each(|line| eprintln!("{line}")));
        Self(child)
    }

    /// What it has now, and had at most.
    pub fn memory(&self) -> Memory {
        Memory::of(self.0.id())
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // Ended already, if it found something wrong.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What it took.
pub struct Measured {
    /// From the start of the process to the commit that has the Services.
    pub start: Duration,
    /// From just before a change of one endpoint is written to the watch to the commit that has it.
    pub changes: Vec<Duration>,
    /// After the first sync.
    pub memory: Memory,
}

/// Starts it for so many Services in the network namespace of the caller, and changes endpoints one by one. `change` says for each
/// generation, from 1 on, which Service changes and the address of its first endpoint then.
pub fn measure(
    path: &Path,
    services: usize,
    endpoints: usize,
    change: impl Fn(usize) -> (usize, Ipv4Addr),
) -> Measured {
    let mut server = ApiServer::start(services, endpoints);
    let commits = listen();
    let started = Instant::now();
    let program = KubeProxy::start(path, &server.url());
    let start = wait_for(&commits, LIMIT, |added| added.len() >= services) - started;
    settle(&commits, PAUSE);
    let memory = program.memory();
    let changes = (1..=CHANGES).map(|generation| {
        settle(&commits, PAUSE);
        let (service, address) = change(generation);
        let (sent, _) = server.change(service, endpoints, generation);
        wait_for(&commits, LIMIT, |added| added.contains(&address)) - sent
    });
    Measured { start, changes: changes.collect(), memory }
}
