//! The tracer's oracle: for generated clusters and packets it must say what the kernel does.
//!
//! `PORTWAY_SEED` chooses other clusters (default 1), `PORTWAY_CASES` how many (default 60).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use portway::model::{Endpoint, EndpointSlice, Event, Family, Protocol};
use portway::ruleset::{ChainId, Pick, PickBy};
use portway::trace::{End, Host, Packet, Request, StepChain, Trace, trace};
use support::attempt::{Attempt, Outcome, Outcomes, Until, is_untouched, summary, target};
use support::live::{Live, forget_clients};
use support::netns::output_of;
use support::packets::Probe;
use support::scenes::{Errand, Scene, any_scene, layout, node_addresses, number, sample, side_by_side};
use support::world::{Place, bystander};

const CASES: u64 = 60;
/// Scenes at a time; most of the time goes by waiting for cables and for nothing to happen.
const JOBS: usize = 6;
/// Tries where every one must end alike.
const FEW: usize = 4;
/// Tries for each endpoint: missing one of N in 16 (N + 1) fair tries happens once in millions.
const TRIES_PER_TARGET: usize = 16;
/// Packets in flight at once.
const BATCH: usize = 32;

/// How often each end was expected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    packets: usize,
    kept: usize,
    masqueraded: usize,
    mixed: usize,
    sticky: usize,
    /// By the client's address.
    hashed: usize,
    /// By its address and port.
    hashed_with_port: usize,
    /// In chains with more slots than there are endpoints.
    retried: usize,
    answered: usize,
    rejected: usize,
    dropped: usize,
    untouched: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.kept += other.kept;
        self.masqueraded += other.masqueraded;
        self.mixed += other.mixed;
        self.sticky += other.sticky;
        self.hashed += other.hashed;
        self.hashed_with_port += other.hashed_with_port;
        self.retried += other.retried;
        self.answered += other.answered;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.untouched += other.untouched;
    }
}

#[test]
fn tracer_and_kernel_agree() {
    assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let (seed, cases) = (number("PORTWAY_SEED", 1), number("PORTWAY_CASES", CASES));
    let started = Instant::now();
    let workers = side_by_side(JOBS, cases, |numbers| {
        let (mut tally, mut failures) = (Tally::default(), Vec::new());
        for case in numbers {
            let scene = sample(&any_scene(6..=10), seed << 32 | case);
            match play(&scene, &mut failures) {
                Ok(counts) => tally.add(counts),
                Err(error) => failures.push(format!("case {case} could not be played: {error:#}\n{scene:#?}")),
            }
        }
        (tally, failures)
    });
    let mut total = Tally::default();
    let mut failures = Vec::new();
    for (tally, failed) in workers {
        total.add(tally);
        failures.extend(failed);
    }
    println!("seed {seed}: {cases} clusters in {:.1} s, {total:?}", started.elapsed().as_secs_f64());
    for failure in failures.iter().take(3) {
        println!("{failure}\n{}", "=".repeat(80));
    }
    assert!(failures.is_empty(), "{} disagreements with seed {seed}, the first of them above", failures.len());
    if cases >= CASES {
        let (translated, hashed) =
            ([total.kept, total.masqueraded, total.mixed], [total.hashed, total.hashed_with_port]);
        let others = [total.sticky, total.retried, total.answered, total.rejected, total.dropped, total.untouched];
        let seen = [&translated[..], &hashed, &others].concat();
        assert!(seen.iter().all(|count| *count >= 5), "the generator has become blind: {total:?}");
    }
}

