//! What the reader sees: plain text, with a little colour on a terminal.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use super::stats::{Tally, bar};

/// The width of the column that says what a row is about.
const LABEL: usize = 30;
/// The widest bar; a cell is a bar and a number.
const BAR: usize = 6;

/// Prints to standard output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    colours: bool,
}

impl Screen {
    /// In colour only for people who look at it and have not asked for none.
    pub(super) fn new() -> Self {
        Self { colours: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// A line. A reader who has closed the pipe does not end the demonstration before it has cleaned up.
    pub(super) fn line(&self, text: &str) {
        let mut out = stdout().lock();
        drop(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    /// The heading of a step.
    pub(super) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.paint("1", text));
    }

    /// Text that matters less.
    pub(super) fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// A fact and its value.
    pub(super) fn row(&self, label: &str, value: &str) {
        self.line(&format!("   {label:<LABEL$} {value}"));
    }

    /// A result of the summary.
    pub(super) fn verdict(&self, good: bool, text: &str) {
        let mark = if good { self.paint("32", "ok  ") } else { self.paint("31", "FAIL") };
        self.line(&format!("   {mark} {text}"));
    }

    /// The names above the bars.
    pub(super) fn bar_heads(&self, label: &str, pods: &[String]) {
        let heads: String = pods.iter().map(|pod| format!("{pod:<0$}", BAR + 6)).collect();
        self.line(&self.faint(format!("   {label:<LABEL$} {heads}").trim_end()));
    }

    /// How requests were spread over pods.
    pub(super) fn bars(&self, label: &str, tally: &Tally, pods: &[String]) {
        let counts = tally.of(pods);
        let most = counts.iter().copied().max().unwrap_or_default();
        let cell = |count: &usize| match count {
            0 => format!("{:<1$}", "-", BAR + 6),
            _ => {
                let (bar, number) = (bar(*count, most, BAR), count.to_string());
                let gap = BAR + 5 - bar.chars().count() - number.len().min(4);
                format!("{} {number}{}", self.paint("36", &bar), " ".repeat(gap))
            }
        };
        let cells: String = counts.iter().map(cell).collect();
        self.line(format!("   {label:<LABEL$} {cells}").trim_end());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Milliseconds, as exact as they are worth.
pub(super) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    let digits = if millis < 10.0 { 2 } else { usize::from(millis < 100.0) };
    format!("{millis:.digits$} ms")
}

/// A number with a comma at the thousands: `12,345`.
pub(super) fn thousands(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1_000), number % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_have_commas() {
        assert_eq!([7, 1_002, 1_234_056].map(thousands), ["7", "1,002", "1,234,056"]);
    }

    #[test]
    fn times_are_not_more_exact_than_they_are_worth() {
        let times = [430, 9_870, 12_340, 123_400].map(|micros| millis(Duration::from_micros(micros)));
        assert_eq!(times, ["0.43 ms", "9.87 ms", "12.3 ms", "123 ms"]);
    }
}
