//! Times and numbers in words.

use std::time::{Duration, Instant, SystemTime};

/// `3h2m ago`, or `never`.
pub(super) fn ago(at: Option<Instant>) -> String {
    at.map_or("never".to_owned(), |at| format!("{} ago", in_words(at.elapsed())))
}

/// `1 sync`, `2 syncs`.
pub fn count(number: impl Into<u64>, what: &str) -> String {
    match number.into() {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// `3h2m`: the two largest units.
pub(super) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String =
        parts.iter().skip_while(|(n, _)| *n == 0).take(2).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `2026-11-30T02:03:12Z`, by the clock of today.
pub(super) fn timestamp(at: Instant) -> String {
    let at = SystemTime::now() - at.elapsed();
    jiff::Timestamp::try_from(at).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_words() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m0s"), (3725, "1h2m"), (90_061, "1d1h")];
        for (seconds, text) in cases {
            assert_eq!(in_words(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn one_of_a_kind_is_no_plural() {
        assert_eq!(
            [count(0_u64, "sync"), count(1_u64, "sync"), count(2_u64, "sync")],
            ["0 syncs", "1 sync", "2 syncs"]
        );
    }
}
