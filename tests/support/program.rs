//! The program under test as a child process, fed with a folder of manifests.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::corpus::Scenario;

/// How long a program may take from a change of its manifests to having it in the kernel. Only failures wait this long; an
/// emulated machine that is busy besides needs more than 10 s.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// How long no other sync follows the last one.
const SETTLED: Duration = Duration::from_millis(100);
/// The same as long as no sync changed anything: one that something else asked for may be reported before the manifests
/// are read, which takes a busy emulated machine more than 100 ms.
const SETTLED_UNCHANGED: Duration = Duration::from_secs(2);
/// How many lines of the log are worth printing.
const LOG_TAIL: usize = 150;

/// The file of the program under test: PORTWAY_BIN, or what cargo built for this run.
pub fn program_file() -> PathBuf {
    let path = std::env::var_os("PORTWAY_BIN").or_else(|| std::env::var_os("CARGO_BIN_EXE_portway"));
    path.expect("`cargo test` runs this, or PORTWAY_BIN names the program").into()
}

/// The running program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    manifests: Manifests,
}

/// The folder that the program watches.
#[derive(Debug)]
struct Manifests {
    folder: TempDir,
}

/// What the program has said so far.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    synced: usize,
    /// How many of these changed something in the kernel.
    changed: usize,
    ended: bool,
}

/// How to start the program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Launch<'a> {
    /// A command line to run it under.
    pub under: &'a [&'a str],
    /// Whether it may own its tables, which keeps everybody else out.
    pub owned: bool,
}

impl Program {
    /// Starts the program in the calling thread's network namespace and waits for its first sync.
    pub fn start(scenario: &Scenario, objects: &str) -> Result<Self> {
        Self::launch(Launch::default(), scenario, objects)
    }

    /// The same in a certain way.
    pub fn launch(launch: Launch<'_>, scenario: &Scenario, objects: &str) -> Result<Self> {
        let manifests = Manifests::new()?;
        manifests.replace(objects)?;
        let path = program_file();
        // The program must not outlive a test that is killed.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(launch.under)
            .arg(&path)
            .args(arguments(scenario, &manifests.path(), launch.owned)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} through setpriv (util-linux)", path.display()))?;
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let readers = vec![log.follow(stdout, false), log.follow(stderr, true)];
        let program = Self { child, log, readers, manifests };
        match program.wait_for_sync(0, 0) {
            Ok(()) => Ok(program),
            Err(error) => bail!("{error:#}\n{}", program.log_tail()),
        }
    }

    /// Replaces all objects in one step and waits until the program has followed.
    pub fn reload(&self, objects: &str) -> Result<()> {
        let (synced, changed) = {
            let lines = self.log.lock();
            (lines.synced, lines.changed)
        };
        self.manifests.replace(objects)?;
        self.wait_for_sync(synced, changed)
    }

    /// The process, which may be that of the program it runs under.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("cannot wait for the program")
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let lines = self.log.lock();
        let from = lines.all.len().saturating_sub(LOG_TAIL);
        format!("--- log of the program, last {} lines\n{}", lines.all.len() - from, lines.all[from..].join("\n"))
    }

    /// How many lines of the log have these words.
    pub fn said(&self, words: &str) -> usize {
        self.log.lock().all.iter().filter(|line| line.contains(words)).count()
    }

    /// Waits until there was a sync, and for a moment no other one: a slow machine may take a file's objects in several.
    fn wait_for_sync(&self, already: usize, already_changed: usize) -> Result<()> {
        let deadline = Instant::now() + SYNC_LIMIT;
        let mut lines = self.log.lock();
        loop {
            let synced = lines.synced;
            if lines.ended {
                ensure!(synced > already, "the program has ended");
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the program did not report `synced` within {} s", SYNC_LIMIT.as_secs());
            let settled = if lines.changed > already_changed { SETTLED } else { SETTLED_UNCHANGED };
            let patience = if synced > already { settled.min(left) } else { left };
            let (after, waited) =
                self.log.changed.wait_timeout(lines, patience).unwrap_or_else(PoisonError::into_inner);
            if synced > already && waited.timed_out() && after.synced == synced {
                return Ok(());
            }
            lines = after;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
        for reader in self.readers.drain(..) {
            reader.join().ok();
        }
    }
}

impl Manifests {
    fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("portway-flows-").context("cannot make a folder")?;
        std::fs::create_dir(folder.path().join("manifests")).context("cannot make the folder of manifests")?;
        Ok(Self { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// Puts a complete file in place by renaming it, as careful editors do.
    fn replace(&self, objects: &str) -> Result<()> {
        let draft = self.folder.path().join("draft.yaml");
        std::fs::write(&draft, objects).context("cannot write manifests")?;
        std::fs::rename(draft, self.path().join("cluster.yaml")).context("cannot put manifests in place")
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects lines until the stream ends; only the last stream's end is the program's end.
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static, is_log: bool) -> JoinHandle<()> {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut lines = log.lock();
                let reports_sync = line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "synced");
                if is_log && reports_sync {
                    lines.synced += 1;
                    lines.changed += usize::from(!line.contains("added=0 deleted=0"));
                }
                lines.all.push(line);
                log.changed.notify_all();
            }
            log.lock().ended |= is_log;
            log.changed.notify_all();
        })
    }
}

/// The command line for a scenario.
fn arguments(scenario: &Scenario, manifests: &Path, owned: bool) -> Result<Vec<String>> {
    let config = &scenario.config;
    let manifests = manifests.to_str().context("a folder with a strange name")?;
    let mode = match config.detect_local_mode.as_deref() {
        None | Some("None") => "ClusterCIDR",
        Some(mode) => mode,
    };
    let mut arguments: Vec<String> =
        ["run", "--manifests", manifests, "--hostname-override", &scenario.node.name, "--detect-local-mode", mode]
            .map(str::to_owned)
            .into();
    let mut option = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
    let has_detection = config.detect_local_mode.as_deref() != Some("None");
    if has_detection && !config.cluster_cidrs.0.is_empty() {
        option("--cluster-cidr", &config.cluster_cidrs.0.join(","));
    }
    if let Some(name) = config.bridge_interface() {
        option("--pod-bridge-interface", name);
    }
    if let Some(prefix) = config.interface_name_prefix() {
        option("--pod-interface-name-prefix", prefix);
    }
    if let Some(addresses) = config.node_port_addresses.as_ref().filter(|addresses| !addresses.0.is_empty()) {
        option("--nodeport-addresses", &addresses.0.join(","));
    }
    if let Some(time) = &config.reset_connections_for {
        option("--reset-connections-for", time);
    }
    option("-v", "4");
    if config.answer_pings {
        arguments.push("--answer-pings".to_owned());
    }
    if config.masquerade_all {
        arguments.push("--masquerade-all".to_owned());
    }
    if !owned {
        arguments.push("--no-table-ownership".to_owned());
    }
    Ok(arguments)
}
