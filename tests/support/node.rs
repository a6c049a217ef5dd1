//! The program on a node of its own: in the calling thread's network namespace, with addresses and a folder of manifests.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::netns::ip_batch;
use super::program::program_file;

/// The program on a node with the addresses 10.0.0.1, 10.0.0.2 and fd00::1.
#[derive(Debug)]
pub struct Program {
    child: Child,
    folder: TempDir,
    start: Vec<String>,
    later: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts it with these objects and waits for its first sync.
    pub fn start(objects: &str, flags: &[&str]) -> Self {
        Self::start_under(&[], objects, flags)
    }

    /// The same under another program, which must in the end become this one.
    pub fn start_under(under: &[&str], objects: &str, flags: &[&str]) -> Self {
        let addresses = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"];
        ip_batch(&addresses.map(|address| format!("addr replace {address} dev lo\n")).concat()).expect("addresses");
        Self::over(under, objects, flags)
    }

    /// Starts it where another one has run.
    pub fn again(objects: &str, flags: &[&str]) -> Self {
        Self::over(&[], objects, flags)
    }

    fn over(under: &[&str], objects: &str, flags: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        // For a program that is not root.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own");
        std::fs::write(folder.path().join("all.yaml"), objects).expect("manifests");
        let manifests = format!("--manifests={}", folder.path().display());
        Self::launch(under, &[&[manifests.as_str()], flags].concat(), folder)
    }

    /// The same with an API server.
    pub fn connect_under(under: &[&str], kubeconfig: &Path) -> Self {
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().expect("a plain path")];
        Self::launch(under, &kubeconfig, TempDir::new().expect("a folder"))
    }

    /// The same with an API server at this URL.
    pub fn follow(url: &str, flags: &[&str]) -> Self {
        let master = format!("--master={url}");
        Self::launch(&[], &[&[master.as_str()], flags].concat(), TempDir::new().expect("a folder"))
    }

    fn launch(under: &[&str], flags: &[&str], folder: TempDir) -> Self {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(under)
            .arg(program_file())
            .args(["run", "--hostname-override", "n1", "-v", "4"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let mut log = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let mut start = Vec::new();
        while !start.last().is_some_and(|line: &String| line.contains("synced")) {
            match log.next() {
                Some(line) => start.push(line.expect("readable")),
                None => panic!("no first sync; {}\n{}", child.wait().expect("ended"), start.join("\n")),
            }
        }
        // A full pipe would stop the program.
        let later = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&later);
        std::thread::spawn(move || {
            log.map_while(Result::ok).for_each(|line| lines.lock().expect("no panic").push(line))
        });
        Self { child, folder, start, later }
    }

    /// Whether it has logged these words by now.
    pub fn said(&self, words: &str) -> bool {
        let later = self.later.lock().expect("no panic");
        self.start.iter().chain(later.iter()).any(|line| line.contains(words))
    }

    /// What it logged until its first sync.
    pub fn start_log(&self) -> &[String] {
        &self.start
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits.
    pub fn end(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.child.wait().expect("ended")
    }

    /// Replaces all objects.
    pub fn replace(&self, objects: &str) {
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
