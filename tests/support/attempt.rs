//! Trying a flow with real packets and judging what became of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::corpus::{Expectation, Flow, Verdict};
use super::packets::{Probe, Protocol, Sight};
use super::world::{Place, World, bystander};

/// How long a packet may take that must turn up. Only failures wait this long; an emulated machine stands still for a
/// second when the one below it is busy.
const LIMIT: Duration = Duration::from_secs(10);
/// How long nothing must turn up. Packets cross the node within the very call that sends them, so this is generous.
const QUIET: Duration = Duration::from_millis(150);
/// Tries where every one must end alike.
const FEW: usize = 4;
/// Tries per backend: missing one of N backends in 16 (N + 1) fair tries happens once in millions of flows.
const TRIES_PER_BACKEND: usize = 16;
/// Packets in flight at once, so that no socket buffer overflows.
const BATCH: usize = 32;

/// What became of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It left the node or was delivered on it, carrying these addresses.
    Arrived { source: SocketAddr, target: SocketAddr },
    /// Its sender got a port unreachable error.
    Refused,
    /// An error that is no refusal, or one that went to somebody else.
    OddError(String),
    /// Nothing was ever seen of it.
    Vanished,
}

/// A flow's probes and what became of each.
pub type Outcomes = Vec<(Probe, Outcome)>;

/// When to stop watching.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    AllSeen,
    Quiet,
    QuietAndLastSeen,
}

/// The source ports and tags of probes; no two probes of a run share a tag.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU32);

impl Numbers {
    /// Another probe of this flow, from a source port that no connection of the last minutes has used.
    fn probe(&self, flow: &Flow) -> Probe {
        self.between(flow.protocol, flow.from, SocketAddr::new(flow.to, flow.port))
    }

    /// Another probe between these two, likewise.
    pub fn between(&self, protocol: Protocol, from: IpAddr, target: SocketAddr) -> Probe {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(number % 19_000).expect("less than 19,000");
        Probe { tag: 0x7077_0000_u32.wrapping_add(number), protocol, source: SocketAddr::new(from, port), target }
    }
}

/// Everything that a try needs to know.
pub struct Attempt<'a> {
    pub world: &'a World,
    pub numbers: &'a Numbers,
    /// Where the source of the flow stands.
    pub place: Place,
    /// Forgets which client belongs to which backend; where there is such a memory it is called before each probe.
    pub forget: Option<&'a dyn Fn() -> Result<()>>,
    /// Every address that the node has at the moment.
    pub node_addresses: &'a [IpAddr],
}