/// Programs a scene and sends its packets.
fn play(scene: &Scene, failures: &mut Vec<String>) -> Result<Tally> {
    let mut live = Live::build(layout(&scene.options), &scene.options)?;
    // Services had more endpoints once: some of them keep the chains they had then.
    live.handle(scene.events.iter().enumerate().map(with_more_endpoints))?;
    live.handle(scene.events.iter().cloned())?;
    let mut tally = Tally::default();
    for wish in &scene.wishes {
        let errand = wish.errand(live.controller().mirror().context("there was a sync")?);
        let trace = ask_tracer(&mut live, &errand, None)?;
        let outcomes = send(&live, &errand, &trace)?;
        let verdict = judge(&trace, &outcomes).and(judge_each(&mut live, &errand, &trace, &outcomes)?);
        if let Err(why) = verdict {
            let mut seen = format!("{why}: {}", summary(&outcomes));
            if outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Vanished) {
                seen += &whereabouts(&live, &errand)?;
            }
            failures.push(disagreement(scene, &errand, &trace, &seen));
        }
        count(&trace, &mut tally);
    }
    Ok(tally)
}

/// A slice with an endpoint or two more.
fn with_more_endpoints((number, event): (usize, &Event)) -> Event {
    let Event::Slice(slice) = event else { return event.clone() };
    let mut slice = EndpointSlice::clone(slice);
    let Some(last) = slice.endpoints.last().cloned() else { return event.clone() };
    let address = |n: usize| match slice.family {
        Family::Ipv4 => IpAddr::from([10, 1, 200 + n as u8, number as u8]),
        Family::Ipv6 => IpAddr::from([0xfd00, 1, 0x200 + n as u16, 0, 0, 0, 0, 1 + number as u16]),
    };
    let more: Vec<Endpoint> = (0..=number % 2).map(|n| Endpoint { address: address(n), ..last.clone() }).collect();
    slice.endpoints.extend(more);
    Event::Slice(slice.into())
}

fn ask_tracer(live: &mut Live, errand: &Errand, source_port: Option<u16>) -> Result<Trace> {
    let interface = match errand.place {
        Place::Node => None,
        Place::Pods => Some(live.layout.pod_interface.name().to_owned()),
        Place::Uplink => Some("uplink0".to_owned()),
    };
    let Errand { from: source, to, protocol, .. } = *errand;
    let request = match Protocol::from_number(protocol.number()) {
        Some(protocol) => Request::Connect { protocol, port: to.port() },
        None => Request::Echo,
    };
    let packet = Packet { source, destination: to.ip(), request, source_port, interface };
    let mirror = live.controller().mirror().context("there was a sync")?;
    let listing = mirror.listing(Family::of(source)).context("both families are served")?;
    let host = Host { addresses: node_addresses().into_iter().collect() };
    Ok(trace(&listing, &host, &packet))
}

fn is_picked(trace: &Trace, by: PickBy) -> bool {
    trace.steps.iter().any(|step| matches!(step.chain, StepChain::Table(ChainId::Pick(pick)) if pick.by == by))
}

/// Where the client's port counts the tracer knows each packet's endpoint.
fn judge_each(
    live: &mut Live,
    errand: &Errand,
    trace: &Trace,
    outcomes: &Outcomes,
) -> Result<Result<(), &'static str>> {
    if !is_picked(trace, PickBy::SourceIpPort) {
        return Ok(Ok(()));
    }
    for (probe, outcome) in outcomes {
        let exact = ask_tracer(live, errand, Some(probe.source.port()))?;
        let [(End::Translated { target: said, .. }, _)] = exact.ends[..] else {
            return Ok(Err("the tracer does not know the endpoint of an address and port"));
        };
        if target(outcome) != Some(SocketAddr::new(said.ip, said.port)) {
            return Ok(Err("the kernel chooses another endpoint for an address and port"));
        }
    }
    Ok(Ok(()))
}

