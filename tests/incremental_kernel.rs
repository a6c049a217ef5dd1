//! As `incremental.rs`, with the kernel that counts: after every batch it holds what the mirror says, and at the end of a
//! history what a controller that started with its end would have made.
//!
//! `PORTWAY_SEED` chooses other histories (default 1), `PORTWAY_CASES` how many (default 1000).

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use portway::config::Options;
use portway::controller::Controller;
use portway::diff::Mirror;
use portway::model::{Event, Family};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{ChainId, FakeKernel, Kernel, Rule, Table};
use support::canonical::{Sets, meaning, with_first_names};
use support::cluster::{any_history, any_options, empty_lists};
use support::netns::in_netns;
use support::scenes::{number, sample, side_by_side};

const HISTORIES: u64 = 1000;
const JOBS: usize = 12;

/// A table without what is free to choose.
fn canonical(family: Family, table: &Table) -> (BTreeMap<ChainId, Vec<Rule>>, Sets) {
    let (listing, unknown) = table.listing(family);
    assert_eq!(unknown, [""; 0], "the kernel holds something strange");
    let listing = with_first_names(&listing);
    let elements =
        listing.sets.iter().flat_map(|(name, elements)| elements.values().map(|element| (name.set, element)));
    meaning(listing.chains, elements)
}

#[test]
fn the_kernel_follows_every_history() {
    assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let (seed, cases) = (number("PORTWAY_SEED", 1), number("PORTWAY_CASES", HISTORIES));
    let started = Instant::now();
    let workers = side_by_side(JOBS, cases, |numbers| in_netns(|| play_some(numbers, seed)));
    let batches: usize = workers.into_iter().sum();
    println!("seed {seed}: {cases} histories, {batches} batches in {:.1} s", started.elapsed().as_secs_f64());
    assert!(batches as u64 >= cases);
}

/// Plays histories in the calling thread's namespace; says how many batches there were.
fn play_some(numbers: &mut (dyn Iterator<Item = u64> + Send), seed: u64) -> usize {
    let mut batches = 0;
    for case in numbers {
        let (options, history) = sample(&(any_options(), any_history()), seed << 32 | case);
        batches += history.len();
        if let Err(error) = play(&options, &history) {
            panic!("history {case} of seed {seed}: {error:#}\n{options:#?}\n{history:#?}");
        }
    }
    batches
}

fn connection() -> Result<NftKernel> {
    Ok(NftKernel::open_with(nftables::KernelOptions::new(false))?)
}

fn play(options: &Options, history: &[Vec<Event>]) -> Result<()> {
    let mut observer = connection()?;
    observer.cleanup()?;
    let (mut controller, reports) = Controller::new(connection()?, options.clone());
    let mut all = empty_lists();
    controller.handle(all.clone(), Instant::now());
    for (number, batch) in history.iter().enumerate() {
        controller.handle(batch.clone(), Instant::now());
        ensure!(reports.borrow().failures == 0, "the kernel refused batch {number}");
        all.extend(batch.iter().cloned());
        let mirror = controller.mirror().context("there was a sync")?;
        compare(mirror, &mut observer).with_context(|| format!("after batch {number}"))?;
    }
    let mut fresh = Controller::new(FakeKernel::new(), options.clone()).0;
    fresh.handle(all, Instant::now());
    for family in Family::ALL {
        let kept = observer.read(family)?.map(|table| canonical(family, &table));
        let compiled = fresh.kernel().read(family)?.map(|table| canonical(family, &table));
        ensure!(kept.is_some(), "{family}: no table");
        ensure!(kept == compiled, "{family}: not the table of its end: {kept:#?}\ninstead of {compiled:#?}");
    }
    Ok(())
}

/// What the kernel says of itself must leave the mirror nothing to do.
fn compare(mirror: &Mirror, observer: &mut NftKernel) -> Result<()> {
    for family in Family::ALL {
        let table = observer.read(family)?;
        let steps = mirror.rebase(family, table.as_ref());
        ensure!(steps.is_empty(), "{family}: the kernel differs: {steps:#?}");
    }
    Ok(())
}
