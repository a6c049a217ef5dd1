//! The program on a node of its own: in the calling thread's network namespace, with addresses and a folder of manifests.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::netns::ip_batch;

/// The program on a node with the addresses 10.0.0.1, 10.0.0.2 and fd00::1.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts it with these objects and waits for its first sync.
    pub(crate) fn start(objects: &str, flags: &[&str]) -> Self {
        let addresses = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"];
        ip_batch(&addresses.map(|address| format!("addr add {address} dev lo\n")).concat()).expect("addresses");
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("all.yaml"), objects).expect("manifests");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway"), "run", "--hostname-override", "n1"])
            .args(["-v", "4", "--manifests"])
            .arg(folder.path())
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let mut log = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let synced = log.by_ref().map_while(Result::ok).any(|line| line.contains("synced"));
        assert!(synced, "no first sync");
        // A full pipe would stop the program.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, folder }
    }

    /// Replaces all objects.
    pub(crate) fn replace(&self, objects: &str) {
        let draft = Path::new("all.yaml.draft");
        std::fs::write(self.folder.path().join(draft), objects).expect("manifests");
        std::fs::rename(self.folder.path().join(draft), self.folder.path().join("all.yaml")).expect("manifests");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
