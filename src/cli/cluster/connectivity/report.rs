//! Results as a table, as JSON, and as JUnit reads them.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::admin::State;
use crate::cli::table::{Row, cell};

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TestResult {
    /// What was tested.
    pub(super) test: String,
    /// `IPv4`, `IPv6`, or nothing.
    pub(super) family: String,
    /// `TCP`, `UDP`, `DNS`, or nothing.
    pub(super) protocol: String,
    /// From where to where.
    pub(super) way: String,
    /// What is wrong; none: it passed.
    pub(super) fault: Option<String>,
}

/// All that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TestReport {
    /// Grows when a field goes or means something else.
    pub(super) version: u32,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) tests: Vec<TestResult>,
}

impl TestReport {
    pub(super) fn new(tests: Vec<TestResult>) -> Self {
        let failed = tests.iter().filter(|test| test.fault.is_some()).count();
        Self { version: 1, passed: tests.len() - failed, failed, tests }
    }

    /// A line for each kind of test, family and protocol, in the order of the plan; what failed comes first.
    pub(super) fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for test in &self.tests {
            let is_of = |line: &&mut Line| {
                line.test == test.test && line.family == test.family && line.protocol == test.protocol
            };
            let line = match lines.iter_mut().find(is_of) {
                Some(line) => line,
                None => {
                    lines.push(Line {
                        test: test.test.clone(),
                        family: test.family.clone(),
                        protocol: test.protocol.clone(),
                        ..Line::default()
                    });
                    let last = lines.len() - 1;
                    &mut lines[last]
                }
            };
            line.total += 1;
            line.faults.extend(test.fault.iter().map(|fault| format!("{}: {fault}", test.way)));
        }
        lines.sort_by_key(|line| line.faults.is_empty());
        lines
    }

    /// The file CI systems read.
    pub(super) fn junit(&self, took: Duration, at: jiff::Timestamp) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        let (tests, failed, seconds) = (self.tests.len(), self.failed, took.as_secs_f64());
        let counts = format!("tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" time=\"{seconds:.3}\"");
        // Writing to a String cannot fail.
        writeln!(text, "<testsuites {counts}>").ok();
        let at = at.strftime("%Y-%m-%dT%H:%M:%S");
        writeln!(text, "  <testsuite name=\"portway test\" {counts} skipped=\"0\" timestamp=\"{at}\">").ok();
        for test in &self.tests {
            let parts = [test.family.as_str(), &test.protocol, &test.way];
            let name: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let head = format!("<testcase classname=\"{}\" name=\"{}\"", escaped(&test.test), escaped(&name.join(" ")));
            match &test.fault {
                None => writeln!(text, "    {head}/>").ok(),
                Some(fault) => {
                    let fault = escaped(fault);
                    writeln!(text, "    {head}><failure message=\"{fault}\">{fault}</failure></testcase>").ok()
                }
            };
        }
        text + "  </testsuite>\n</testsuites>\n"
    }
}

/// Text for XML. Characters XML does not have are left out.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || ['\u{fffe}', '\u{ffff}'].contains(&c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A line of the table: tests of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    test: String,
    family: String,
    protocol: String,
    total: usize,
    faults: Vec<String>,
}

impl Line {
    fn result(&self) -> State {
        if self.faults.is_empty() { State::Ok } else { State::Fail }
    }
}

impl Row for Line {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["RESULT", "TEST", "FAMILY", "PROTOCOL", "PASSED", "DETAIL"]
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let shown = if wide { self.faults.len() } else { 2 };
        let mut detail: Vec<String> = self.faults.iter().take(shown).cloned().collect();
        if self.faults.len() > shown {
            detail.push(format!("and {} more (-o wide)", self.faults.len() - shown));
        }
        vec![
            self.result().to_string(),
            self.test.clone(),
            cell(&self.family),
            cell(&self.protocol),
            format!("{}/{}", self.total - self.faults.len(), self.total),
            cell(&detail.join("; ")),
        ]
    }

    fn state(&self) -> Option<State> {
        Some(self.result())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table;

    fn result(test: &str, way: &str, fault: Option<&str>) -> TestResult {
        TestResult {
            test: test.to_owned(),
            family: "IPv4".to_owned(),
            protocol: "TCP".to_owned(),
            way: way.to_owned(),
            fault: fault.map(str::to_owned),
        }
    }

    fn report() -> TestReport {
        TestReport::new(vec![
            result("refused", "pod on a", None),
            result("affinity", "pod on a", Some("answered by <b>")),
            result("affinity", "pod on b", None),
            result("affinity", "pod on c", Some("no answer")),
            result("affinity", "pod on d", Some("no answer")),
        ])
    }

    #[test]
    fn a_line_for_each_kind() {
        let text = table::text(&report().lines(), false, false);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "FAIL    affinity  IPv4    TCP       1/4     pod on a: answered by <b>; pod on c: no answer; and 1 more (-o wide)",
                "OK      refused   IPv4    TCP       1/1     -"
            ]
        );
    }

    #[test]
    fn junit_is_xml_with_every_test() {
        let text = report().junit(Duration::from_millis(1500), jiff::Timestamp::UNIX_EPOCH);
        assert!(text.contains("<testsuites tests=\"5\" failures=\"3\" errors=\"0\" time=\"1.500\">"), "{text}");
        assert!(text.contains("timestamp=\"1970-01-01T00:00:00\""), "{text}");
        assert_eq!(text.matches("<testcase ").count(), 5);
        let failure = "<failure message=\"answered by &lt;b&gt;\">answered by &lt;b&gt;</failure></testcase>";
        assert!(text.contains(failure), "{text}");
        assert_eq!(escaped("a\u{1b}[31m&\"\n"), "a [31m&amp;&quot; ");
    }
}
