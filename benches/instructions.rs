//! Guards against growing slower: instructions of each step, counted by callgrind, against `benches/baselines.json`.
//!
//! `make bench-check` compares, `make bench-bless` writes new baselines (`--bless`). Needs valgrind, and root for `encode`.
//! Counts do not depend on what else the machine does, but on the compiler: with another one nothing is compared.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, unshare};
use portway::model::Event;
use portway::nftables::NftKernel;
use serde_json::{Map, Value, json};

use support::phases;

const PHASES: [&str; 5] = ["decode", "plan", "first_load", "diff", "encode"];
const SERVICES: usize = 3_000;
const ENDPOINTS: usize = 10;
/// Hash maps are seeded at random, which moves counts by up to a few per mille.
const TOLERANCE: f64 = 0.03;
const BASELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/baselines.json");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--phase") {
        run(&arguments[at + 1]);
        return ExitCode::SUCCESS;
    }
    let is_blessing = arguments.iter().any(|argument| argument == "--bless");
    let rustc = rustc();
    let baselines: Value = std::fs::read_to_string(BASELINES)
        .map_or(Value::Null, |text| serde_json::from_str(&text).expect("baselines.json is JSON"));
    if !is_blessing && baselines["rustc"] != json!(rustc) {
        println!(
            "bench-check: NOT COMPARED: the baselines are of {}, this is {rustc}. Once this compiler is the usual one, \
             bring them up to date on a revision known to be good: make bench-bless",
            baselines["rustc"]
        );
        return ExitCode::SUCCESS;
    }
    let counts: Vec<u64> = PHASES.iter().map(|phase| count(phase)).collect();
    if is_blessing {
        let instructions: Map<String, Value> =
            PHASES.iter().zip(&counts).map(|(phase, count)| ((*phase).to_owned(), json!(count))).collect();
        let all = json!({"rustc": rustc, "instructions": instructions});
        let text = serde_json::to_string_pretty(&all).expect("JSON") + "\n";
        std::fs::write(BASELINES, text).expect("writable sources");
    }
    compare(&counts, &baselines["instructions"], is_blessing)
}

fn compare(counts: &[u64], baselines: &Value, is_blessing: bool) -> ExitCode {
    println!("| step, {SERVICES} Services x {ENDPOINTS} | instructions | baseline | change |\n|---|---|---|---|");
    let mut worse = Vec::new();
    for (phase, count) in PHASES.iter().zip(counts) {
        let Some(baseline) = baselines[phase].as_u64() else {
            println!("| {phase} | {count} | none | |");
            worse.push(format!("{phase} has no baseline"));
            continue;
        };
        let change = *count as f64 / baseline as f64 - 1.0;
        println!("| {phase} | {count} | {baseline} | {:+.1} % |", change * 100.0);
        if change > TOLERANCE {
            worse.push(format!("{phase} takes {:.1} % more instructions", change * 100.0));
        } else if change < -TOLERANCE {
            println!("{phase} has become cheaper: keep it so with `make bench-bless`");
        }
    }
    if worse.is_empty() || is_blessing {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "bench-check: {}. If that is worth it: make bench-bless, and say why in the commit message",
        worse.join("; ")
    );
    ExitCode::FAILURE
}

/// Runs this program again, under callgrind, which counts while the function of that name runs.
fn count(phase: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*support::phases::{phase}*"))
        .arg(std::env::current_exe().expect("a path"))
        .args(["--phase", phase])
        .output()
        .expect("valgrind is installed (scripts/setup --bench)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{phase} under valgrind: {said}");
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1)).expect("callgrind's total");
    let count = collected.trim().parse().expect("a number");
    assert!(count > 0, "callgrind saw nothing of {phase}");
    count
}

fn run(phase: &str) {
    let (options, mut model) = cluster::model(SERVICES, ENDPOINTS);
    match phase {
        "decode" => drop(phases::decode(&phases::slices(SERVICES, ENDPOINTS))),
        "plan" => drop(phases::plan(&options, &model)),
        "first_load" => drop(phases::first_load(&phases::plan(&options, &model))),
        "diff" => {
            let mut mirror = phases::plan(&options, &model);
            model.take_changes();
            let changed = (0..SERVICES).map(|n| Event::Slice(cluster::slice(n, ENDPOINTS, 1).into())).collect();
            phases::diff(&options, &mut model, &mut mirror, changed);
        }
        "encode" => {
            unshare(CloneFlags::CLONE_NEWNET).expect("root, for a network namespace of its own");
            let transaction = phases::first_load(&phases::plan(&options, &model));
            phases::encode(&mut NftKernel::open().expect("nf_tables"), &transaction);
        }
        other => panic!("no step {other}"),
    }
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("rustc");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
