//! When to try again, and how often to say so.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::client::Timing;

/// A failure later than this after the last retry has nothing to do with it any more.
const CALM: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_secs(30);

/// Delays that double, spread by half either way so that nodes do not return in step.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    retried: Instant,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self { first: timing.first_retry, longest: timing.longest_retry, failures: 0, retried: Instant::now() }
    }

    /// The delay after one more failure. A success in between does not make the next delays short again, only time
    /// does: what works for a moment each time must not be tried without pause.
    pub(super) fn next(&mut self) -> Duration {
        let now = Instant::now();
        if now.saturating_duration_since(self.retried) > CALM {
            self.failures = 0;
        }
        let delay = jitter(self.longest.min(self.first * 2_u32.pow(self.failures.min(10))));
        self.failures += 1;
        self.retried = now + delay;
        delay
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// Half to one and a half of a duration, at random.
pub(super) fn jitter(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1000;
    duration.mul_f64(0.5 + random as f64 / 1000.0)
}

/// Lets a message pass when it is new, and else twice a minute.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<(Instant, String)>,
}

impl Throttle {
    pub(super) fn pass(&mut self, message: &str) -> bool {
        let known = self.last.as_ref().is_some_and(|(at, last)| last == message && at.elapsed() < QUIET);
        if !known {
            self.last = Some((Instant::now(), message.to_owned()));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_start_anew_after_a_while() {
        let timing = Timing::default();
        let within = |delay: Duration, of: Duration| delay >= of / 2 && delay <= of * 3 / 2;
        let mut backoff = Backoff::new(&timing);
        let delays: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(within(delays[0], timing.first_retry), "{delays:?}");
        assert!(delays[15..].iter().all(|delay| within(*delay, timing.longest_retry)), "{delays:?}");
        assert_eq!(backoff.failures(), 20);
        backoff.retried = Instant::now().checked_sub(CALM * 2).expect("the machine runs for longer");
        assert!(within(backoff.next(), timing.first_retry));
    }

    #[test]
    fn a_message_is_repeated_only_when_it_changes() {
        let mut throttle = Throttle::default();
        assert_eq!([throttle.pass("a"), throttle.pass("a"), throttle.pass("b")], [true, false, true]);
    }
}
