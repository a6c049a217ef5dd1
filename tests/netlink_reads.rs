//! Reading our tables while others change theirs. Needs root; tables with an owner need Linux 6.9.
//!
//! `PORTWAY_READS` and `PORTWAY_RESTARTS` say how often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Element, Kernel, Op, SetId, Transaction};

use support::manifests::{NODE, ipv4_slice, service};
use support::netns::in_netns;
use support::nft::Nft;
use support::node::Program;
use support::others::Others;
use support::sample;
use support::scenes::number;

const FAMILY: Family = Family::Ipv4;
/// Reads, and restarts, when nobody says.
const READS: u64 = 500;
const RESTARTS: u64 = 6;
/// Chains that others add and delete.
const CHAINS: u32 = 1_000;

#[test]
fn no_chain_is_missed_while_others_change_theirs() {
    for owned in [true, false] {
        in_netns(|| {
            // Theirs come first in the kernel's list of chains.
            let others = Others::start(CHAINS, Duration::ZERO);
            let mut kernel = NftKernel::open_with(KernelOptions::new(owned)).expect("a socket");
            kernel.apply(&sample::transaction(FAMILY)).expect("applied");
            let whole = kernel.read(FAMILY).expect("readable").expect("there");
            let before = others.commits();
            let reads = number("PORTWAY_READS", READS);
            let mut wrong = 0;
            for _ in 0..reads {
                let table = kernel.read(FAMILY).expect("readable").expect("there");
                wrong += usize::from(table.chains != whole.chains || table.sets != whole.sets);
                assert_eq!(table.foreign, [], "nothing in it is foreign");
            }
            println!("{reads} reads, {wrong} wrong, {} transactions of others meanwhile", others.commits() - before);
            assert_eq!(wrong, 0, "of {reads} reads");
            assert!(others.commits() > before + 10, "the others must be at it");
        });
    }
}

/// Elements of the largest map.
const ELEMENTS: u32 = 50_000;

#[test]
fn others_do_not_keep_anybody_from_reading_tables_that_nobody_owns() {
    in_netns(|| {
        let mut kernel = NftKernel::open_with(KernelOptions::new(false)).expect("a socket");
        kernel.apply(&sample::transaction(FAMILY)).expect("applied");
        let set = SetId::Endpoints;
        let list = (100..ELEMENTS).map(|n| {
            let key = sample::key(FAMILY, set, n);
            Element { key, ..sample::element(FAMILY, set, 0) }
        });
        let ops = vec![(FAMILY, Op::AddElements(set.into(), list.collect()))];
        kernel.apply(&Transaction { ops }).expect("applied");
        let mut time = || {
            let start = Instant::now();
            let table = kernel.read(FAMILY).expect("readable").expect("there");
            let elements = kernel.read_set(FAMILY, set.into()).expect("readable");
            assert_eq!(table.sets[&set].len(), elements.len());
            assert!(elements.len() > ELEMENTS as usize - 100, "{} elements", elements.len());
            start.elapsed()
        };
        time();
        let quiet = time();
        for pause in [100, 30, 10] {
            let others = Others::start(1, Duration::from_millis(pause));
            let busy = time();
            println!("quiet {quiet:?}; a transaction of others every {pause} ms ({}): {busy:?}", others.commits());
            // Twice, and what other tests take of the machine.
            assert!(busy < quiet * 2 + Duration::from_secs(1), "{busy:?} instead of {quiet:?}");
        }
    });
}