fn count(trace: &Trace, tally: &mut Tally) {
    tally.packets += 1;
    tally.sticky += usize::from(is_picked(trace, PickBy::Sticky));
    tally.hashed += usize::from(is_picked(trace, PickBy::SourceIp));
    tally.hashed_with_port += usize::from(is_picked(trace, PickBy::SourceIpPort));
    let slots = trace.steps.iter().filter_map(|step| match step.chain {
        StepChain::Table(ChainId::Pick(Pick { by: PickBy::Random | PickBy::Sticky, count, .. })) => {
            Some(count as usize)
        }
        _ => None,
    });
    tally.retried += usize::from(slots.max().is_some_and(|slots| slots < 1024 && slots > trace.ends.len()));
    let masquerades: BTreeSet<bool> = trace
        .ends
        .iter()
        .filter_map(|(end, _)| match end {
            End::Translated { masquerade, .. } => Some(*masquerade),
            _ => None,
        })
        .collect();
    match trace.ends.first().map(|(end, _)| end) {
        Some(End::Translated { .. }) if masquerades.len() > 1 => tally.mixed += 1,
        Some(End::Translated { masquerade: true, .. }) => tally.masqueraded += 1,
        Some(End::Translated { masquerade: false, .. }) => tally.kept += 1,
        Some(End::Answered) => tally.answered += 1,
        Some(End::Rejected) => tally.rejected += 1,
        Some(End::Dropped) => tally.dropped += 1,
        Some(End::Reset | End::HandedOn { .. }) => {}
        Some(End::Untouched) | None => tally.untouched += 1,
    }
}

/// Sends as many packets as it takes to see every end that the tracer has named.
fn send(live: &Live, errand: &Errand, trace: &Trace) -> Result<Outcomes> {
    let sticky = is_picked(trace, PickBy::Sticky);
    let attempt =
        Attempt { forget: sticky.then_some(&forget_clients as &dyn Fn() -> Result<()>), ..live.attempt(errand.place) };
    let probes = |count| -> Vec<Probe> {
        let probe = || live.numbers.between(errand.protocol, errand.from, errand.to);
        (0..count).map(|_| probe()).collect()
    };
    match trace.ends.first().map(|(end, _)| end) {
        Some(End::Dropped) => {
            let mut probes = probes(FEW);
            probes.push(live.numbers.between(errand.protocol, errand.from, bystander(errand.from)));
            let mut outcomes = attempt.send_and_watch(probes, Until::QuietAndLastSeen)?;
            let (control, outcome) = outcomes.pop().context("one per probe")?;
            ensure!(is_untouched(&control, &outcome), "a packet from {} to a bystander got lost", errand.from);
            Ok(outcomes)
        }
        Some(End::Translated { .. }) => {
            // Weights make some of them rare.
            let rarest = trace.ends.iter().map(|(_, share)| *share).fold(1.0, f64::min);
            let tries = TRIES_PER_TARGET + (TRIES_PER_TARGET as f64 / rarest) as usize;
            let batch = if sticky { 1 } else { BATCH };
            let mut outcomes = Outcomes::new();
            while outcomes.len() < tries {
                let seen = attempt.send_and_watch(probes(batch.min(tries - outcomes.len())), Until::AllSeen)?;
                let lost = seen.iter().any(|(_, outcome)| *outcome == Outcome::Vanished);
                outcomes.extend(seen);
                // Forgetting takes a while, so then it is enough to have seen all endpoints.
                if lost || (sticky && outcomes.len() >= 6 * trace.ends.len() && reaches_all(trace, &outcomes)) {
                    break;
                }
            }
            Ok(outcomes)
        }
        _ => attempt.send_and_watch(probes(FEW), Until::AllSeen),
    }
}

fn reaches_all(trace: &Trace, outcomes: &Outcomes) -> bool {
    let reached: BTreeSet<SocketAddr> = outcomes.iter().filter_map(|(_, outcome)| target(outcome)).collect();
    reached.len() >= trace.ends.len()
}

