//! When to ask the API server (again). Pure: times come from the caller, so tests and `benches/herd.rs` bring their own.
//!
//! There is one [`RequestGate`] for a server and one [`Turn`] for each kind that is followed. What says something of the server
//! (nothing answers, 5xx) is kept in the gate, so that one request at a time finds out for all kinds, and any answer lets
//! all of them go on. What says something of a kind is kept in its turn.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// A failure has nothing to do with the last one if what was retried then has worked for this long, and for twice as long as
/// the wait before: a server that is restarted every 10 s is no reason to wait longer each time.
const CALM: Duration = Duration::from_secs(5);
/// The end of an outage is the reason for lists that are asked for within this time.
const RECENT: Duration = Duration::from_secs(10);
/// While nothing answers, the pause between two attempts is at most this part of the outage.
const PART_OF_OUTAGE: u32 = 300;
/// While the server answers with failures of its own, the pause is at most this part of the time it has lasted.
const PART_OF_TROUBLE: u32 = 4;
/// A pause after 5xx may be this long at any time.
const SHORT: Duration = Duration::from_secs(1);

/// How often to ask.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Between two attempts while nothing answers, at most (0.8 s).
    pub probe: Duration,
    /// The same when the outage has lasted for long (10 s, reached after 50 minutes).
    pub longest_probe: Duration,
    /// Before the first retry of what failed with an answer; doubles with every failure (0.2 s).
    pub first_retry: Duration,
    /// Before any retry at most (30 s).
    pub longest_retry: Duration,
    /// Lists that all nodes need at the same time are spread over this (0.8 s, which leaves 0.2 of the second that recovery
    /// may take in the median).
    pub spread: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            probe: Duration::from_millis(800),
            longest_probe: Duration::from_secs(10),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(30),
            spread: Duration::from_millis(800),
        }
    }
}

/// What became of a request, or of the watch it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The server does what was asked.
    Served,
    /// No HTTP answer: refused, timed out, not the server we know.
    Unanswered,
    /// The connection of a watch broke, or is dead.
    Broken,
    /// The server is not well: 5xx, or a refusal of what it granted before, as servers do that have just started.
    Troubled,
    /// The server wants to be left alone for so long.
    Busy(Duration),
    /// The history does not reach back to our version: a list is due, now.
    Expired,
    /// Something else that concerns this kind alone.
    Odd,
}

/// What one kind has to wait for besides the server.
#[derive(Debug, Clone)]
pub struct Turn {
    until: Option<Instant>,
    /// The number of answers the gate had seen when this kind was in trouble.
    troubled: Option<u64>,
    retries: Backoff,
    /// By itself: the break of a watch does not make the list late that follows it.
    lists: Backoff,
}

impl Turn {
    /// May go at once.
    pub fn new(retry_policy: &RetryPolicy) -> Self {
        Self { until: None, troubled: None, retries: Backoff::new(retry_policy), lists: Backoff::new(retry_policy) }
    }
}

/// The state of a server, as far as it is known.
#[derive(Debug)]
pub struct RequestGate {
    retry_policy: RetryPolicy,
    random: Random,
    /// Nothing answers.
    outage: Option<Spell>,
    /// It answers with failures of its own.
    trouble: Option<Spell>,
    served: u64,
    /// When it was well again, and how long before that the last attempt had failed: nodes come back spread over that.
    reopened: Option<(Instant, Duration)>,
}

/// A time in which attempts are rationed, for all kinds together.
#[derive(Debug)]
struct Spell {
    since: Instant,
    next: Instant,
    attempts: u32,
    failed: Instant,
}

impl Spell {
    fn begin(now: Instant, wait: Duration) -> Option<Self> {
        Some(Self { since: now, next: now + wait, attempts: 0, failed: now })
    }
}

impl RequestGate {
    /// `seed` makes the random part of all waits repeatable. As long as nothing is known of the server, one request goes
    /// ahead: the connection it makes serves all of them.
    pub fn new(retry_policy: RetryPolicy, seed: u64, now: Instant) -> Self {
        let outage = Spell::begin(now, Duration::ZERO);
        Self { retry_policy, random: Random(seed), outage, trouble: None, served: 0, reopened: None }
    }

    /// The same, random.
    pub fn random(retry_policy: RetryPolicy) -> Self {
        Self::new(retry_policy, RandomState::new().hash_one(()), Instant::now())
    }

    /// Whether this kind may send a request now; if not, when to ask again, unless the gate opens before.
    pub fn ask(&mut self, turn: &mut Turn, now: Instant) -> Result<(), Instant> {
        if let Some(until) = turn.until.filter(|until| *until > now) {
            return Err(until);
        }
        turn.until = None;
        if let Some(outage) = &mut self.outage {
            if outage.next > now {
                return Err(outage.next);
            }
            let part = now.saturating_duration_since(outage.since) / PART_OF_OUTAGE;
            let most =
                part.clamp(self.retry_policy.probe, self.retry_policy.longest_probe.max(self.retry_policy.probe));
            outage.next = now + self.random.half_to_all(most);
        } else if let Some(trouble) = self.trouble.as_mut().filter(|_| turn.troubled == Some(self.served)) {
            if trouble.next > now {
                return Err(trouble.next);
            }
            let lasted = now.saturating_duration_since(trouble.since);
            let most = doubled(self.retry_policy.first_retry, trouble.attempts);
            let most = most.min((lasted / PART_OF_TROUBLE).max(SHORT)).min(self.retry_policy.longest_retry);
            trouble.attempts += 1;
            trouble.next = now + self.random.half_to_all(most);
        }
        Ok(())
    }

