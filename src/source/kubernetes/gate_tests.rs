use super::*;

const KINDS: usize = 4;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A node that follows some kinds, at times of its own.
struct Node {
    gate: RequestGate,
    turns: Vec<Turn>,
    now: Instant,
}

impl Node {
    fn new(seed: u64) -> Self {
        let (retry_policy, now) = (RetryPolicy::default(), Instant::now());
        Self { turns: vec![Turn::new(&retry_policy); KINDS], gate: RequestGate::new(retry_policy, seed, now), now }
    }

    /// One whose watches run.
    fn following(seed: u64) -> Self {
        let mut node = Self::new(seed);
        node.all(RequestOutcome::Served);
        node
    }

    fn all(&mut self, outcome: RequestOutcome) {
        for kind in 0..KINDS {
            self.note(kind, outcome);
        }
    }

    fn ask(&mut self, kind: usize) -> bool {
        self.gate.ask(&mut self.turns[kind], self.now).is_ok()
    }

    fn note(&mut self, kind: usize, outcome: RequestOutcome) {
        self.gate.note(&mut self.turns[kind], outcome, self.now);
    }

    /// When the first of these kinds asks, and which one it is.
    fn first(&mut self, waiting: &[usize]) -> (Instant, usize) {
        loop {
            let mut next = None::<Instant>;
            for kind in waiting {
                match self.gate.ask(&mut self.turns[*kind], self.now) {
                    Ok(()) => return (self.now, *kind),
                    Err(until) => next = Some(next.map_or(until, |next| next.min(until))),
                }
            }
            self.now = next.expect("somebody waits");
        }
    }

    /// All kinds ask until a time, and this comes of it; returns when they asked.
    fn asks_for(&mut self, long: Duration, outcome: RequestOutcome) -> Vec<Instant> {
        let (end, mut asked) = (self.now + long, Vec::new());
        loop {
            let (at, kind) = self.first(&[0, 1, 2, 3]);
            if at >= end {
                self.now = end;
                return asked;
            }
            asked.push(at);
            self.note(kind, outcome);
        }
    }
}