/// Compares what the tracer has said with what was seen.
fn judge(trace: &Trace, outcomes: &Outcomes) -> Result<(), &'static str> {
    let translations = trace.ends.iter().filter_map(|(end, _)| match end {
        End::Translated { target, masquerade } => Some((SocketAddr::new(target.ip, target.port), *masquerade)),
        _ => None,
    });
    let translations: BTreeMap<SocketAddr, bool> = translations.collect();
    if !translations.is_empty() {
        if translations.len() < trace.ends.len() {
            return Err("the table leaves a choice between translation and something else");
        }
        return judge_translations(&translations, outcomes);
    }
    let as_said = |end: End, probe: &Probe, outcome: &Outcome| match end {
        End::Answered => match outcome {
            Outcome::Arrived { target, .. } => {
                target.ip() != probe.target.ip() && node_addresses().contains(&target.ip())
            }
            _ => false,
        },
        // No connection is new and leads to an endpoint that is gone.
        End::Reset => false,
        End::Rejected => *outcome == Outcome::Refused,
        End::Dropped => *outcome == Outcome::Vanished,
        _ => is_untouched(probe, outcome),
    };
    let [(end, _)] = trace.ends[..] else { return Err("the tracer does not know what happens") };
    let all = outcomes.iter().all(|(probe, outcome)| as_said(end, probe, outcome));
    if all && !outcomes.is_empty() { Ok(()) } else { Err("the kernel does something else") }
}

fn judge_translations(wanted: &BTreeMap<SocketAddr, bool>, outcomes: &Outcomes) -> Result<(), &'static str> {
    let node: Vec<IpAddr> = node_addresses();
    // Of connections that may keep their address when they are masqueraded: has a port ever changed?
    let mut changed: BTreeMap<SocketAddr, bool> = BTreeMap::new();
    let mut reached = BTreeSet::new();
    for (probe, outcome) in outcomes {
        let Outcome::Arrived { source, target } = outcome else { return Err("not every packet arrives") };
        let Some(masquerade) = wanted.get(target) else { return Err("the kernel chooses another endpoint") };
        reached.insert(*target);
        match masquerade {
            false if source != &probe.source => return Err("the kernel masquerades"),
            true if !node.contains(&source.ip()) => return Err("the kernel does not masquerade"),
            // Masquerading chooses a port at random, also where the address is the node's already.
            true if source.ip() == probe.source.ip() => {
                *changed.entry(*target).or_default() |= source.port() != probe.source.port();
            }
            _ => {}
        }
    }
    if changed.values().any(|changed| !changed) {
        return Err("the kernel does not masquerade");
    }
    if reached.len() < wanted.len() { Err("the kernel never chooses one of the endpoints") } else { Ok(()) }
}

/// What may tell where a packet got lost: whether others of the kind arrive, and what the node counts.
fn whereabouts(live: &Live, errand: &Errand) -> Result<String> {
    let more = (0..BATCH).map(|_| live.numbers.between(errand.protocol, errand.from, errand.to)).collect();
    let again = live.attempt(errand.place).send_and_watch(more, Until::AllSeen)?;
    let shown = [
        output_of("conntrack", &["-S"]),
        output_of("ip", &["-s", "link"]),
        output_of("ip", &["neigh"]),
        output_of("sh", &["-c", "grep -h . /proc/net/snmp /proc/net/snmp6 /proc/net/softnet_stat"]),
    ];
    Ok(format!("\n{BATCH} more: {}\n{}", summary(&again), shown.join("\n")))
}

fn disagreement(scene: &Scene, errand: &Errand, trace: &Trace, observed: &str) -> String {
    let Scene { options, events, .. } = scene;
    let ends: Vec<String> = trace.ends.iter().map(|(end, share)| format!("  {share:.3} {end}")).collect();
    let steps: Vec<String> = trace.steps.iter().map(|step| format!("  {step}")).collect();
    let ruleset = output_of("nft", &["list", "ruleset"]);
    format!(
        "DISAGREEMENT about {errand:?}\ntracer:\n{}\nby way of:\n{}\nkernel: {observed}\n{options:#?}\n{events:#?}\n{ruleset}",
        ends.join("\n"),
        steps.join("\n"),
    )
}
