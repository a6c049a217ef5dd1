//! Errors of the kernel in every call: what is in force is always the table of some moment of the history, and never goes
//! back; with the error gone, it is the table of the end.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::diff::Mirror;
use portway::model::{Event, Family};
use portway::ruleset::{ChangedParts, Kernel as _, Keys, SetId};
use proptest::prelude::*;

use super::history::{Tables, from_scratch, tables};
use super::kernel::{Fault, FaultyKernel};
use support::cluster::{any_history, any_options, empty_lists};
use support::scenes::sample;

/// Histories whose every call is made to fail in every way.
const SEEDS: [u64; 2] = [11, 12];
/// Threads that play; most of the time they wait for the sync loop to try again.
const PLAYERS: usize = 48;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A history and the tables it leads to: nothing, then those after each batch.
struct Script {
    options: Options,
    batches: Vec<Vec<Event>>,
    moments: Vec<Tables>,
}

impl Script {
    fn new(options: Options, history: Vec<Vec<Event>>) -> Self {
        let batches: Vec<Vec<Event>> = std::iter::once(empty_lists()).chain(history).collect();
        let ends = (1..=batches.len()).map(|end| batches[..end].concat());
        let moments = std::iter::once([None, None]).chain(ends.map(|events| from_scratch(&options, &events))).collect();
        Self { options, batches, moments }
    }

    /// Plays it with a kernel that fails in these calls; the calls there were, and those of them that deleted records.
    fn play(&self, fault: Fault, faulty: Range<usize>) -> Result<(usize, usize), String> {
        let mut controller = Controller::new(FaultyKernel::new(fault, faulty), self.options.clone()).0;
        let mut reached = [0; 2];
        for (number, batch) in self.batches.iter().enumerate() {
            controller.handle(batch.clone(), Instant::now());
            controller.kernel().pass_packets();
            // Nothing was changed, but that is not known before.
            let all = controller.mirror().map_or(ChangedParts::Everything, all_parts);
            controller.doubts().raise(None, all);
            controller.check_doubts();
            self.judge(&mut reached, controller.kernel(), number)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while controller.mirror().is_none() {
            if Instant::now() > deadline {
                return Err("it never recovers".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
            controller.handle([], Instant::now());
            self.judge(&mut reached, controller.kernel(), self.batches.len() - 1)?;
        }
        if tables(&controller.kernel().inner) != *self.moments.last().expect("one at least") {
            return Err("not the table of the end".to_owned());
        }
        for family in Family::ALL {
            let records =
                controller.kernel().inner.read_set(family, SetId::Affinity.into()).map_err(|e| e.to_string())?;
            let orphans = controller.mirror().ok_or("no mirror")?.orphans(family, &records);
            // Packets have passed after the last sync too, by what was in force.
            if !orphans.is_empty() {
                return Err(format!("{family}: stale records {orphans:?}"));
            }
        }
        Ok((controller.kernel().calls, controller.kernel().forgotten))
    }

    /// Each state there was must be a moment of the history, not before the last one and not after this batch.
    fn judge(&self, reached: &mut [usize; 2], kernel: &mut FaultyKernel, batch: usize) -> Result<(), String> {
        for state in kernel.states.drain(..) {
            for (index, reached) in reached.iter_mut().enumerate() {
                let known = (*reached..=batch + 1).find(|moment| self.moments[*moment][index] == state[index]);
                *reached =
                    known.ok_or_else(|| format!("at batch {batch}, in force was no moment: {:#?}", state[index]))?;
            }
        }
        Ok(())
    }
}

/// Both tables, part by part.
fn all_parts(mirror: &Mirror) -> ChangedParts {
    let mut touched = ChangedParts::default();
    for listing in Family::ALL.into_iter().filter_map(|family| mirror.listing(family)) {
        touched.structure(listing.family);
        listing.sets.into_keys().for_each(|name| touched.elements(listing.family, name, Keys::All));
    }
    touched
}

/// Some 40 batches.
fn long_history() -> impl Strategy<Value = Vec<Vec<Event>>> {
    prop::collection::vec(any_history(), 6).prop_map(|histories| histories.concat())
}

/// Does all the jobs on many threads.
fn all(jobs: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                while let Some(job) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|job| *job < jobs) {
                    work(job);
                }
            });
        }
    });
}

#[test]
fn every_call_fails_in_every_way() {
    let (mut played, mut forgotten) = (0, 0);
    for seed in SEEDS {
        let (options, history) = sample(&(any_options(), long_history()), seed);
        let script = Script::new(options, history);
        let (calls, records) = script.play(Fault::Garbled, 0..0).expect("without a fault");
        forgotten += records;
        let jobs: Vec<(Fault, usize)> = Fault::ALL.iter().flat_map(|fault| (0..calls).map(|n| (*fault, n))).collect();
        all(jobs.len(), |job| {
            let (fault, call) = jobs[job];
            script
                .play(fault, call..call + 1)
                .unwrap_or_else(|error| panic!("seed {seed}, call {call}, {fault:?}: {error}"));
        });
        println!("seed {seed}: {} batches, {calls} calls", script.batches.len());
        played += jobs.len();
    }
    println!("{played} faults");
    assert!(forgotten > 0, "these histories make no record stale");
}

#[test]
fn an_error_that_lasts_keeps_the_table_of_before() {
    let (options, history) = sample(&(any_options(), long_history()), 14);
    let script = Script::new(options, history);
    let (calls, _) = script.play(Fault::Garbled, 0..0).expect("without a fault");
    let starts: BTreeSet<usize> = (0..calls).step_by(3).collect();
    let jobs: Vec<(Fault, usize)> = Fault::ALL.iter().flat_map(|fault| starts.iter().map(|n| (*fault, *n))).collect();
    all(jobs.len(), |job| {
        let (fault, call) = jobs[job];
        script.play(fault, call..call + 3).unwrap_or_else(|error| panic!("calls from {call}, {fault:?}: {error}"));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_history_survives_any_fault(
        options in any_options(),
        history in any_history(),
        fault in prop::sample::select(Fault::ALL.as_slice()),
        at in 0_usize..60,
        length in 1_usize..3,
    ) {
        let script = Script::new(options, history);
        script.play(fault, at..at + length).map_err(TestCaseError::fail)?;
    }
}
