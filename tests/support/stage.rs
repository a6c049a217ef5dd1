//! A scenario from beginning to end: its world, its program, its phases and its flows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use ipnet::IpNet;

use super::attempt::{Attempt, Numbers, flips};
use super::corpus::{Entry, Flow, Phase, Scenario, Verdict};
use super::health;
use super::netns::output_of;
use super::objects::{Objects, local_endpoints};
use super::program::Program;
use super::world::{BorrowedAddress, Layout, Place, PodInterface, World, pod_range};

/// The program may notice a change of addresses; this long it is left to itself afterwards.
const SETTLE: Duration = Duration::from_millis(50);
/// Flows of each verdict whose expectation is flipped to test the runner itself.
const FLIPPED_PER_VERDICT: usize = 2;

/// What came of a scenario, or of several.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines for the user.
    pub text: String,
    pub passed: usize,
    pub failed: usize,
    /// Health checks that were not asked.
    pub pending: usize,
    /// Flipped expectations that failed as they should.
    pub flipped: usize,
    /// Flipped expectations that passed: the runner is blind.
    pub blind: usize,
}

impl Report {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a string takes everything");
        self.text.push('\n');
    }

    /// Adds another report's numbers to this one.
    pub fn count(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.pending += other.pending;
        self.flipped += other.flipped;
        self.blind += other.blind;
    }
}

/// What all scenarios of a run share.
pub struct Stage {
    numbers: Numbers,
    /// Ranges of the pods on a node, as far as any scenario with a node of this name shows them.
    ranges: HashMap<String, BTreeSet<IpNet>>,
    /// How many more flows of each verdict are to be flipped.
    to_flip: Mutex<BTreeMap<Verdict, usize>>,
    with_health: bool,
}

impl Stage {
    /// Prepares a run over these scenarios.
    pub fn new(entries: &[Entry]) -> Self {
        let mut ranges: HashMap<String, BTreeSet<IpNet>> = HashMap::new();
        for entry in entries {
            if let Entry::Readable(scenario) = entry {
                ranges.entry(scenario.node.name.clone()).or_default().extend(ranges_of(scenario));
            }
        }
        Self {
            numbers: Numbers::default(),
            ranges,
            to_flip: Mutex::new(Verdict::ALL.map(|verdict| (verdict, FLIPPED_PER_VERDICT)).into()),
            with_health: std::env::var_os("PORTWAY_FLOWS_HEALTH").is_none_or(|value| value != "0"),
        }
    }

    /// Runs a scenario.
    pub fn run(&self, entry: &Entry) -> Report {
        let mut report = Report::default();
        match entry {
            Entry::Unreadable { name, flows, reason } => {
                report.failed += (*flows).max(1);
                report.line(format_args!("FAILED {name}: {flows} flows not tried: cannot read the scenario: {reason}"));
            }
            Entry::Readable(scenario) => {
                let flows: usize = scenario.phases.iter().map(|phase| phase.flows.len()).sum();
                if let Err(error) = self.play(scenario, &mut report) {
                    let missing = flows - (report.passed + report.failed).min(flows);
                    report.failed += missing.max(1);
                    report.line(format_args!("FAILED {}: {missing} flows not tried: {error:#}", scenario.name));
                }
            }
        }
        report
    }

    fn play(&self, scenario: &Scenario, report: &mut Report) -> Result<()> {
        let layout = self.layout(scenario);
        let world = World::build(&layout).context("cannot build the world")?;
        let mut objects = Objects::of_cluster(scenario)?;
        let mut program: Option<Program> = None;
        for phase in &scenario.phases {
            // Deletions first: an object may be replaced by one of the same name.
            phase.delete.iter().try_for_each(|called| objects.delete(called))?;
            phase.apply.iter().try_for_each(|object| objects.apply(object.clone()))?;
            let players = Players { stage: self, scenario, layout: &layout, world: &world, objects: &objects };
            match &program {
                None => {
                    players.check_world()?;
                    program = Some(Program::start(scenario, &objects.to_yaml()?)?);
                }
                Some(program) => program
                    .reload(&objects.to_yaml()?)
                    .map_err(|error| anyhow!("phase {}: {error:#}\n{}", phase.name, program.log_tail()))?,
            }
            let failed_before = report.failed;
            players.play(phase, report);
            if report.failed > failed_before {
                let log = program.as_ref().map(Program::log_tail).unwrap_or_default();
                report.line(format_args!("{log}\n--- nft list ruleset\n{}---", output_of("nft", &["list", "ruleset"])));
            }
        }
        Ok(())
    }