/// Stops a thread.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn changes_of_the_table_that_is_read_do_count() {
    in_netns(|| {
        let mut kernel = NftKernel::open_with(KernelOptions::new(false)).expect("a socket");
        kernel.apply(&sample::transaction(FAMILY)).expect("applied");
        let set = SetId::ClusterIps;
        let element = |n| vec![Element { key: sample::key(FAMILY, set, n), ..sample::element(FAMILY, set, n) }];
        let stop = AtomicBool::new(false);
        let (seen, others) = std::thread::scope(|scope| {
            let change = scope.spawn(|| {
                let mut other = NftKernel::open_with(KernelOptions::new(false)).expect("a socket");
                let mut changes = 0;
                while !stop.load(Ordering::Relaxed) {
                    for n in [500, 501] {
                        // Both or none are there after each transaction.
                        let twin = Element { key: sample::key(FAMILY, SetId::NodeIps, n), ..element(n)[0].clone() };
                        let ops = |add: bool| {
                            let op = |set: SetId, list| match add {
                                true => (FAMILY, Op::AddElements(set.into(), list)),
                                false => (FAMILY, Op::DeleteElements(set.into(), list)),
                            };
                            vec![op(set, element(n)), op(SetId::NodeIps, vec![twin.clone()])]
                        };
                        other.apply(&Transaction { ops: ops(true) }).expect("applied");
                        other.apply(&Transaction { ops: ops(false) }).expect("applied");
                        changes += 2;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                changes
            });
            // Also when an assertion fails: else the scope would wait for ever.
            let stopping = StopAtEnd(&stop);
            let mut seen = 0;
            for _ in 0..100 {
                // One that is disturbed too often is an error, not a table that never was.
                let Ok(table) = kernel.read(FAMILY) else { continue };
                let table = table.expect("there");
                for n in [500, 501] {
                    let [a, b] =
                        [set, SetId::NodeIps].map(|set| table.sets[&set].contains_key(&sample::key(FAMILY, set, n)));
                    assert_eq!(a, b, "half of a transaction was read");
                    seen += usize::from(a);
                }
            }
            drop(stopping);
            (seen, change.join().expect("changed"))
        });
        println!("{others} changes, {seen} seen");
        assert!(others > 10);
    });
}

/// A sticky Service, so that there are affinity records.
fn objects() -> String {
    let service = service("web", "clusterIP: 10.96.0.1, sessionAffinity: ClientIP, ports: [{port: 80}]");
    [NODE, &service, &ipv4_slice("web", &["10.1.0.1", "10.1.0.2"], None)].concat()
}

/// The table with its handle, without owner and elements.
fn structure() -> String {
    let text = Nft::all()[0].run(&["-a", "-t", "list", "table", "ip", "portway"], "").expect("listable");
    text.lines().filter(|line| !line.contains("flags owner") && !line.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

/// Addresses of clients that have an affinity record.
fn remembered() -> Vec<String> {
    let text = Nft::all()[0].run(&["list", "map", "ip", "portway", "affinity"], "").expect("listable");
    let mut clients: Vec<_> =
        text.split(['{', ',', ' ', '\n']).filter(|word| word.starts_with("10.9.0.")).map(str::to_owned).collect();
    clients.sort();
    clients
}

#[test]
fn a_restart_among_changes_of_others_replaces_nothing() {
    in_netns(|| {
        let others = Others::start(CHAINS, Duration::ZERO);
        let flags = ["--admin-socket=", "--metrics-bind-address="];
        drop(Program::start(&objects(), &flags));
        let pause = others.pause();
        let before = structure();
        assert!(before.contains("chain prerouting") && before.contains("# handle"), "{before}");
        // As packets would write them.
        let ids = Nft::all()[0].run(&["list", "map", "ip", "portway", "affinity-ids"], "").expect("listable");
        let id = ids.rsplit(" : ").next().and_then(|rest| rest.split_whitespace().next()).expect("an ID");
        let records: String = (0..50)
            .map(|n| {
                format!("add element ip portway affinity {{ 10.9.0.{n} . tcp . {id} timeout 3h : 10.1.0.1 . 8080 }}\n")
            })
            .collect();
        Nft::all()[0].run(&["-f", "-"], &records).expect("added");
        let clients = remembered();
        assert_eq!(clients.len(), 50);
        drop(pause);
        let restarts = number("PORTWAY_RESTARTS", RESTARTS);
        for restart in 0..restarts {
            drop(Program::start(&objects(), &flags));
            let pause = others.pause();
            assert!(structure() == before, "restart {restart}: {}", structure());
            assert_eq!(remembered(), clients, "restart {restart}");
            drop(pause);
        }
        println!("{restarts} restarts, {} transactions of others meanwhile", others.commits());
    });
}
