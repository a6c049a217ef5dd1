use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::conntrack::{DumpFilter, FlowEntry, Still};
use crate::model::Protocol;
use crate::plan::{FrontendKey, Target};

const DNS: Target = Target { ip: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10)), port: 53 };

fn endpoint(host: u8) -> Target {
    Target { ip: [10, 1, 0, host].into(), port: 53 }
}

/// Asks for DNS to be cleaned of everything but one endpoint.
fn sweep(host: u8) -> Sweep {
    let mut sweep = Sweep::default();
    let key = FrontendKey::Address { ip: DNS.ip, protocol: Protocol::Udp, port: DNS.port };
    sweep.family_mut(Family::Ipv4).ask(key, [endpoint(host)].into());
    sweep
}

/// A table of one flow that tells of each walk and waits to be told how it ends.
struct Double {
    flow: Target,
    walks: Sender<()>,
    results: Receiver<io::Result<Counts>>,
}

impl FlowTable for Double {
    fn sweep(
        &mut self,
        _filter: &DumpFilter,
        stale: &mut dyn FnMut(&FlowEntry) -> bool,
        still: &mut Still<'_>,
    ) -> io::Result<Counts> {
        let entry = FlowEntry {
            family: Family::Ipv4,
            protocol: 17,
            source: self.flow,
            destination: DNS,
            answers_from: self.flow,
        };
        let mut batch = [(entry, stale(&entry))];
        self.walks.send(()).expect("the test waits");
        let counts = self.results.recv().expect("the test answers")?;
        if batch[0].1 {
            still(&mut batch);
        }
        Ok(Counts { deleted: u64::from(batch[0].1), ..counts })
    }
}

struct Stage {
    slot: Arc<Slot>,
    walks: Receiver<()>,
    results: Sender<io::Result<Counts>>,
    reports: Receiver<Cleaning>,
    thread: JoinHandle<()>,
}

impl Stage {
    fn new(flow: Target) -> Self {
        let (walked, walks) = channel();
        let (results, answers) = channel();
        let (reported, reports) = channel();
        let slot = Arc::new(Slot::default());
        let table = Double { flow, walks: walked, results: answers };
        let report = Box::new(move |cleaning: &Cleaning| reported.send(cleaning.clone()).expect("the test waits"));
        let thread = start(slot.clone(), table, report).expect("a thread");
        Self { slot, walks, results, reports, thread }
    }

    fn walk(&self, result: io::Result<Counts>) {
        self.walks.recv().expect("a walk");
        self.results.send(result).expect("the cleaner waits");
    }

    fn end(self) {
        self.slot.close();
        self.thread.join().expect("no panic");
        assert!(self.walks.try_recv().is_err(), "one walk too many");
    }
}

const GOOD: io::Result<Counts> = Ok(Counts { scanned: 1, deleted: 0, interrupted: false });

#[test]
fn requests_are_merged_while_a_walk_runs() {
    let stage = Stage::new(endpoint(1));
    stage.slot.put(sweep(2));
    stage.walks.recv().expect("a walk");
    for host in 3..100 {
        stage.slot.put(sweep(host));
    }
    stage.results.send(GOOD).expect("the cleaner waits");
    assert_eq!(stage.reports.recv().expect("a report").deleted, 1);
    stage.walk(GOOD);
    assert_eq!(stage.reports.recv().expect("a report").deleted, 1, "all of them in one");
    stage.end();
}

#[test]
fn a_flow_that_a_later_sync_allows_is_not_deleted_by_an_earlier_sweep() {
    let stage = Stage::new(endpoint(1));
    stage.slot.put(sweep(2));
    stage.walks.recv().expect("a walk");
    stage.slot.put(sweep(1));
    stage.results.send(GOOD).expect("the cleaner waits");
    assert_eq!(stage.reports.recv().expect("a report").deleted, 0);
    stage.walk(GOOD);
    assert_eq!(stage.reports.recv().expect("a report").deleted, 0);
    stage.end();
}

#[test]
fn an_interrupted_walk_is_repeated_five_times_at_most() {
    let stage = Stage::new(endpoint(1));
    stage.slot.put(sweep(2));
    for _ in 0..PASSES {
        stage.walk(Ok(Counts { scanned: 1, deleted: 0, interrupted: true }));
    }
    let report = stage.reports.recv().expect("a report");
    assert_eq!((report.scanned, report.deleted, report.interrupted), (5, 5, true), "what it brought is used");
    stage.slot.put(sweep(2));
    stage.walk(Ok(Counts { scanned: 1, deleted: 0, interrupted: true }));
    stage.walk(GOOD);
    let report = stage.reports.recv().expect("a report");
    assert_eq!((report.scanned, report.interrupted), (2, false));
    stage.end();
}

#[test]
fn a_failed_sweep_is_tried_again_in_its_newest_form() {
    let stage = Stage::new(endpoint(1));
    stage.slot.put(sweep(2));
    stage.walks.recv().expect("a walk");
    stage.slot.put(sweep(1));
    stage.results.send(Err(io::ErrorKind::Other.into())).expect("the cleaner waits");
    assert!(stage.reports.recv().expect("a report").error.is_some());
    stage.walk(GOOD);
    let report = stage.reports.recv().expect("a report");
    assert_eq!((report.error, report.deleted), (None, 0), "the endpoint is valid again");
    stage.end();
}

#[test]
fn one_family_that_fails_is_not_tried_without_pause_because_the_other_succeeds() {
    let stage = Stage::new(endpoint(1));
    let mut both = sweep(2);
    let key = FrontendKey::Address { ip: "fd00::1".parse().expect("an address"), protocol: Protocol::Udp, port: 53 };
    both.family_mut(Family::Ipv6).ask(key, [].into());
    stage.slot.put(both);
    let start = Instant::now();
    stage.walk(Err(io::ErrorKind::Other.into()));
    stage.walk(GOOD);
    stage.walk(GOOD);
    assert!(start.elapsed() >= PAUSE);
    stage.end();
}

#[test]
fn an_idle_cleaner_ends_when_told() {
    Stage::new(endpoint(1)).end();
}