impl Attempt<'_> {
    /// Opens as many connections as it takes to tell whether a flow does what its expectation says.
    pub fn run(&self, flow: &Flow) -> Result<Result<(), String>> {
        let outcomes = match flow.expect.verdict {
            Verdict::Dnat => self.choices(flow)?,
            Verdict::Reject | Verdict::Accept => self.send_and_watch(self.probes(flow, FEW), Until::AllSeen)?,
            Verdict::Drop => self.silence(flow)?,
        };
        Ok(judge(flow, &outcomes, self.node_addresses))
    }

    /// Tells whether a packet from the flow's source to somebody else gets through, as it must without any proxy.
    pub fn path_is_open(&self, flow: &Flow) -> Result<bool> {
        let outcomes = self.send_and_watch(vec![self.control(flow)], Until::AllSeen)?;
        Ok(outcomes.iter().all(|(probe, outcome)| is_untouched(probe, outcome)))
    }

    /// Tries often enough that every backend must have been chosen.
    fn choices(&self, flow: &Flow) -> Result<Outcomes> {
        let tries = TRIES_PER_BACKEND * (flow.expect.backends.len() + 1);
        let batch = if self.forget.is_some() { 1 } else { BATCH };
        let mut outcomes = Vec::new();
        while outcomes.len() < tries {
            let probes = self.probes(flow, batch.min(tries - outcomes.len()));
            let batch = self.send_and_watch(probes, Until::AllSeen)?;
            let hopeless = batch.iter().any(|(_, outcome)| *outcome == Outcome::Vanished);
            outcomes.extend(batch);
            // Forgetting takes a while, so then it is enough to have seen all backends.
            if hopeless || (self.forget.is_some() && reaches_all(flow, &outcomes)) {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Sends probes that should vanish and after them one that must arrive: the silence must not be that of a broken world.
    fn silence(&self, flow: &Flow) -> Result<Outcomes> {
        let mut probes = self.probes(flow, FEW);
        if flow.from.is_loopback() {
            return self.send_and_watch(probes, Until::Quiet);
        }
        probes.push(self.control(flow));
        let mut outcomes = self.send_and_watch(probes, Until::QuietAndLastSeen)?;
        let control = outcomes.split_off(FEW);
        let open = control.iter().all(|(probe, outcome)| is_untouched(probe, outcome));
        ensure!(open, "a packet from {} to a bystander did not get through: {}", flow.from, summary(&control));
        Ok(outcomes)
    }

    fn probes(&self, flow: &Flow, count: usize) -> Vec<Probe> {
        (0..count).map(|_| self.numbers.probe(flow)).collect()
    }

    fn control(&self, flow: &Flow) -> Probe {
        Probe { target: bystander(flow.from), ..self.numbers.probe(flow) }
    }

    /// Sends probes at once and notes what becomes of each.
    pub fn send_and_watch(&self, probes: Vec<Probe>, until: Until) -> Result<Outcomes> {
        self.forget.map_or(Ok(()), |forget| forget())?;
        self.world.look(|_, _| {})?;
        let sent = Instant::now();
        for probe in &probes {
            self.world.send(self.place, probe)?;
        }
        let outcomes = RefCell::new(probes.into_iter().map(|probe| (probe, Outcome::Vanished)).collect::<Outcomes>());
        let note = |place: Place, sight: Sight| {
            let mut outcomes = outcomes.borrow_mut();
            if let Some((probe, outcome)) = outcomes.iter_mut().find(|(probe, _)| probe.tag == sight.tag()) {
                self.note(probe, place, sight, outcome);
            }
        };
        let seen = |(_, outcome): &(Probe, Outcome)| *outcome != Outcome::Vanished;
        let enough = || match until {
            Until::AllSeen => outcomes.borrow().iter().all(seen),
            Until::Quiet => sent.elapsed() >= QUIET,
            Until::QuietAndLastSeen => sent.elapsed() >= QUIET && outcomes.borrow().last().is_some_and(seen),
        };
        self.world.watch(LIMIT, note, enough)?;
        Ok(outcomes.into_inner())
    }

    /// Takes note of a sight. An error never overrides an arrival: the stack itself complains about closed ports.
    fn note(&self, probe: &Probe, place: Place, sight: Sight, outcome: &mut Outcome) {
        match sight {
            Sight::Packet { source, target, .. } => *outcome = Outcome::Arrived { source, target },
            Sight::Error { .. } if matches!(outcome, Outcome::Arrived { .. }) => {}
            Sight::Error { to, port_unreachable: true, .. } if to == probe.source.ip() && place == self.place => {
                *outcome = Outcome::Refused;
            }
            Sight::Error { to, kind, .. } => {
                *outcome = Outcome::OddError(format!("ICMP error {}/{} to {to} at {place:?}", kind.0, kind.1));
            }
        }
    }
}

pub fn is_untouched(probe: &Probe, outcome: &Outcome) -> bool {
    *outcome == Outcome::Arrived { source: probe.source, target: probe.target }
}

/// Whether every backend has been reached, and each a few times on average.
fn reaches_all(flow: &Flow, outcomes: &Outcomes) -> bool {
    let reached: BTreeSet<SocketAddr> = outcomes.iter().filter_map(|(_, outcome)| target(outcome)).collect();
    let wanted = &flow.expect.backends;
    outcomes.len() >= 6 * wanted.len() && wanted.iter().all(|backend| reached.contains(backend))
}

pub fn target(outcome: &Outcome) -> Option<SocketAddr> {
    match outcome {
        Outcome::Arrived { target, .. } => Some(*target),
        _ => None,
    }
}

/// Compares what became of the probes with what should have.
fn judge(flow: &Flow, outcomes: &Outcomes, node_addresses: &[IpAddr]) -> Result<(), String> {
    let good = match flow.expect.verdict {
        Verdict::Reject => outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Refused),
        Verdict::Drop => outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Vanished),
        Verdict::Accept => outcomes.iter().all(|(probe, outcome)| is_untouched(probe, outcome)),
        Verdict::Dnat => {
            let reached: BTreeSet<_> = outcomes.iter().map(|(_, outcome)| target(outcome)).collect();
            reached == flow.expect.backends.iter().copied().map(Some).collect()
        }
    };
    if !good || outcomes.is_empty() {
        return Err(summary(outcomes));
    }
    if flow.expect.verdict == Verdict::Dnat && !sources_are_right(&flow.expect, outcomes, node_addresses) {
        return Err(summary(outcomes));
    }
    Ok(())
}

