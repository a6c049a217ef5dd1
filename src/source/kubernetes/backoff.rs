//! When to try again, and how often to say so.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(30);

/// Delays that double from 0.2 s to 30 s, spread by half either way so that nodes do not return in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let delay = LONGEST.min(FIRST * 2_u32.pow(self.failures.min(10)));
        self.failures += 1;
        jitter(delay)
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// It works again; the number of failures before.
    pub(super) fn reset(&mut self) -> u32 {
        std::mem::take(&mut self.failures)
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

    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_start_anew() {
        let mut backoff = Backoff::default();
        let delays: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(delays[0] >= FIRST / 2 && delays[0] <= FIRST * 3 / 2, "{delays:?}");
        assert!(delays[15..].iter().all(|delay| *delay >= LONGEST / 2 && *delay <= LONGEST * 3 / 2), "{delays:?}");
        assert_eq!((backoff.reset(), backoff.failures()), (20, 0));
    }

    #[test]
    fn a_message_is_repeated_only_when_it_changes() {
        let mut throttle = Throttle::default();
        assert_eq!([throttle.pass("a"), throttle.pass("a"), throttle.pass("b")], [true, false, true]);
        throttle.reset();
        assert!(throttle.pass("b"));
    }
}
