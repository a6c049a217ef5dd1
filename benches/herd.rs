//! What an API server sees of all nodes at once when it comes back with an empty watch cache: a simulation.
//!
//! Portway's nodes run its own code ([`RequestGate`]) on times of their own; beside them stands client-go's reflector, as
//! `client-go/tools/cache/reflector.go` has it: each kind by itself, 0.8 s that double up to 30 s, each with up to as much
//! again at random, begun anew after 2 minutes; a refused watch is tried again after such a wait, and a history that is
//! gone (410) is one more wait before the list. Answers take no time here, so what is counted is what nodes ask for, not
//! what a server manages to send.
//!
//!     cargo bench --bench herd [-- OUTAGE-SECONDS...]

use std::time::{Duration, Instant};

use portway::source::{RequestGate, RequestOutcome, RetryPolicy, Turn};

const NODES: [usize; 3] = [1_000, 5_000, 15_000];
const OUTAGES: [f64; 4] = [2.0, 8.0, 30.0, 120.0];
/// Seconds after the server is back that are shown one by one.
const SHOWN: usize = 10;
/// Bytes of the lists of a cluster of 10,000 Services with 10 endpoints each (docs/scale.md): Services, slices, the
/// node's own Node, ServiceCIDRs.
const LISTS: [u64; 4] = [13_500_000, 40_500_000, 6_000, 1_000];
/// Of a request and its answer, other than a list.
const SMALL: u64 = 1_000;

/// What one node does, in seconds since the server was killed.
#[derive(Default)]
struct NodeRecord {
    /// Attempts that nothing answers: a TCP SYN and its refusal.
    refused: Vec<f64>,
    /// Requests that are answered, with the bytes of both.
    requests: Vec<(f64, u64)>,
    /// When the last list was asked for.
    done: f64,
}

/// What a kind asks for next.
#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Watch,
    List,
    Nothing,
}

fn portway(seed: u64, outage: f64) -> NodeRecord {
    let (retry_policy, start) = (RetryPolicy::default(), Instant::now());
    let mut gate = RequestGate::new(retry_policy.clone(), seed, start);
    let mut turns = LISTS.map(|_| Turn::new(&retry_policy));
    for turn in &mut turns {
        gate.note(turn, RequestOutcome::Served, start);
    }
    // Long after that the server is killed.
    let killed = start + Duration::from_secs(1000);
    for turn in &mut turns {
        gate.note(turn, RequestOutcome::Broken, killed);
    }
    let (mut wants, mut record, mut now) = ([Wants::Watch; 4], NodeRecord::default(), killed);
    while wants.iter().any(|wants| *wants != Wants::Nothing) {
        let mut next = None::<Instant>;
        for kind in 0..LISTS.len() {
            if wants[kind] == Wants::Nothing {
                continue;
            }
            if let Err(until) = gate.ask(&mut turns[kind], now) {
                next = Some(next.map_or(until, |next| next.min(until)));
                continue;
            }
            let outcome = asks(&mut wants[kind], LISTS[kind], (now - killed).as_secs_f64(), outage, &mut record);
            gate.note(&mut turns[kind], outcome, now);
            // What was noted may let another kind go at once.
            next = Some(now);
        }
        now = next.unwrap_or(now);
    }
    record
}

/// One request; what becomes of it.
fn asks(wants: &mut Wants, list: u64, at: f64, outage: f64, record: &mut NodeRecord) -> RequestOutcome {
    if at < outage {
        record.refused.push(at);
        return RequestOutcome::Unanswered;
    }
    if *wants == Wants::Watch {
        record.requests.push((at, SMALL));
        *wants = Wants::List;
        return RequestOutcome::Expired;
    }
    record.requests.push((at, SMALL + list));
    record.done = record.done.max(at);
    *wants = Wants::Nothing;
    RequestOutcome::Served
}

fn client_go(random: &mut impl FnMut() -> f64, outage: f64) -> NodeRecord {
    let mut record = NodeRecord::default();
    for list in LISTS {
        let (mut wants, mut at, mut wait) = (Wants::Watch, 0.0_f64, 0.8_f64);
        loop {
            if asks(&mut wants, list, at, outage, &mut record) == RequestOutcome::Served {
                break;
            }
            at += wait * (1.0 + random());
            wait = (wait * 2.0).min(30.0);
        }
    }
    record
}

/// Uniform from 0 to 1 (xorshift).
fn uniform(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn row(name: &str, nodes: usize, outage: f64, all: &[NodeRecord]) {
    let mut requests = [0_u64; SHOWN];
    let mut bytes = [0_u64; SHOWN];
    for (at, size) in all.iter().flat_map(|record| &record.requests) {
        if let Some(second) = Some((at - outage) as usize).filter(|second| *second < SHOWN) {
            requests[second] += 1;
            bytes[second] += size;
        }
    }
    let in_last_second = all.iter().flat_map(|record| &record.refused).filter(|at| **at >= outage - 1.0).count();
    let mut done: Vec<f64> = all.iter().map(|record| record.done - outage).collect();
    done.sort_by(f64::total_cmp);
    let part = |part: f64| done[((done.len() - 1) as f64 * part) as usize];
    let lists = all.iter().map(|record| record.requests.len() - LISTS.len()).sum::<usize>() as f64 / all.len() as f64;
    println!(
        "| {nodes} | {outage} s | {name} | {in_last_second} | {} | {} | {lists} | {:.1} / {:.1} / {:.1} s |",
        requests.map(|number| number.to_string()).join(" "),
        bytes.map(|number| format!("{:.0}", number as f64 / 1e9)).join(" "),
        part(0.5),
        part(0.99),
        part(1.0)
    );
}

fn main() {
    let wanted: Vec<f64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let outages = if wanted.is_empty() { OUTAGES.to_vec() } else { wanted };
    println!(
        "| nodes | outage | | refused in its last second | requests in seconds 1 to {SHOWN} after it | GB of lists asked for in these seconds | lists a node | all lists asked for (half of the nodes / 99 % / all) |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for nodes in NODES {
        for outage in &outages {
            let ours: Vec<NodeRecord> = (0..nodes).map(|node| portway(node as u64, *outage)).collect();
            row("Portway", nodes, *outage, &ours);
            let mut random = uniform(0x2545_f491_4f6c_dd1d);
            let theirs: Vec<NodeRecord> = (0..nodes).map(|_| client_go(&mut random, *outage)).collect();
            row("client-go", nodes, *outage, &theirs);
        }
    }
}
