//! The operator's commands on a node that is busy and healthy: they answer, soon, and never call it wrong. Needs root.

#[path = "../benches/cluster/mod.rs"]
mod cluster;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway::admin::{self, Activity, Admin, ConfigurationInForce};
use portway::controller::{Controller, Report};
use portway::health::{Health, HealthObserver};
use portway::host::sysctl::{ConntrackSysctls, Maker, Roots};
use portway::metrics::Metrics;
use portway::model::{Event, Family, Kind};
use portway::nftables::NftKernel;
use portway::source::SourceStats;
use serde_json::Value;
use support::netns::in_netns;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
/// The commands shall take a second; machines that build something meanwhile take longer.
const LIMIT: Duration = Duration::from_secs(5);
/// Each command is asked so often at each rate.
const ROUNDS: usize = 5;

/// A node whose sync loop, kernel and admin socket are in this process. The thread that makes it is in its namespace.
struct Node {
    events: mpsc::Sender<Vec<Event>>,
    reports: watch::Receiver<Report>,
    folder: TempDir,
    sync_loop: std::thread::JoinHandle<()>,
}

impl Node {
    fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let kernel = NftKernel::open().expect("a netlink socket");
        let (mut controller, reports) = Controller::new(kernel, cluster::options());
        let (activity, metrics) = (Activity::default(), Metrics::new());
        let health = Health::new(Duration::from_secs(30), Family::ALL);
        metrics.watch_source("manifests", Arc::<SourceStats>::default());
        controller.observe(activity.clone());
        controller.observe(HealthObserver::new(health.clone()));
        let snapshots = controller.snapshots();
        let recent = Default::default();
        let (_, refused) = watch::channel(None);
        let configuration = ConfigurationInForce { values: Value::Null, file: None, refused };
        let options = cluster::options();
        let settings = Arc::new(Maker::new(ConntrackSysctls::default(), Roots::default()));
        let admin = Admin {
            snapshots,
            activity,
            health,
            metrics,
            recent,
            options,
            settings,
            direct: None,
            fast: None,
            configuration,
        };
        admin::start(&folder.path().join("admin.sock"), admin).expect("an admin socket");
        let (events, receiver) = mpsc::channel(1024);
        let sync_loop = std::thread::spawn(move || controller.run(receiver));
        let this = Self { events, reports, folder, sync_loop };
        let mut first = cluster::events(SERVICES, ENDPOINTS);
        first.push(Event::ListDone(Kind::ServiceCidr));
        this.events.blocking_send(first).expect("the loop runs");
        let start = Instant::now();
        while this.reports.borrow().syncs == 0 {
            assert!(start.elapsed() < Duration::from_secs(120), "no first sync");
            std::thread::sleep(Duration::from_millis(10));
        }
        this
    }

    /// Asks all commands while this many changes a second are synced.
    fn ask_at(&self, rate: u32) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for generation in 1.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // One Service goes to and fro, another one always on.
                    let slices =
                        [cluster::slice(7, ENDPOINTS, generation % 2), cluster::slice(8, ENDPOINTS, generation)];
                    let events = slices.map(|slice| Event::Slice(Arc::new(slice))).into();
                    self.events.blocking_send(events).expect("the loop runs");
                    std::thread::sleep(Duration::from_secs(1) / rate);
                }
            });
            let before = self.reports.borrow().syncs;
            let start = Instant::now();
            let asked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (0..ROUNDS).for_each(|_| self.ask_all(rate))));
            done.store(true, Ordering::Relaxed);
            let syncs = self.reports.borrow().syncs - before;
            if let Err(panic) = asked {
                std::panic::resume_unwind(panic);
            }
            println!("{rate} changes a second: {:.1} syncs a second", syncs as f64 / start.elapsed().as_secs_f64());
            assert!(syncs > 0, "nothing was going on");
        });
        assert_eq!(self.reports.borrow().failures, 0);
    }

    fn ask_all(&self, rate: u32) {
        let status = self.ask(rate, &["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&status).expect("JSON");
        for row in status["subsystems"].as_array().expect("rows") {
            assert_eq!(row["state"], "OK", "at {rate} a second: {status:#}");
        }
        let services = self.ask(rate, &["services", "-o", "json"]);
        let services: Vec<Value> = serde_json::from_str(&services).expect("JSON");
        assert_eq!(services.len(), SERVICES);
        assert!(services.iter().all(|row| row["backends"].as_array().is_some_and(|list| list.len() == ENDPOINTS)));
        let explained = self.ask(rate, &["explain", "10.0.0.8:80", "--from", "172.16.0.1", "-o", "json"]);
        let explained: Value = serde_json::from_str(&explained).expect("JSON");
        assert_eq!(explained["outcomes"].as_array().map(Vec::len), Some(ENDPOINTS), "{explained:#}");
        assert_eq!(explained["services"].as_array().map(Vec::len), Some(1), "{explained:#}");
        assert_eq!(self.ask(rate, &["diff"]), "");
    }

    /// What a command prints; it must say that all is well.
    fn ask(&self, rate: u32, words: &[&str]) -> String {
        let socket = self.folder.path().join("admin.sock");
        let start = Instant::now();
        let output = Command::new(program()).args(words).arg("--admin-socket").arg(&socket).output().expect("started");
        let took = start.elapsed();
        println!("{rate} changes a second: {} took {took:.0?}", words[0]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{words:?} at {rate} a second: {:?} {}{}",
            output.status,
            text(&output.stderr),
            text(&output.stdout)
        );
        assert!(took < LIMIT, "{words:?} at {rate} a second took {took:?}");
        text(&output.stdout)
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_portway"))
}

#[test]
fn commands_answer_soon_and_right_on_a_busy_node() {
    in_netns(|| {
        let node = Node::start();
        for rate in [10, 100] {
            node.ask_at(rate);
        }
        let Node { events, sync_loop, .. } = node;
        drop(events);
        sync_loop.join().expect("the loop ends");
    });
}
