//! The `nft` programs to test against: PORTWAY_NFT (separated by colons), or the one in PATH.

use std::io::Write;
use std::process::{Command, Stdio};

/// One installed `nft`.
#[derive(Debug, Clone)]
pub struct Nft {
    pub program: String,
    /// As 1.0.6 is (1, 0, 6).
    pub version: (u32, u32, u32),
}

impl Nft {
    /// All to test against; there is at least one, or the test fails.
    pub fn all() -> Vec<Nft> {
        let programs = std::env::var("PORTWAY_NFT").unwrap_or_else(|_| "nft".to_owned());
        programs.split(':').map(Nft::new).collect()
    }

    fn new(program: &str) -> Nft {
        let output = Command::new(program).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix('v')).expect("a version");
        let mut parts = version.split('.').map(|part| part.parse().expect("a number"));
        let mut part = || parts.next().unwrap_or(0);
        Nft { program: program.to_owned(), version: (part(), part(), part()) }
    }

    /// Runs it in the network namespace of this thread; its output, or what it complained about.
    pub fn run(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nft starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("nft reads its input");
        let output = child.wait_with_output().expect("nft ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{} {args:?}: {}: {}", self.program, output.status, text(&output.stderr)))
        }
    }

    /// The whole ruleset, without what depends on who owns the table and on the time, and elements sorted as text: how many stand on a
    /// line and what comes first differs between versions.
    pub fn list(&self) -> String {
        canonical(&self.run(&["list", "ruleset"], "").expect("listable"))
    }
}

/// A listing as [`Nft::list`] gives it.
pub fn canonical(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.split(" # progname").next().unwrap_or_default();
        // Newer ones say how many elements a set of limited size has.
        let line = line.split("\t# count").next().unwrap_or_default();
        if line.starts_with("\tflags owner") {
            // And the empty line behind it.
            lines.next();
        } else if line.starts_with("\t\telements = {") {
            let mut block = line.to_owned();
            while !block.ends_with('}') {
                block += lines.next().expect("closed").trim();
            }
            out += &sorted(&block);
        } else {
            // 1.0.6 has names for the priorities at two of the hooks only.
            let line = line.replace("hook output priority -100", "hook output priority dstnat");
            let line = line.replace("hook input priority 100", "hook input priority srcnat");
            // Newer ones than 1.1.3 show flags as hexadecimal numbers.
            out += &line.replace("0x3fff != 0x0 ", "16383 != 0 ");
            out.push('\n');
        }
    }
    out
}

fn sorted(block: &str) -> String {
    let inner = block.trim().trim_start_matches("elements = {").trim_end_matches('}');
    let elements = inner.split(',').map(str::trim).filter(|element| !element.is_empty());
    let mut elements: Vec<String> = elements.map(without_expiry).collect();
    elements.sort_unstable();
    format!("\t\telements = {{ {} }}\n", elements.join(",\n\t\t\t     "))
}

/// How long an element has left is another time at each look.
fn without_expiry(element: &str) -> String {
    let mut words = element.split(' ');
    let mut kept: Vec<&str> = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "expires" => drop(words.next()),
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

/// Compares texts by line, so that a failure is short.
#[track_caller]
pub fn assert_same_text(left: &str, right: &str, what: &str) {
    let (mut left, mut right) = (left.lines(), right.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => return,
            (left, right) => assert_eq!(left, right, "line {number}: {what}"),
        }
    }
}
