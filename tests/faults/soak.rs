//! Everything at once, for as long as wanted: `make soak`. `PORTWAY_SOAK` is the length in seconds.

use std::time::{Duration, Instant};

use super::churn::{Churn, Memory};
use super::plot::plot;
use super::testbed::Testbed;
use support::netns::{ip_batch, output_of};
use support::scenes::number;

/// Seconds, when nobody says.
const LENGTH: u64 = 20;
/// At least so many samples without a kill are needed to see growth.
const SAMPLES: usize = 8;
/// Between two faults of the API server: when they come faster, the program waits longer each time, and so would we.
const CALM: Duration = Duration::from_secs(12);
/// Growth of memory that may be chance: a part of what there is, and this many KiB.
const LEEWAY: (f64, f64) = (1.1, 4096.0);

/// What the program uses.
#[derive(Debug, Clone, Copy)]
struct Sample {
    kibibytes: f64,
    descriptors: f64,
}

impl Sample {
    fn take(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kibibytes = line.split_whitespace().nth(1)?.parse().ok()?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64;
        Some(Self { kibibytes, descriptors })
    }
}

#[test]
fn nothing_is_lost_and_nothing_grows() {
    let length = Duration::from_secs(number("PORTWAY_SOAK", LENGTH));
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let mut memory = churn.remember(&testbed);
    let (mut done, mut api_fault) = (Done::default(), None);
    let (start, mut sampled) = (Instant::now(), Instant::now());
    let (mut samples, mut undisturbed) = (Vec::new(), 0);
    while start.elapsed() < length {
        for _ in 0..1 + churn.chance.below(12) {
            churn.change(&testbed);
            churn.chance.doze(20);
        }
        // Whoever is killed all the time has no time to grow: the second half is for that.
        let kills = start.elapsed() < length / 2;
        let calm = api_fault.is_some_and(|at: Instant| at.elapsed() < CALM);
        if done.disturb(&mut testbed, &mut churn, &mut memory, kills, !calm) {
            api_fault = Some(Instant::now());
        }
        let took = churn.settle(&mut testbed);
        done.settled += 1;
        done.slowest = done.slowest.max(took);
        churn.chance.doze(100);
        if sampled.elapsed() > length / 100 {
            sampled = Instant::now();
            samples.extend(Sample::take(testbed.pid()));
            undisturbed = if kills { samples.len() } else { undisturbed };
            testbed.double.forget_requests();
        }
    }
    churn.probes.wait(500);
    let counts = churn.probes.finish();
    let values = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
    let (kibibytes, descriptors) = (values(|sample| sample.kibibytes), values(|sample| sample.descriptors));
    println!("{}", plot("resident memory, MiB (kills in the first half)", &kibibytes, 1024.0));
    println!("{}", plot("open descriptors", &descriptors, 1.0));
    println!("{} s, {} changes; {done:?}", start.elapsed().as_secs(), churn.changes);
    println!("{counts}");
    counts.assert_good();
    let kept = &kibibytes[undisturbed..];
    if kept.len() >= SAMPLES {
        // The first of them are of a process that has just started.
        let (early, late) = (highest(&kept[kept.len() / 4..kept.len() / 2]), highest(&kept[kept.len() * 3 / 4..]));
        assert!(late <= early * LEEWAY.0 + LEEWAY.1, "memory grows: from {early} to {late} KiB");
        let kept = &descriptors[undisturbed..];
        let (early, late) = (highest(&kept[..kept.len() / 2]), highest(&kept[kept.len() / 2..]));
        assert!(late <= early + 2.0, "descriptors grow: from {early} to {late}");
    }
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// How often what was done.
#[derive(Debug, Default)]
struct Done {
    settled: usize,
    slowest: Duration,
    kills: usize,
    flushes: usize,
    broken_watches: usize,
    lost_histories: usize,
    server_errors: usize,
    outages: usize,
    restores: usize,
    bad_objects: usize,
    other_tables: usize,
    addresses: usize,
}

/// Choices of [`Done::disturb`].
const API_FAULTS: std::ops::Range<usize> = 1..8;

impl Done {
    /// Does one of the things that happen to a node; whether it was one of the API server's, where these are wanted.
    fn disturb(
        &mut self,
        testbed: &mut Testbed,
        churn: &mut Churn,
        memory: &mut Memory,
        kills: bool,
        api_faults: bool,
    ) -> bool {
        let kinds = ["services", "endpointslices", "nodes", "servicecidrs"];
        let kind = kinds[churn.chance.below(kinds.len())];
        let choice = churn.chance.below(if kills { 16 } else { 12 });
        if API_FAULTS.contains(&choice) && !api_faults {
            return false;
        }
        match choice {
            0 => {
                self.flushes += 1;
                // Neither does anything to tables that are owned, as they are by now.
                testbed.wait_until_settled();
                output_of("nft", &["flush", "ruleset"]);
                output_of("nft", &["delete", "table", "ip", "portway"]);
            }
            1 | 2 => {
                self.broken_watches += 1;
                testbed.double.drop_connections();
            }
            3 => {
                self.lost_histories += 1;
                testbed.double.expire();
                testbed.double.drop_connections();
            }
            4 => {
                self.lost_histories += 1;
                testbed.double.send_gone(kind);
            }
            5 => {
                self.server_errors += 1;
                testbed.double.fail(kind, 500, 1 + churn.chance.below(2));
                testbed.double.drop_connections();
            }
            6 => {
                self.outages += 1;
                testbed.close_api();
                (0..5).for_each(|_| churn.change(testbed));
                churn.chance.doze(500);
                testbed.open_api();
            }
            7 => {
                self.restores += 1;
                let old = std::mem::replace(memory, churn.remember(testbed));
                churn.restore(testbed, old);
                // An API server whose storage was restored is started anew, and forgets its history.
                testbed.double.expire();
            }
            8 => {
                self.bad_objects += 1;
                testbed.double.put(serde_json::json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"namespace": "testbed", "name": "bad"},
                    "spec": {"clusterIP": "nonsense", "clusterIPs": ["nonsense"], "ports": [{"port": 80}]}}));
            }
            9 => {
                self.other_tables += 1;
                output_of("nft", &["add", "table", "inet", "other"]);
                output_of("nft", &["delete", "table", "inet", "other"]);
            }
            10 | 11 => {
                self.addresses += 1;
                let verb = if self.addresses % 2 == 1 { "add" } else { "del" };
                ip_batch(&format!("addr {verb} 10.51.7.7/32 dev lo\n")).expect("an address");
            }
            _ => {
                self.kills += 1;
                testbed.kill();
                (0..churn.chance.below(3)).for_each(|_| churn.change(testbed));
                testbed.start();
                if churn.chance.below(3) == 0 {
                    churn.chance.doze(150);
                    testbed.kill();
                    testbed.start();
                }
            }
        }
        API_FAULTS.contains(&choice)
    }
}
