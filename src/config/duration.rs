//! Durations as Go writes them: `1m30s`, `1.5h`, `-2us`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// A signed number of nanoseconds. Negative ones can be written down, so that validation can refuse them by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(i64);

/// Units, the longest names first where one begins with another.
const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];
const SECOND: i64 = 1_000_000_000;

/// Not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration (write it as in 1m30s)")]
pub struct DurationError(String);

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// Whole seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(SECOND))
    }

    /// Nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Exactly zero, which often means "default".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// For use with the standard library; what is negative becomes zero.
    pub fn get(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(error());
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let (name, unit) = UNITS.iter().find(|(name, _)| tail.starts_with(name)).ok_or_else(error)?;
            let nanos = nanos(number, *unit).ok_or_else(error)?;
            total = total.checked_add(nanos).ok_or_else(error)?;
            rest = &tail[name.len()..];
        }
        Ok(Self(if negative { -total } else { total }))
    }
}

/// `number` units; digits behind the point count as far as they make whole nanoseconds.
fn nanos(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part, mut scale) = (0_i128, 1_i128);
    for digit in fraction.bytes().take(18) {
        part = part * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    let part = i64::try_from(part * i128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let total = self.0.unsigned_abs();
        let second = SECOND.unsigned_abs();
        let decimal = |nanos: u64, unit: u64| {
            let digits = unit.ilog10() as usize;
            let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        if total < second {
            let (unit, name) =
                [(1_000_000, "ms"), (1_000, "µs")].into_iter().find(|(unit, _)| total >= *unit).unwrap_or((1, "ns"));
            let text = if unit == 1 { total.to_string() } else { decimal(total, unit) };
            return write!(f, "{text}{name}");
        }
        let (minutes, rest) = (total / (60 * second), total % (60 * second));
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(rest, second))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // "" is what a hand-written file may have for "default".
        match std::borrow::Cow::<'de, str>::deserialize(deserializer)?.as_ref() {
            "" => Ok(Self::ZERO),
            text => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GoDuration {
        text.parse().expect("a duration")
    }

    #[test]
    fn go_notation_is_read_and_written() {
        for (text, written) in [
            ("0", "0s"),
            ("0s", "0s"),
            ("1m30s", "1m30s"),
            ("90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("15m0s", "15m0s"),
            ("1.5h", "1h30m0s"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("2500ms", "2.5s"),
            ("1us", "1µs"),
            ("1500ns", "1.5µs"),
            ("7ns", "7ns"),
            ("-1s", "-1s"),
            ("+3m", "3m0s"),
            ("1h0m0.25s", "1h0m0.25s"),
        ] {
            assert_eq!(parse(text).to_string(), written, "{text}");
        }
        assert_eq!(parse("1m30s").get(), Duration::from_secs(90));
        assert_eq!(parse("-1s").get(), Duration::ZERO);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "1", "s", "1x", "1m 30s", "1,5s", "1..5s", ".s", "- 1s", "3000000h", "1m30", "1d"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
    }
}
