//! Resident memory of the program, and what of it a Service and an endpoint take.
//!
//! Run as root: `cargo bench --bench memory [-- PROGRAM... [SERVICESxENDPOINTS...]]`; programs are measured in turn, by
//! default the one of this build. `--quick` leaves out 100,000 Services; with `--hashing` all Services have
//! `portway.io/balance: source-ip`; the result is another file.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use support::api_server::ApiServer;
use support::process::{Memory, Program};
use support::report::{Report, is_quick};
use support::stats::{grouped, median, short};

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(600);
/// How long what follows a first sync may take: what is freed late shall be free.
const REST: Duration = Duration::from_secs(3);
/// Services, and endpoints of each.
const SIZES: [(usize, usize); 5] = [(1, 10), (1_000, 10), (10_000, 10), (10_000, 30), (100_000, 10)];
const RUNS: usize = 3;

fn main() {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).filter(|path| path.is_file()).collect();
    let programs = if given.is_empty() { vec![support::process::program()] } else { given };
    let given: Vec<(usize, usize)> = std::env::args().filter_map(|argument| size(&argument)).collect();
    let sizes = match (given.is_empty(), is_quick()) {
        (false, _) => &given[..],
        (true, true) => &SIZES[..4],
        (true, false) => &SIZES,
    };
    let mut report = Report::new(if is_hashing() { "memory-hashing" } else { "memory" });
    report.line(&format!("Medians of {RUNS} starts, MB (10^6 bytes)."));
    report.table(&["services x endpoints", "program", "resident", "its own", "of files", "at most", "first sync, CPU"]);
    // What is its own, by program and size.
    let mut own = HashMap::new();
    for size @ (services, endpoints) in sizes {
        let medians = support::netns::in_netns(|| measure(&programs, *services, *endpoints));
        for (program, (memory, time, cpu)) in programs.iter().zip(medians) {
            let megabytes = |value: f64| format!("{value:.1}");
            report.row(&[
                format!("{} x {endpoints}", grouped(*services)),
                name(program),
                megabytes(memory.resident),
                megabytes(memory.own),
                megabytes(memory.resident - memory.own),
                megabytes(memory.peak),
                format!("{}, {}", short(time), short(cpu)),
            ]);
            own.insert((program, *size), memory.own * 1e6);
        }
    }
    report.line("");
    for program in &programs {
        let of = |services, endpoints| own.get(&(program, (services, endpoints)));
        let (Some(small), Some(few), Some(many)) = (of(1_000, 10), of(10_000, 10), of(10_000, 30)) else { continue };
        let endpoint = (many - few) / (10_000.0 * 20.0);
        let service = (few - small) / 9_000.0 - 10.0 * endpoint;
        let program = name(program);
        report.line(&format!(
            "{program}: {endpoint:.0} bytes an endpoint, {service:.0} bytes a Service and its slice besides"
        ));
    }
}

fn is_hashing() -> bool {
    std::env::args().any(|argument| argument == "--hashing")
}

/// What the kernel has allocated for itself, in MB: all programs of the machine have their part in it.
fn kernel_memory() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("readable");
    let of = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<f64>().ok())
    };
    ["SUnreclaim:", "VmallocUsed:"].into_iter().filter_map(of).sum::<f64>() * 1024.0 / 1e6
}

fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `10000x10`.
fn size(text: &str) -> Option<(usize, usize)> {
    let (services, endpoints) = text.split_once('x')?;
    Some((services.parse().ok()?, endpoints.parse().ok()?))
}

/// What each program takes, in the median; and its time from start to first sync, CPU time besides.
fn measure(programs: &[PathBuf], services: usize, endpoints: usize) -> Vec<(Memory, Duration, Duration)> {
    eprintln!("{services} Services with {endpoints} endpoints");
    let annotations = if is_hashing() { json!({"portway.io/balance": "source-ip"}) } else { json!({}) };
    let server = ApiServer::start_with(services, endpoints, &annotations);
    let mut runs = vec![(Vec::new(), Vec::new(), Vec::new()); programs.len()];
    for _ in 0..RUNS {
        for (program, (memory, times, cpu)) in programs.iter().zip(&mut runs) {
            let before = kernel_memory();
            let program = Program::start_this(program, &server.url(), &[]);
            times.push(program.wait_for("first sync done", LIMIT) - program.started);
            cpu.push(program.cpu());
            std::thread::sleep(REST);
            memory.push(program.memory());
            eprintln!("the kernel has {:.0} MB more than before", kernel_memory() - before);
            program.stop();
            portway::nftables::NftKernel::open().and_then(|mut kernel| kernel.cleanup()).expect("no table is left");
        }
    }
    let middle = |mut runs: Vec<Memory>| {
        runs.sort_by(|a, b| a.resident.total_cmp(&b.resident));
        runs[runs.len() / 2]
    };
    runs.into_iter().map(|(memory, times, cpu)| (middle(memory), median(&times), median(&cpu))).collect()
}