    fn layout(&self, scenario: &Scenario) -> Layout {
        let own: BTreeSet<IpNet> = ranges_of(scenario).collect();
        let known = self.ranges.get(&scenario.node.name).cloned().unwrap_or_default();
        // What other scenarios say about a node of this name helps only where this one is silent about a family.
        let of_family = |ranges: &BTreeSet<IpNet>, v4: bool| -> Vec<IpNet> {
            ranges.iter().filter(|range| matches!(range, IpNet::V4(_)) == v4).copied().collect()
        };
        let mut pod_ranges = Vec::new();
        for v4 in [true, false] {
            let ranges = of_family(&own, v4);
            pod_ranges.extend(if ranges.is_empty() { of_family(&known, v4) } else { ranges });
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in &scenario.node.local_addresses {
            if !address.is_loopback() && !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let config = &scenario.config;
        let pod_interface = match (config.bridge_interface(), config.interface_name_prefix()) {
            (Some(name), _) => PodInterface::Bridge(name.to_owned()),
            (None, Some(prefix)) => PodInterface::Plain(format!("{prefix}0")),
            (None, None) => PodInterface::Plain("pods0".to_owned()),
        };
        Layout { addresses, pod_ranges, pod_interface }
    }

    /// Takes one of the few places for flipping a flow of this verdict.
    fn may_flip(&self, verdict: Verdict) -> bool {
        let mut to_flip = self.to_flip.lock().unwrap_or_else(PoisonError::into_inner);
        to_flip.get_mut(&verdict).is_some_and(|left| {
            let some = *left > 0;
            *left = left.saturating_sub(1);
            some
        })
    }
}

/// The ranges of the node's own pods: those that are given, and the neighbourhood of each local endpoint.
fn ranges_of(scenario: &Scenario) -> impl Iterator<Item = IpNet> {
    let given = scenario.node.pod_cidrs.0.iter().chain(&scenario.config.pod_cidrs.0);
    let given: Vec<IpNet> = given.filter_map(|cidr| cidr.parse().ok()).collect();
    let on_host = |ip: &IpAddr| scenario.node.local_addresses.contains(ip) || scenario.node.node_ips.contains(ip);
    let endpoints = local_endpoints(scenario).into_iter().filter(|ip| !on_host(ip));
    let around = endpoints.filter(|ip| is_pod(scenario, *ip)).map(pod_range).collect::<Vec<_>>();
    given.into_iter().chain(around)
}

/// Whether the cluster's pod ranges, where they are given, allow this address to be a pod.
fn is_pod(scenario: &Scenario, address: IpAddr) -> bool {
    let ranges = scenario.config.cluster_cidrs.0.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
    let mut of_family = ranges.filter(|range| matches!(range, IpNet::V4(_)) == address.is_ipv4()).peekable();
    of_family.peek().is_none() || of_family.any(|range| range.contains(&address))
}

/// A phase on the stage.
struct Players<'a> {
    stage: &'a Stage,
    scenario: &'a Scenario,
    layout: &'a Layout,
    world: &'a World,
    objects: &'a Objects,
}

impl Players<'_> {
    fn play(&self, phase: &Phase, report: &mut Report) {
        for flow in &phase.flows {
            let title = format!("{} / {} / {}", self.scenario.name, phase.name, flow.name);
            match self.flow(flow, &title, report) {
                Ok(Ok(())) => {
                    report.passed += 1;
                    report.line(format_args!("ok     {title}"));
                }
                Ok(Err(observed)) => {
                    report.failed += 1;
                    let Flow { from, to, protocol, port, expect, .. } = flow;
                    report.line(format_args!("FAILED {title}: {from} to {to} {protocol} {port}"));
                    report.line(format_args!("         expected: {expect}\n         observed: {observed}"));
                }
                Err(error) => {
                    report.failed += 1;
                    report.line(format_args!("FAILED {title}: {error:#}"));
                }
            }
        }
        for check in &phase.health_checks {
            let title = format!("{} / {} / health check of {}", self.scenario.name, phase.name, check.service);
            if !self.stage.with_health {
                report.pending += 1;
                report.line(format_args!("pending {title}"));
                continue;
            }
            match health::check(check, self.objects, &self.scenario.node.node_ips) {
                Ok(()) => {
                    report.passed += 1;
                    report.line(format_args!("ok     {title}"));
                }
                Err(observed) => {
                    report.failed += 1;
                    report.line(format_args!("FAILED {title}: expected {check:?}, observed {observed}"));
                }
            }
        }
    }