fn pauses(asked: &[Instant]) -> Vec<Duration> {
    asked.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn the_first_request_goes_ahead_and_any_answer_lets_the_others_follow() {
    for answer in [
        RequestOutcome::Served,
        RequestOutcome::Troubled,
        RequestOutcome::Odd,
        RequestOutcome::Expired,
        RequestOutcome::Busy(seconds(5.0)),
    ] {
        let mut node = Node::new(1);
        assert_eq!([node.ask(0), node.ask(1), node.ask(2)], [true, false, false]);
        node.note(0, answer);
        assert_eq!([node.ask(1), node.ask(2), node.ask(3)], [true; 3], "{answer:?}");
    }
}

#[test]
fn an_outage_is_probed_by_one_kind_at_a_time_at_most_a_second_apart_and_later_ten() {
    let mut node = Node::following(2);
    let asked = node.asks_for(seconds(240.0), RequestOutcome::Unanswered);
    let waits = pauses(&asked);
    assert!(waits.iter().all(|wait| (seconds(0.4)..=seconds(0.8)).contains(wait)), "{waits:?}");
    node.asks_for(seconds(3600.0), RequestOutcome::Unanswered);
    let waits = pauses(&node.asks_for(seconds(600.0), RequestOutcome::Unanswered));
    assert!(waits.iter().all(|wait| (seconds(5.0)..=seconds(10.0)).contains(wait)), "{waits:?}");
    node.note(0, RequestOutcome::Served);
    assert_eq!([node.ask(1), node.ask(2), node.ask(3)], [true; 3]);
}

#[test]
fn a_broken_connection_is_made_anew_at_once_and_not_over_and_over() {
    let mut node = Node::following(3);
    node.all(RequestOutcome::Broken);
    assert_eq!([node.ask(0), node.ask(1)], [true, false], "one goes ahead");
    node.note(0, RequestOutcome::Served);
    assert!(node.ask(1));
    // Each new watch breaks at once.
    let asked = node.asks_for(seconds(60.0), RequestOutcome::Broken);
    assert!(asked.len() < 40, "{} attempts of {KINDS} kinds in a minute", asked.len());
}

#[test]
fn failures_of_the_server_are_found_out_by_one_request_for_all_kinds() {
    let mut node = Node::following(4);
    node.all(RequestOutcome::Troubled);
    let asked = node.asks_for(seconds(10.0), RequestOutcome::Troubled);
    assert!((5..=30).contains(&asked.len()), "{}", asked.len());
    let waits = pauses(&asked);
    assert!(waits.iter().all(|wait| *wait <= seconds(2.6)), "a quarter of the time it has lasted: {waits:?}");
    node.asks_for(seconds(300.0), RequestOutcome::Troubled);
    let waits = pauses(&node.asks_for(seconds(600.0), RequestOutcome::Troubled));
    assert!(waits.iter().all(|wait| (seconds(15.0)..=seconds(30.0)).contains(wait)), "{waits:?}");
    node.note(0, RequestOutcome::Served);
    assert_eq!([node.ask(1), node.ask(2), node.ask(3)], [true; 3], "who was in trouble goes when one is served");
}

#[test]
fn trouble_of_one_kind_does_not_hold_up_the_others() {
    let mut node = Node::following(5);
    node.note(0, RequestOutcome::Troubled);
    assert_eq!([node.ask(0), node.ask(1), node.ask(2)], [false, true, true]);
    for _ in 0..20 {
        node.first(&[0]);
        node.note(0, RequestOutcome::Troubled);
    }
    assert!(!node.ask(0) && node.ask(1));
    // Others are served now and then: one more attempt each time, not a loop.
    node.note(1, RequestOutcome::Served);
    assert!(node.ask(0));
    node.note(0, RequestOutcome::Troubled);
    assert!(!node.ask(0));
}

#[test]
fn a_server_that_asks_for_patience_gets_it_from_this_kind() {
    let mut node = Node::following(6);
    let start = node.now;
    node.note(0, RequestOutcome::Busy(seconds(7.0)));
    node.note(1, RequestOutcome::Served);
    assert!(node.ask(1) && !node.ask(0));
    let (at, _) = node.first(&[0]);
    assert!((seconds(7.0)..=seconds(8.75)).contains(&(at - start)), "{:?}", at - start);
}

#[test]
fn lists_that_everybody_needs_are_spread_and_not_repeated_without_pause() {
    let mut waits: Vec<Duration> = (0..400)
        .map(|seed| {
            let mut node = Node::following(seed);
            let start = node.now;
            node.note(0, RequestOutcome::Expired);
            node.first(&[0]).0 - start
        })
        .collect();
    waits.sort();
    assert!(waits[40] < seconds(0.12) && waits[360] > seconds(0.68) && waits[399] <= seconds(0.8), "{waits:?}");

    let mut node = Node::following(7);
    let start = node.now;
    for _ in 0..10 {
        node.first(&[0]);
        node.note(0, RequestOutcome::Expired);
    }
    assert!(node.now - start > seconds(30.0), "lists that are worth nothing grow rare: {:?}", node.now - start);
}

#[test]
fn delays_grow_to_a_limit_and_start_anew_after_a_while() {
    let retry_policy = RetryPolicy::default();
    let (mut backoff, mut random, mut now) = (Backoff::new(&retry_policy), Random(8), Instant::now());
    let delays: Vec<Duration> = (0..20)
        .map(|_| {
            let delay = backoff.next(&mut random, now);
            now += delay;
            delay
        })
        .collect();
    assert!((seconds(0.1)..=seconds(0.2)).contains(&delays[0]), "{delays:?}");
    assert!(delays[15..].iter().all(|delay| (seconds(15.0)..=seconds(30.0)).contains(delay)), "{delays:?}");
    assert!(
        backoff.next(&mut random, now + seconds(10.0)) > seconds(0.2),
        "not after what worked no longer than the wait"
    );
    assert!(backoff.next(&mut random, now + seconds(100.0)) <= seconds(0.2));
}

/// From the moment the server is there again until the list of the last kind, when the history is lost. Requests take
/// no time; failures of `start_up` seconds, and so many more of each kind, follow the first answer.
fn recovery(seed: u64, outage: f64, start_up: f64, failures: u32) -> Duration {
    let mut node = Node::following(seed);
    node.now += seconds(100.0);
    recovers(&mut node, outage, start_up, failures)
}

fn recovers(node: &mut Node, outage: f64, start_up: f64, failures: u32) -> Duration {
    let back = node.now + seconds(outage);
    node.all(RequestOutcome::Broken);
    let (mut waiting, mut lost, mut failures) = (vec![0, 1, 2, 3], [true; KINDS], [failures; KINDS]);
    while !waiting.is_empty() {
        let (at, kind) = node.first(&waiting);
        node.note(
            kind,
            match () {
                () if at < back => RequestOutcome::Unanswered,
                () if at < back + seconds(start_up) => RequestOutcome::Troubled,
                () if failures[kind] > 0 => {
                    failures[kind] -= 1;
                    RequestOutcome::Troubled
                }
                () if std::mem::take(&mut lost[kind]) => RequestOutcome::Expired,
                () => {
                    waiting.retain(|waits| *waits != kind);
                    RequestOutcome::Served
                }
            },
        );
    }
    node.now - back - seconds(start_up)
}

#[test]
fn after_any_outage_all_lists_are_asked_for_within_four_fifths_of_a_second() {
    for outage in [2.0, 8.0, 30.0, 120.0, 240.0] {
        let mut times: Vec<Duration> = (0..200).map(|seed| recovery(seed, outage, 0.0, 0)).collect();
        times.sort();
        assert!(times[199] <= seconds(0.81), "{outage} s: {times:?}");
        assert!(times[0] < seconds(0.5) && times[199] > seconds(0.7), "{outage} s: nodes do not come in step");
    }
}

#[test]
fn a_server_that_fails_while_it_starts_is_there_soon() {
    for (outage, start_up) in [(2.0, 3.0), (8.0, 5.0), (30.0, 5.0)] {
        let mut times: Vec<Duration> = (0..200).map(|seed| recovery(seed, outage, start_up, 0)).collect();
        times.sort();
        assert!(times[100] <= seconds(1.0) && times[199] <= seconds(1.5), "{start_up} s of 5xx: {times:?}");
    }
}

#[test]
fn failures_at_the_start_come_out_of_the_time_that_lists_are_spread_over() {
    for outage in [2.0, 8.0, 30.0] {
        let mut times: Vec<Duration> = (0..200).map(|seed| recovery(seed, outage, 0.0, 1)).collect();
        times.sort();
        // The retry of what failed is 0.1 to 0.2 s later.
        assert!(times[100] <= seconds(0.85) && times[199] <= seconds(1.0), "{outage} s: {times:?}");
    }
}

#[test]
fn a_server_that_is_restarted_every_few_seconds_is_followed_each_time() {
    for seed in 0..50 {
        let mut node = Node::following(seed);
        for _ in 0..50 {
            node.now += seconds(3.0);
            let took = recovers(&mut node, 5.0, 0.0, 0);
            assert!(took <= seconds(0.81), "{took:?}");
        }
    }
}
