//! Runs against a cluster in memory, whose proxy is as it should be, or has one fault.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::*;
use crate::cli::cluster::connectivity::plan::tests::services;
use crate::cli::probe::{Greeting, Outcome, Question};

/// What is wrong with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// A pod does not reach itself.
    Hairpin,
    /// Clients come with the address of the node they came in by.
    Masquerade,
    /// Whoever asks again may get somebody else.
    NoAffinity,
    /// Policy Local sends to other nodes.
    LocalEverywhere,
    /// Connections to nobody are dropped.
    DropNobody,
    /// One node reaches no other.
    Node(usize),
    /// Every tenth connection is lost.
    Tenth,
    /// The rules come late.
    Late,
    /// The image is not there.
    NoImage,
    /// One node has none.
    OneWithoutImage,
}

const NODES: usize = 3;

struct Fake {
    flaw: Flaw,
    created: RefCell<Vec<Value>>,
    asked: Cell<usize>,
    time: Cell<Duration>,
}

impl Fake {
    fn new(flaw: Flaw) -> Self {
        Self { flaw, created: RefCell::default(), asked: Cell::new(0), time: Cell::default() }
    }

    /// What an honest proxy does, by the meaning of the Services.
    fn connect(&self, pod: &str, to: SocketAddr, is_tcp: bool) -> Outcome {
        self.asked.set(self.asked.get() + 1);
        let (role, at) = pod.split_once('-').expect("a role and a number");
        let (at, is_pod): (usize, bool) = (at.parse().expect("a number"), role == "server");
        let protocol = if is_tcp { "TCP" } else { "UDP" };
        let services = services(NODES);
        let by_ip = |(_, reached): &(&String, &Reached)| reached.cluster_ips.contains(&to.ip()) && to.port() == 80;
        let by_port = |(_, reached): &(&String, &Reached)| reached.node_ports.get(protocol) == Some(&to.port());
        let (name, is_node_port) = match services.iter().find(by_ip) {
            Some((name, _)) => (name.as_str(), false),
            None => (services.iter().find(by_port).expect("a Service").0.as_str(), true),
        };
        let entry = if is_node_port { usize::from(last(to.ip())) - 1 } else { at };
        // Whoever comes from a pod, or from that very node, counts as inside.
        let is_local = match name {
            "local" => true,
            "first-local" => !is_node_port || (!is_pod && entry != at),
            "node-port-local" => !is_pod && entry != at,
            _ => false,
        } && self.flaw != Flaw::LocalEverywhere;
        let all: Vec<usize> = match name {
            "empty" => Vec::new(),
            "first-local" => vec![0],
            name => name.strip_prefix("to-").map_or((0..NODES).collect(), |one| vec![one.parse().expect("a number")]),
        };
        let is_up = |one: usize| self.flaw != Flaw::OneWithoutImage || one != 2;
        let is_usable = |one: &usize| is_up(*one) && (!is_local || *one == entry);
        let usable: Vec<usize> = all.iter().copied().filter(is_usable).collect();
        let choice = if name == "sticky" && self.flaw != Flaw::NoAffinity { 0 } else { self.asked.get() };
        let Some(&endpoint) = usable.get(choice % usable.len().max(1)) else {
            let drops = !all.is_empty() || self.flaw == Flaw::DropNobody;
            return if drops { Outcome::Silent } else { Outcome::Refused };
        };
        let is_lost = match self.flaw {
            Flaw::Hairpin => is_pod && endpoint == at,
            Flaw::Node(node) => at == node && endpoint != node,
            Flaw::Tenth => self.asked.get().is_multiple_of(10),
            Flaw::Late => self.time.get() < Duration::from_secs(5),
            _ => false,
        };
        if is_lost {
            return Outcome::Silent;
        }
        let keeps = is_local && self.flaw != Flaw::Masquerade;
        let client = address(if is_pod { 1 } else { 0 }, if keeps || !is_node_port { at } else { entry }, to.ip());
        Outcome::Answer(Greeting { name: objects::server(endpoint), client })
    }
}

fn last(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

fn address(net: u8, at: usize, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => [10, net, 0, u8::try_from(at).expect("few") + 1].into(),
        IpAddr::V6(_) => format!("fd00:{net}::{}", at + 1).parse().expect("an address"),
    }
}

impl World for Fake {
    async fn create(&self, list: &Value) -> anyhow::Result<()> {
        self.created.borrow_mut().push(list.clone());
        Ok(())
    }

