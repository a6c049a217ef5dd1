//! Runs the corpus of packet flows against the real program with real packets; see `tests/README.md`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Result, ensure};

use support::corpus::{self, Entry};
use support::stage::{Report, Stage};

/// Where the corpus is, seen from the folder that holds the repository.
const DEFAULT_CORPUS: &str = "shared/spec/packet-flows.yaml";
/// The repository's own corpus: what the other one leaves out.
const OWN_CORPUS: &str = "tests/flows/more.yaml";
/// Scenarios at a time; most of a scenario's time is spent waiting for nothing to happen.
const DEFAULT_JOBS: usize = 3;

/// What the command line asks for. Arguments of the usual test harness are taken without complaint.
#[derive(Debug, Default)]
struct Arguments {
    filter: Option<String>,
    list: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse(std::env::args().skip(1))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("packet flows: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => arguments.list = true,
                "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => drop(words.next()),
                option if option.starts_with('-') => {}
                _ => arguments.filter = Some(word),
            }
        }
        arguments
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.filter.as_deref().is_none_or(|filter| entry.name().contains(filter))
    }
}

/// Runs everything and tells whether all is well.
fn run(arguments: &Arguments) -> Result<bool> {
    let path = std::env::var_os("PORTWAY_FLOWS").map_or_else(default_corpus, PathBuf::from);
    let entries = corpus::read(&path)?;
    if arguments.list {
        entries.iter().for_each(|entry| println!("{}: test", entry.name()));
        return Ok(true);
    }
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let started = Instant::now();
    let stage = Stage::new(&entries);
    let wanted: Vec<&Entry> = entries.iter().filter(|entry| arguments.wants(entry)).collect();
    let total = play_all(&stage, &wanted);
    println!("{} scenarios in {:.1} s", wanted.len(), started.elapsed().as_secs_f64());
    if total.pending > 0 {
        println!("{} health checks not asked (PORTWAY_FLOWS_HEALTH=0)", total.pending);
    }
    println!("self-test: {} flipped expectations noticed, {} not", total.flipped, total.blind);
    println!("{} passed, {} failed", total.passed, total.failed);
    // A whole corpus has something to flip; a few filtered scenarios may not.
    let tested_itself = total.flipped > 0 || arguments.filter.is_some();
    Ok(total.failed == 0 && total.blind == 0 && tested_itself)
}

/// The corpus beside the repository, or further up for a work tree that lies deeper; the repository's own one where there
/// is none.
fn default_corpus() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = |folder: &Path| folder.join(DEFAULT_CORPUS);
    let found = root.ancestors().skip(1).map(beside).find(|path| path.exists());
    found.unwrap_or_else(|| root.join(OWN_CORPUS))
}

/// Plays scenarios on a few threads and prints their reports in the order of the corpus.
fn play_all(stage: &Stage, entries: &[&Entry]) -> Report {
    let jobs = std::env::var("PORTWAY_FLOWS_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(DEFAULT_JOBS);
    let next = AtomicUsize::new(0);
    let (reports, inbox) = mpsc::channel();
    let mut total = Report::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (next, reports) = (&next, reports.clone());
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(entry) = entries.get(index) else { return };
                    reports.send((index, play(stage, entry))).expect("the printer waits for every report");
                }
            });
        }
        drop(reports);
        let mut waiting: Vec<Option<Report>> = entries.iter().map(|_| None).collect();
        let mut printed = 0;
        for (index, report) in inbox {
            waiting[index] = Some(report);
            while let Some(report) = waiting.get_mut(printed).and_then(Option::take) {
                print!("{}", report.text);
                total.count(&report);
                printed += 1;
            }
        }
    });
    total
}

/// Plays one scenario; a panic is its failure and not that of the others.
fn play(stage: &Stage, entry: &Entry) -> Report {
    catch_unwind(AssertUnwindSafe(|| stage.run(entry))).unwrap_or_else(|_| Report {
        text: format!("FAILED {}: the runner itself failed, see above\n", entry.name()),
        failed: 1,
        ..Report::default()
    })
}
