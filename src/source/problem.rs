//! Faults in what users wrote: reported with object and field, counted, never fatal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use tracing::warn;

use crate::instruments::SourceStats;

/// Something in an object or a file that cannot be used. The rest of the object stays in use unless the message says
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub struct Problem {
    /// What has the fault: `Service default/web`, or `services.yaml:12` where no object could be read.
    pub object: String,
    /// Path of the field, as `spec.externalIPs[1]`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what becomes of it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Logs the problems of an object once for each change of them, so that a resync or reload stays quiet.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    known: HashMap<String, Vec<Problem>>,
}

impl Reporter {
    /// Takes the present problems of `subject` (all of them; none clears).
    pub(super) fn report(&mut self, stats: &SourceStats, subject: &str, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.known.remove(subject);
            return;
        }
        let before = match self.known.entry(subject.to_owned()) {
            Entry::Occupied(mut known) => known.insert(problems.clone()),
            Entry::Vacant(free) => {
                free.insert(problems.clone());
                Vec::new()
            }
        };
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            SourceStats::add(&stats.problems);
            warn!(object = problem.object, field = problem.field, "{problem}");
        }
    }

    /// No object has a problem at present.
    pub(super) fn is_clean(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets the subjects that are gone.
    pub(super) fn retain(&mut self, mut still_there: impl FnMut(&str) -> bool) {
        self.known.retain(|subject, _| still_there(subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Problem {
        Problem { object: "Service a/b".into(), field: "spec.type".into(), message: message.into() }
    }

    #[test]
    fn a_problem_that_stays_is_counted_once() {
        let (mut reporter, stats) = (Reporter::default(), SourceStats::default());
        let count = || stats.problems.load(std::sync::atomic::Ordering::Relaxed);
        reporter.report(&stats, "x", vec![problem("one")]);
        reporter.report(&stats, "x", vec![problem("one")]);
        assert_eq!(count(), 1);
        reporter.report(&stats, "x", vec![problem("one"), problem("two")]);
        assert_eq!(count(), 2);
        reporter.report(&stats, "x", vec![]);
        reporter.report(&stats, "x", vec![problem("one")]);
        assert_eq!(count(), 3, "repaired and broken again is news");
    }

    #[test]
    fn the_text_names_object_and_field() {
        assert_eq!(problem("bad").to_string(), "Service a/b: spec.type: bad");
        let whole = Problem { field: String::new(), ..problem("bad") };
        assert_eq!(whole.to_string(), "Service a/b: bad");
    }
}
