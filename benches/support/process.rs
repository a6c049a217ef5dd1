//! `portway run` as a process of its own, and what the kernel says it uses.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// `USER_HZ`, which is 100 wherever Portway runs.
const TICK: Duration = Duration::from_millis(10);

/// Which program is measured. PORTWAY_BIN: another build, or one under a heap profiler.
pub fn program() -> PathBuf {
    std::env::var_os("PORTWAY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_portway").into()).into()
}

/// Memory of a process, in MB (10^6 bytes).
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All that is resident.
    pub resident: f64,
    /// Without the pages of files: what no other process and no page cache has.
    pub own: f64,
    /// The most that was resident so far.
    pub peak: f64,
}

impl Memory {
    /// That of a process.
    pub fn of(pid: u32) -> Self {
        let status = read(pid, "status");
        let megabytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a field of status");
            line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0 / 1e6
        };
        Self { resident: megabytes("VmRSS:"), own: megabytes("RssAnon:"), peak: megabytes("VmHWM:") }
    }
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the program still runs")
}

/// The program under test, in the network namespace of the caller.
pub struct Program {
    child: Child,
    /// When it was started.
    pub started: Instant,
    log: Receiver<(Instant, String)>,
}

impl Program {
    /// Starts it against an API server.
    pub fn start(master: &str) -> Self {
        Self::start_this(&program(), master, &[])
    }

    /// Starts a build of it, with more flags.
    pub fn start_this(path: &Path, master: &str, more: &[&str]) -> Self {
        let started = Instant::now();
        // It must not outlive a benchmark that is killed.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(path)
            .args(["run", "--master", master, "--hostname-override", "node-0", "--cluster-cidr", "11.0.0.0/8"])
            .args(["--conntrack-max-per-core", "0"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) and the program");
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // Nobody may listen any more; the pipe must be emptied all the same.
                sender.send((Instant::now(), line)).ok();
            }
        });
        Self { child, started, log }
    }

    /// Waits for a line of its log; when it came.
    pub fn wait_for(&self, words: &str, limit: Duration) -> Instant {
        self.hears(words, limit).unwrap_or_else(|| panic!("the program did not say {words:?} within {limit:?}"))
    }

    /// When it said that, if it does within a limit.
    pub fn hears(&self, words: &str, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) if line.contains(words) => return Some(at),
                Ok((_, line)) if line.contains("ERROR") => eprintln!("{line}"),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the program has ended"),
            }
        }
    }

    /// CPU time so far, of all its threads.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<u32>().expect("a number");
        TICK * (ticks(11) + ticks(12))
    }

    /// What it has now, and had at most.
    pub fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }

    fn read(&self, file: &str) -> String {
        read(self.child.id(), file)
    }

    /// Ends it as systemd would, and waits for that.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already, as a rule.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