/// Whether backends see the source that they should.
///
/// A source on the node may already have the address that masquerading gives it; then the source port tells, because
/// masquerading chooses a new one at random, which may be the old one once, and leaving the source alone does not.
fn sources_are_right(expect: &Expectation, outcomes: &Outcomes, node_addresses: &[IpAddr]) -> bool {
    let masquerade = expect.masquerade == Some(true);
    let others = |client: IpAddr| expect.backends.iter().any(|backend| backend.ip() != client);
    let mut same = 0;
    for (probe, outcome) in outcomes {
        let Outcome::Arrived { source, target } = outcome else { return false };
        // A client that happens to be sent to itself is always masqueraded, else it would not believe the answer.
        let hairpin = target.ip() == probe.source.ip() && others(probe.source.ip());
        if !masquerade && !hairpin {
            if source != &probe.source {
                return false;
            }
            continue;
        }
        if !node_addresses.contains(&source.ip()) {
            return false;
        }
        same += usize::from(source == &probe.source);
    }
    same <= 1
}

/// What became of the probes, in words.
pub fn summary(outcomes: &Outcomes) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (probe, outcome) in outcomes {
        let words = match outcome {
            Outcome::Refused => "REJECT".to_owned(),
            Outcome::Vanished => "nothing seen".to_owned(),
            Outcome::OddError(words) => words.clone(),
            outcome if is_untouched(probe, outcome) => "arrived untouched".to_owned(),
            Outcome::Arrived { source, target } => {
                let route = if *target == probe.target { "arrived".to_owned() } else { format!("DNAT to {target}") };
                match source.ip() {
                    _ if *source == probe.source => format!("{route}, source kept"),
                    same if same == probe.source.ip() => format!("{route}, from another port"),
                    other => format!("{route}, source {other}"),
                }
            }
        };
        *counts.entry(words).or_default() += 1;
    }
    let words: Vec<String> = counts.into_iter().map(|(words, count)| format!("{count} x {words}")).collect();
    words.join("; ")
}

/// Expectations that must fail wherever this one holds, with a word about what was flipped.
pub fn flips(expect: &Expectation, stranger: SocketAddr) -> Vec<(String, Expectation)> {
    let mut flips = Vec::new();
    for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != expect.verdict) {
        let dnat = verdict == Verdict::Dnat;
        let (backends, masquerade) = if dnat { (vec![stranger], Some(false)) } else { (Vec::new(), None) };
        flips.push((format!("{verdict:?}"), Expectation { verdict, backends, masquerade }));
    }
    if expect.verdict == Verdict::Dnat {
        let flipped = expect.masquerade.map(|masquerade| !masquerade);
        flips.push(("masquerade".to_owned(), Expectation { masquerade: flipped, ..expect.clone() }));
        let more = [&expect.backends[..], &[stranger]].concat();
        flips.push(("one backend more".to_owned(), Expectation { backends: more, ..expect.clone() }));
        let fewer = expect.backends[1..].to_vec();
        let fewer = if fewer.is_empty() { vec![stranger] } else { fewer };
        flips.push(("one backend less".to_owned(), Expectation { backends: fewer, ..expect.clone() }));
    }
    flips
}
