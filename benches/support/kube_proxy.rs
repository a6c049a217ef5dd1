//! kube-proxy itself, where there is one to compare with.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // Ended already, if it found something wrong.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