    async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let like: [IpAddr; 2] = [[0; 4].into(), [0; 16].into()];
        let pod = |name: String, net: u8, at: usize| {
            let lacks = self.flaw == Flaw::NoImage || (self.flaw == Flaw::OneWithoutImage && at == 2);
            let ips: Vec<Value> = like.iter().map(|like| json!({"ip": address(net, at, *like)})).collect();
            let status = match lacks {
                true => json!({"phase": "Pending", "containerStatuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]}),
                false => {
                    json!({"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]})
                }
            };
            serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("a Pod")
        };
        Ok((0..NODES).flat_map(|at| [pod(objects::server(at), 1, at), pod(objects::host(at), 0, at)]).collect())
    }

    async fn services(&self) -> anyhow::Result<BTreeMap<String, Reached>> {
        Ok(services(NODES))
    }

    async fn probe(&self, pod: &str, probes: &[Probe]) -> Result<Vec<Found>, String> {
        let outcome = |question: &Question| match question {
            Question::Tcp(to) => self.connect(pod, *to, true),
            Question::Udp(to) => self.connect(pod, *to, false),
            Question::Name(name) => {
                assert_eq!(name, "all.portway-test.svc");
                Outcome::Addresses(services(NODES)[objects::ALL].cluster_ips.clone())
            }
        };
        let found = |probe: &Probe| Found {
            id: probe.id,
            outcomes: (0..probe.times).map(|_| outcome(&probe.question)).collect(),
        };
        Ok(probes.iter().map(found).collect())
    }

    async fn pause(&self, time: Duration) {
        self.time.set(self.time.get() + time);
    }

    fn elapsed(&self) -> Duration {
        self.time.get()
    }

    fn progress(&self, _: &str) {}
}

fn report(flaw: Flaw) -> (TestReport, Duration) {
    let node = |at: usize| {
        let ips = [IpAddr::from([0; 4]), [0; 16].into()].map(|like| address(0, at, like));
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let node = json!({"metadata": {"name": format!("node-{at}")}, "status": {"addresses": addresses}});
        serde_json::from_value(node).expect("a Node")
    };
    let settings = Settings {
        nodes: (0..NODES).map(node).collect(),
        template: PodTemplate { image: "example/portway:1".to_owned(), pull_policy: "IfNotPresent".to_owned() },
        domain: "portway-test.svc".to_owned(),
        pods_within: Duration::from_secs(60),
        settled_within: Duration::from_secs(10),
        at_a_time: 4,
    };
    let world = Fake::new(flaw);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(run(&world, &settings)).expect("a report");
    assert_eq!(world.created.borrow().len(), 1);
    (report, world.time.get())
}

/// The kinds of test that failed.
fn failed(flaw: Flaw) -> Vec<String> {
    let mut kinds: Vec<String> =
        report(flaw).0.tests.into_iter().filter(|test| test.fault.is_some()).map(|test| test.test).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn an_honest_proxy_passes() {
    let (report, took) = report(Flaw::Nothing);
    let faults: Vec<_> = report.tests.iter().filter(|test| test.fault.is_some()).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(report.passed > 200 && took == Duration::ZERO, "{} in {took:?}", report.passed);
}

#[test]
fn each_flaw_fails_the_tests_that_are_about_it() {
    assert_eq!(
        failed(Flaw::Hairpin),
        [
            "internalTrafficPolicy Local",
            "pod to NodePort",
            "pod to itself by a ClusterIP",
            "session affinity",
            "several endpoints take turns"
        ]
    );
    assert_eq!(failed(Flaw::Masquerade), ["externalTrafficPolicy Local, client's address kept"]);
    assert_eq!(failed(Flaw::NoAffinity), ["session affinity"]);
    assert_eq!(failed(Flaw::DropNobody), ["no endpoints: refused"]);
    let local = failed(Flaw::LocalEverywhere);
    for kind in [
        "externalTrafficPolicy Local, no endpoint there",
        "internalTrafficPolicy Local",
        "internalTrafficPolicy Local, no endpoint here",
    ] {
        assert!(local.iter().any(|failed| failed == kind), "{kind}: {local:?}");
    }
    let node = report(Flaw::Node(1)).0;
    let broken = node.tests.iter().filter(|test| test.test == "pod to ClusterIP" && test.fault.is_some());
    assert!(broken.clone().count() == 8 && broken.into_iter().all(|test| test.way.starts_with("pod on node-1")));
}

/// What is lost now and then is not tried until it works.
#[test]
fn losses_are_not_hidden_by_trying_again() {
    assert!(failed(Flaw::Tenth).iter().any(|kind| kind == "pod to ClusterIP"));
}

#[test]
fn rules_that_come_late_are_waited_for() {
    let (report, took) = report(Flaw::Late);
    assert_eq!(report.failed, 0);
    assert!(took >= Duration::from_secs(5), "{took:?}");
}

#[test]
fn pods_that_do_not_start_fail_their_node() {
    let (none, took) = report(Flaw::NoImage);
    assert_eq!((none.failed, none.passed, took), (NODES, 0, Duration::ZERO), "no image anywhere: nothing to wait for");
    assert!(none.tests[0].fault.as_ref().expect("a fault").contains("ImagePullBackOff: not found"));
    let (one, took) = report(Flaw::OneWithoutImage);
    assert_eq!(one.failed, 1, "the others are tried: {one:#?}");
    assert!(one.passed > 100 && took >= Duration::from_secs(60));
}
