//! How often the same message is logged.

use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_secs(30);

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
    fn a_message_is_repeated_only_when_it_changes() {
        let mut throttle = Throttle::default();
        assert_eq!([throttle.pass("a"), throttle.pass("a"), throttle.pass("b")], [true, false, true]);
    }
}