    /// Takes note of what became of a request. Says whether others need not wait any longer.
    pub fn note(&mut self, turn: &mut Turn, outcome: RequestOutcome, now: Instant) -> bool {
        let opens = match outcome {
            RequestOutcome::Unanswered => {
                match &mut self.outage {
                    Some(outage) => outage.failed = now,
                    None => self.outage = Spell::begin(now, self.random.half_to_all(self.retry_policy.probe)),
                }
                return false;
            }
            RequestOutcome::Broken => {
                // The next attempt is at once, unless the last one was only just made.
                turn.until = turn.retries.after_calm(&mut self.random, now).map(|wait| now + wait);
                if self.outage.is_none() {
                    self.outage = Spell::begin(now, Duration::ZERO);
                }
                return false;
            }
            _ => self.answered(now),
        };
        match outcome {
            RequestOutcome::Served => return self.is_well(now) || opens,
            RequestOutcome::Troubled => {
                let wait = self.random.half_to_all(self.retry_policy.first_retry);
                match &mut self.trouble {
                    Some(trouble) => (trouble.next, trouble.failed) = (trouble.next.max(now + wait), now),
                    None => self.trouble = Spell::begin(now, wait),
                }
                turn.troubled = Some(self.served);
            }
            // Those who are sent away together do not come back together.
            RequestOutcome::Busy(wait) => turn.until = Some(now + wait + self.random.up_to(wait / 4)),
            RequestOutcome::Expired => {
                let opens = self.is_well(now) || opens;
                let again = turn.lists.after_calm(&mut self.random, now).unwrap_or_default();
                turn.until = Some(now + again.max(self.spread(now)));
                return opens;
            }
            RequestOutcome::Odd | RequestOutcome::Unanswered | RequestOutcome::Broken => {
                turn.until = Some(now + turn.retries.next(&mut self.random, now));
            }
        }
        opens
    }

    fn answered(&mut self, now: Instant) -> bool {
        let ended = self.outage.take();
        self.opens(ended, now)
    }

    /// An answer as from a server that is well: whoever was in trouble may try again.
    fn is_well(&mut self, now: Instant) -> bool {
        self.served += 1;
        let ended = self.trouble.take();
        self.opens(ended, now)
    }

    fn opens(&mut self, ended: Option<Spell>, now: Instant) -> bool {
        let Some(ended) = ended else { return false };
        // What failed while the server started has come on top of the outage before.
        let spread = self.recent_spread(now) + now.saturating_duration_since(ended.failed);
        self.reopened = Some((now, spread));
        true
    }

    /// Over how long the attempts that found the server well again have spread the nodes.
    fn recent_spread(&self, now: Instant) -> Duration {
        let recent = self.reopened.filter(|(at, _)| now.saturating_duration_since(*at) < RECENT);
        recent.map_or(Duration::ZERO, |(_, spread)| spread)
    }

    /// How long to wait with a list that other nodes need, too. The attempts that find out that a server is back are spread
    /// already; so that both together take no longer, that part is left out here.
    fn spread(&mut self, now: Instant) -> Duration {
        let rest = self.retry_policy.spread.saturating_sub(self.recent_spread(now));
        self.random.up_to(rest)
    }
}

/// Delays that double.
#[derive(Debug, Clone)]
struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    delay: Duration,
    retried: Option<Instant>,
}

impl Backoff {
    fn new(retry_policy: &RetryPolicy) -> Self {
        Self {
            first: retry_policy.first_retry,
            longest: retry_policy.longest_retry,
            failures: 0,
            delay: Duration::ZERO,
            retried: None,
        }
    }

    /// The delay after one more failure. A success in between does not make the next delays short again, only time
    /// does: what works for a moment each time must not be tried without pause.
    fn next(&mut self, random: &mut Random, now: Instant) -> Duration {
        if self.is_calm(now) {
            self.failures = 0;
        }
        let delay = random.half_to_all(self.longest.min(doubled(self.first, self.failures)));
        self.failures += 1;
        (self.delay, self.retried) = (delay, Some(now + delay));
        delay
    }

    /// The same, but nothing if there was no failure for a while.
    fn after_calm(&mut self, random: &mut Random, now: Instant) -> Option<Duration> {
        if self.is_calm(now) {
            (self.failures, self.delay, self.retried) = (0, Duration::ZERO, Some(now));
            return None;
        }
        Some(self.next(random, now))
    }

    fn is_calm(&self, now: Instant) -> bool {
        let calm = CALM.max(self.delay * 2);
        self.retried.is_none_or(|retried| now.saturating_duration_since(retried) > calm)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first * 2_u32.pow(times.min(10))
}

/// Random enough that nodes do not return in step (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn half_to_all(&mut self, of: Duration) -> Duration {
        of.mul_f64(0.5 + self.next() / 2.0)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.next())
    }

    /// From 0 up to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
