//! Result tables: on the screen, and as Markdown in `benches/results/`.

use std::fmt::Write as _;
use std::path::PathBuf;

/// Where results go.
pub fn folder() -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"));
    std::fs::create_dir_all(&folder).expect("writable sources");
    folder
}

/// How much to measure: `--quick` on the command line asks for what takes a minute or two.
pub fn is_quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// One result file.
pub struct Report {
    name: &'static str,
    text: String,
}

impl Report {
    /// Begins `benches/results/NAME.md`.
    pub fn new(name: &'static str) -> Self {
        let run = if is_quick() { " -- --quick" } else { "" };
        let mut report = Self { name, text: String::new() };
        report.line(&format!("`cargo bench --bench {name}{run}`: {}", machine()));
        report
    }

    /// Adds a line and shows it.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        writeln!(self.text, "{line}").expect("a string takes everything");
    }

    /// Begins a table.
    pub fn table(&mut self, columns: &[&str]) {
        self.line("");
        self.row(columns);
        self.line(&format!("{}|", "|---".repeat(columns.len())));
    }

    /// Adds a row.
    pub fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        self.line(&format!("| {} |", cells.join(" | ")));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::write(folder().join(format!("{}.md", self.name)), &self.text).expect("writable sources");
        }
    }
}

/// What it was measured on, and what else the machine did.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = read("/proc/loadavg");
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    format!(
        "{date}, {cpus} CPUs ({}), Linux {}, load {} at the start",
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default()
    )
}