    /// Where the source of a flow stands.
    fn place(&self, from: IpAddr) -> Place {
        let in_range = || self.layout.pod_ranges.iter().any(|range| range.contains(&from));
        if self.is_on_node(from) || self.objects.is_vip(from) {
            Place::Node
        } else if is_pod(self.scenario, from) && in_range() {
            Place::Pods
        } else {
            Place::Uplink
        }
    }

    fn is_on_node(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.layout.addresses.contains(&address)
    }

    /// Tries a flow, and for some that pass also the opposite of what they expect.
    fn flow(&self, flow: &Flow, title: &str, report: &mut Report) -> Result<Result<(), String>> {
        let place = self.place(flow.from);
        let borrowed = if place == Place::Node && !self.is_on_node(flow.from) {
            let address = BorrowedAddress::take(flow.from)?;
            std::thread::sleep(SETTLE);
            Some(address)
        } else {
            None
        };
        let mut node_addresses = self.layout.addresses.clone();
        node_addresses.extend(borrowed.as_ref().map(|_| flow.from));
        let sticky = self.objects.has_affinity(flow.protocol, flow.port);
        let attempt = Attempt {
            world: self.world,
            numbers: &self.stage.numbers,
            place,
            forget: sticky.then_some(&forget_affinity as &dyn Fn() -> Result<()>),
            node_addresses: &node_addresses,
        };
        let verdict = attempt.run(flow);
        if matches!(verdict, Ok(Ok(()))) && self.stage.may_flip(flow.expect.verdict) {
            flip(&attempt, flow, title, report)?;
        }
        if let Some(address) = borrowed {
            address.give_back()?;
            std::thread::sleep(SETTLE);
        }
        verdict
    }

    /// Sends a packet past an empty proxy from everywhere: a world that loses packets must not be taken for a proxy that
    /// drops them.
    fn check_world(&self) -> Result<()> {
        let flows = self.scenario.phases.iter().flat_map(|phase| &phase.flows);
        let mut checked = Vec::new();
        for flow in flows.filter(|flow| !flow.from.is_loopback() && !self.objects.is_vip(flow.from)) {
            let place = self.place(flow.from);
            if checked.contains(&(place, flow.from.is_ipv4(), flow.protocol)) {
                continue;
            }
            checked.push((place, flow.from.is_ipv4(), flow.protocol));
            let (world, numbers, node_addresses) = (self.world, &self.stage.numbers, &self.layout.addresses[..]);
            let attempt = Attempt { world, numbers, place, forget: None, node_addresses };
            // A fresh interface may lose the first packets.
            let open = (0..3).map(|_| attempt.path_is_open(flow)).find(|open| !matches!(open, Ok(false)));
            ensure!(open.transpose()? == Some(true), "the world is broken: no packet gets out from {}", flow.from);
        }
        Ok(())
    }
}

/// Tries a flow that has just passed under expectations that cannot hold.
fn flip(attempt: &Attempt<'_>, flow: &Flow, title: &str, report: &mut Report) -> Result<()> {
    let stranger = super::world::bystander(flow.from);
    for (what, expect) in flips(&flow.expect, stranger) {
        match attempt.run(&Flow { expect, ..flow.clone() })? {
            Err(_) => report.flipped += 1,
            Ok(()) => {
                report.blind += 1;
                report.line(format_args!("BLIND  {title}: passes with its expectation flipped to {what}"));
            }
        }
    }
    Ok(())
}

/// Empties every map of the program that remembers clients.
fn forget_affinity() -> Result<()> {
    let mut commands = String::new();
    for family in ["ip", "ip6"] {
        let table = output_of("nft", &["-t", "list", "table", family, "portway"]);
        for line in table.lines().map(str::trim) {
            let mut words = line.split_whitespace();
            if let (Some(kind @ ("map" | "set")), Some(name)) = (words.next(), words.next())
                && name.contains("affinity")
            {
                writeln!(commands, "flush {kind} {family} portway {name};").expect("a string takes everything");
            }
        }
    }
    if commands.is_empty() {
        return Ok(());
    }
    let answer = output_of("nft", &[&commands]);
    ensure!(answer.is_empty(), "cannot forget affinity: {answer}");
    Ok(())
}
