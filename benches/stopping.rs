//! Requests that fail when pods stop at once, as they do without a preStop hook, while their slice still names them.
//!
//! A client asks a Service of 9 pods 300 times a second, each time by a connection of its own. 6 of the pods stop, and their slice
//! says so some time later, as the endpoint slice controller does. `portway run` and, where the folder KUBEBUILDER_ASSETS has one,
//! kube-proxy in its nftables mode watch the same API server, one after the other.
//!
//! Run as root: `cargo bench --bench stopping [-- --quick]`. Everything happens in network namespaces of its own.

#![allow(missing_docs)]

mod cluster;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use portway::model::EndpointSlice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use ::support::api_double::ApiDouble;
use support::kube_proxy::{KubeProxy, find};
use support::lane::Lane;
use support::objects;
use support::pods::{ANSWER, Death, Pods, runtime};
use support::process::{Program, program};
use support::report::{Report, is_quick};
use support::stats::short;

const PODS: usize = 9;
const STOPPING: usize = 6;
/// Requests a second.
const RATE: u32 = 300;
/// How long requests are sent, and when of it the first pod stops.
const LOAD: Duration = Duration::from_secs(8);
const STOP_AFTER: Duration = Duration::from_secs(2);
/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(3);
/// From one pod's end to the next one's, where they do not stop at the same time.
const APART: Duration = Duration::from_millis(100);
/// How long a proxy may take to its first rules.
const START: Duration = Duration::from_secs(60);

/// How pods stop.
#[derive(Clone, Copy)]
struct Case {
    death: Death,
    /// From one pod to the next.
    apart: Duration,
    /// From a pod's end until its slice says so.
    delay: Duration,
}

/// Who programs the node.
#[derive(Clone, Copy, PartialEq)]
enum Programmer {
    Portway,
    /// With resets of connections to endpoints that are gone.
    PortwayResets,
    KubeProxy,
}

impl Programmer {
    fn name(self) -> &'static str {
        match self {
            Self::Portway => "Portway",
            Self::PortwayResets => "Portway, `--reset-connections-for 5m`",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

/// A request, and how long it took to an answer or to the failure.
struct Request {
    begun: Instant,
    answered: bool,
    took: Duration,
}

/// What was seen of one proxy.
struct Seen {
    requests: Vec<Request>,
    /// When the slice said so of the last pod.
    told: Instant,
}

fn main() {
    let kube_proxy = find();
    let mut report = Report::new("stopping");
    match &kube_proxy {
        Some((_, version)) => report.line(&format!("\nBeside it: {version}, nftables mode.")),
        None => report.line("\nNo kube-proxy in the folder KUBEBUILDER_ASSETS: Portway alone."),
    }
    report.table(&[
        "how 6 of 9 pods stop",
        "the slice says so after",
        "proxy",
        "failed",
        "nobody can avoid (calculated)",
        "last failure begun after the slice",
        "a failure took p50 / max",
    ]);
    let delays: &[u64] = if is_quick() { &[100] } else { &[0, 100, 500] };
    for delay in delays.iter().copied().map(Duration::from_millis) {
        for apart in [Duration::ZERO, APART] {
            for death in [Death::Refused, Death::Silent] {
                let case = Case { death, apart, delay };
                for proxy in [Programmer::Portway, Programmer::PortwayResets, Programmer::KubeProxy] {
                    if proxy == Programmer::KubeProxy && kube_proxy.is_none()
                        || proxy == Programmer::PortwayResets && death == Death::Refused
                    {
                        continue;
                    }
                    let binary = kube_proxy.as_ref().map(|(path, _)| path.clone());
                    let measured = std::thread::spawn(move || measure(case, proxy, binary)).join().expect("measured");
                    show(&mut report, case, proxy, &measured);
                }
            }
        }
    }
}

fn show(report: &mut Report, case: Case, proxy: Programmer, seen: &Seen) {
    let mut failed: Vec<&Request> = seen.requests.iter().filter(|request| !request.answered).collect();
    failed.sort_by_key(|request| request.took);
    let last = failed.iter().map(|request| request.begun).max();
    let death = if case.death == Death::Refused { "connections are refused" } else { "nobody answers" };
    let apart = if case.apart.is_zero() { "together" } else { "100 ms apart" };
    report.row(&[
        format!("{apart}, {death}"),
        format!("{} ms", case.delay.as_millis()),
        proxy.name().to_owned(),
        format!("{} of {}", failed.len(), seen.requests.len()),
        format!("{:.0}", case.unavoidable()),
        match last.map(|last| (last.saturating_duration_since(seen.told), seen.told.saturating_duration_since(last))) {
            None => "-".to_owned(),
            Some((after, before)) if after.is_zero() => format!("{} before it", short(before)),
            Some((after, _)) => short(after),
        },
        match &failed[..] {
            [] => "-".to_owned(),
            some => format!("{} / {}", short(some[some.len() / 2].took), short(some[some.len() - 1].took)),
        },
    ]);
}

impl Case {
    /// Requests that go to a pod that has stopped before its slice says so, if what the slice says were in force at once: each pod
    /// that is named takes the same part.
    fn unavoidable(self) -> f64 {
        let (mut failed, step) = (0.0, Duration::from_millis(1));
        let end = self.apart * STOPPING as u32 + self.delay;
        let mut now = Duration::ZERO;
        while now < end {
            let died = |i: usize| self.apart * i as u32 <= now;
            let told = |i: usize| self.apart * i as u32 + self.delay <= now;
            let dead = (0..STOPPING).filter(|i| died(*i) && !told(*i)).count();
            let named = PODS - (0..STOPPING).filter(|i| told(*i)).count();
            failed += f64::from(RATE) * step.as_secs_f64() * dead as f64 / named as f64;
            now += step;
        }
        failed
    }
}

/// One proxy, from its start on an empty node.
fn measure(case: Case, proxy: Programmer, kube_proxy: Option<PathBuf>) -> Seen {
    let lane = Lane::build();
    let service = cluster::service(0);
    let target = SocketAddr::new(service.cluster_ips[0], service.ports[0].port);
    let (server, _end) = api_server();
    server.put(objects::node("node-0", 1));
    server.put(objects::service(&service, 1));
    server.put(objects::slice(&slice(0), 1));
    let mut pods = Pods::start(&lane, &slice(0));

    // What runs ends with it.
    let _proxy: Box<dyn std::any::Any> = match proxy {
        Programmer::Portway => Box::new(Program::start(&server.url())),
        Programmer::PortwayResets => {
            Box::new(Program::start_this(&program(), &server.url(), &["--reset-connections-for", "5m"]))
        }
        Programmer::KubeProxy => Box::new(KubeProxy::start(&kube_proxy.expect("there is one"), &server.url())),
    };
    let (sender, requests) = mpsc::channel();
    let told = std::thread::scope(|scope| {
        let client = &lane.client;
        scope.spawn(move || {
            client.enter().expect("the client's namespace");
            runtime().block_on(async {
                until_it_serves(target).await;
                sender.send(None).expect("somebody waits");
                sender.send(Some(ask_on(target).await)).expect("somebody waits");
            });
        });
        requests.recv().expect("it serves");
        let begun = Instant::now();
        let until = |at: Duration| std::thread::sleep(at.saturating_sub(begun.elapsed()));
        // What happens at one time: first the ends of pods, then one change of the slice.
        let mut steps: Vec<(Duration, bool, usize)> = (0..STOPPING)
            .flat_map(|pod| {
                let end = STOP_AFTER + case.apart * pod as u32;
                [(end, false, pod), (end + case.delay, true, pod)]
            })
            .collect();
        steps.sort_unstable();
        let mut told = begun;
        for (n, (at, is_told, pod)) in steps.iter().enumerate() {
            until(*at);
            match is_told {
                false => pods.stop(*pod, case.death),
                true if steps.get(n + 1).is_some_and(|next| next.0 == *at) => {}
                true => {
                    server.put(objects::slice(&slice(pod + 1), 1));
                    told = Instant::now();
                }
            }
        }
        told
    });
    let requests = requests.recv().expect("the client ends").expect("its requests");
    Seen { requests, told }
}

/// The slice when it no longer names so many of its pods.
fn slice(gone: usize) -> EndpointSlice {
    let mut slice = cluster::slice(0, PODS + 1, 0);
    // The first one is not at an address of its own.
    slice.endpoints.drain(..=gone);
    slice
}

/// An API server in the network namespace of the caller, and what ends it when it is dropped.
fn api_server() -> (ApiDouble, oneshot::Sender<()>) {
    let ((sender, server), (end, ended)) = (mpsc::channel(), oneshot::channel());
    std::thread::spawn(move || {
        runtime().block_on(async {
            sender.send(ApiDouble::start().await).expect("somebody waits");
            ended.await.ok();
        });
    });
    (server.recv().expect("a server"), end)
}

async fn until_it_serves(target: SocketAddr) {
    let deadline = Instant::now() + START;
    while !matches!(timeout(Duration::from_millis(100), ask(target)).await, Ok(Ok(()))) {
        assert!(Instant::now() < deadline, "nobody serves {target}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asks at a fixed rate, whether or not there are answers.
async fn ask_on(target: SocketAddr) -> Vec<Request> {
    let (start, mut requests) = (Instant::now(), JoinSet::new());
    for n in 0..RATE * LOAD.as_secs() as u32 {
        sleep_until((start + Duration::from_secs(1) * n / RATE).into()).await;
        requests.spawn(async move {
            let begun = Instant::now();
            let answered = matches!(timeout(PATIENCE, ask(target)).await, Ok(Ok(())));
            Request { begun, answered, took: begun.elapsed() }
        });
    }
    requests.join_all().await
}

async fn ask(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer == ANSWER { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
