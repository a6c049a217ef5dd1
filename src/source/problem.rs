//! Faults in what users wrote: reported with object and field, counted, never fatal.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::outage::{Outage, Outages};
use crate::model::ObjectKey;

/// Something in an object or a file that cannot be used. The rest of the object stays in use unless the message says
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub struct Problem {
    /// Where it was read: `services.yaml:12`, `services.yaml`; absent for what an API server has.
    pub place: Option<String>,
    /// What has the fault; absent where no object could be read.
    pub subject: Option<Subject>,
    /// Path of the field, as `spec.externalIPs[1]`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what becomes of it.
    pub message: String,
}

/// An object, by what an operator would ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// `Service`, `EndpointSlice`, ...
    pub kind: String,
    /// Empty for kinds that have none.
    pub namespace: String,
    /// Empty for an object without a name.
    pub name: String,
}

impl Subject {
    /// An object; `namespace` is empty for kinds that have none.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Whether it is the object of this kind and key.
    pub fn is(&self, kind: &str, key: &ObjectKey) -> bool {
        self.kind == kind && self.namespace == key.namespace() && self.name == key.name()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => f.write_str(&self.kind),
            ("", name) => write!(f, "{} {name}", self.kind),
            (namespace, name) => write!(f, "{} {namespace}/{name}", self.kind),
        }
    }
}

impl Problem {
    /// A fault of a file, at a place in it.
    pub(super) fn at(place: impl Into<String>, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Some(place.into()), subject: None, field: field.into(), message: message.into() }
    }

    /// A fault of an object.
    pub(super) fn of(subject: Subject, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: None, subject: Some(subject), field: field.into(), message: message.into() }
    }

    /// Place and object, as far as they are known: `services.yaml:12: Service default/web`.
    pub fn object(&self) -> String {
        let subject = self.subject.as_ref().map(Subject::to_string);
        self.place.iter().cloned().chain(subject).collect::<Vec<_>>().join(": ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object())?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Counters of a source for metrics, which only grow, and what is wrong at present.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Problems reported; one that stays is counted once.
    pub problems: AtomicU64,
    /// Objects, documents or files that were left out as a whole.
    pub skipped: AtomicU64,
    /// Failed requests, watches and reads.
    pub errors: AtomicU64,
    /// Complete lists and reloads delivered.
    pub lists: AtomicU64,
    /// Where the objects are read: the API server's URL, or a folder.
    pub address: String,
    pub(super) outages: Outages,
    present: Mutex<BTreeMap<String, ObjectProblems>>,
}

/// The problems of an object or file.
#[derive(Debug, Default)]
struct ObjectProblems {
    problems: Vec<Problem>,
    /// Reported in the list that is being read, or known from a watch.
    is_seen: bool,
}

impl SourceStats {
    /// Of a source that reads there; nothing has happened yet.
    pub(super) fn of(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What is wrong at present, in the order of objects or files. What is mended or deleted is not among it any more.
    pub fn present(&self) -> Vec<Problem> {
        self.known().values().flat_map(|known| known.problems.iter().cloned()).collect()
    }

    /// What cannot be read at present; `None` when all can.
    pub fn outage(&self) -> Option<Outage> {
        self.outages.present()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, ObjectProblems>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the problems of an object once for each change of them, so that a resync or reload stays quiet, and keeps the
/// present ones where others can see them.
#[derive(Debug, Default)]
pub(super) struct Reporter;

impl Reporter {
    /// Takes the present problems of `subject` (all of them; none clears).
    pub(super) fn report(&mut self, stats: &SourceStats, subject: &str, problems: Vec<Problem>) {
        let mut known = stats.known();
        if problems.is_empty() {
            known.remove(subject);
            return;
        }
        let known = known.entry(subject.to_owned()).or_default();
        let before = std::mem::replace(&mut known.problems, problems);
        known.is_seen = true;
        for problem in known.problems.iter().filter(|problem| !before.contains(problem)) {
            SourceStats::add(&stats.problems);
            warn!(object = problem.object(), field = problem.field, "{problem}");
        }
    }

    /// No object has a problem at present.
    pub(super) fn is_clean(&self, stats: &SourceStats) -> bool {
        stats.known().is_empty()
    }

    /// A list of the subjects that begin so comes; it may not have all of them any more.
    pub(super) fn list_started(&mut self, stats: &SourceStats, prefix: &str) {
        let mut known = stats.known();
        let listed = known.iter_mut().filter(|(subject, _)| subject.starts_with(prefix));
        listed.for_each(|(_, known)| known.is_seen = false);
    }

    /// The list is complete: forgets the subjects that were not in it.
    pub(super) fn list_done(&mut self, stats: &SourceStats, prefix: &str) {
        stats.known().retain(|subject, known| known.is_seen || !subject.starts_with(prefix));
    }

    /// Forgets the subjects that are gone.
    pub(super) fn retain(&mut self, stats: &SourceStats, mut still_there: impl FnMut(&str) -> bool) {
        stats.known().retain(|subject, _| still_there(subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Problem {
        Problem::of(Subject::new("Service", "a", "b"), "spec.type", message)
    }

    #[test]
    fn a_problem_that_stays_is_counted_once() {
        let (mut reporter, stats) = (Reporter, SourceStats::default());
        let count = || stats.problems.load(Ordering::Relaxed);
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
    fn present_problems_go_when_they_are_mended_or_their_object_is() {
        let (mut reporter, stats) = (Reporter, SourceStats::default());
        let present = || stats.present().iter().map(|problem| problem.message.clone()).collect::<Vec<_>>();
        for subject in ["services a", "services b", "nodes n"] {
            reporter.report(&stats, subject, vec![problem(subject)]);
        }
        assert_eq!(present(), ["nodes n", "services a", "services b"]);
        reporter.report(&stats, "services a", Vec::new());
        assert_eq!(present(), ["nodes n", "services b"], "mended");
        // A list after an outage, in which `services b` was deleted.
        reporter.report(&stats, "services a", vec![problem("services a")]);
        reporter.list_started(&stats, "services ");
        reporter.report(&stats, "services a", vec![problem("services a")]);
        assert_eq!(present(), ["nodes n", "services a", "services b"], "until the list is complete");
        reporter.list_done(&stats, "services ");
        assert_eq!(present(), ["nodes n", "services a"]);
        assert_eq!(stats.problems.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn the_text_names_object_and_field() {
        assert_eq!(problem("bad").to_string(), "Service a/b: spec.type: bad");
        let whole = Problem { field: String::new(), ..problem("bad") };
        assert_eq!(whole.to_string(), "Service a/b: bad");
        let in_file = Problem { place: Some("x.yaml:3".into()), ..whole };
        assert_eq!(in_file.to_string(), "x.yaml:3: Service a/b: bad");
        assert_eq!(Problem::at("x.yaml", "", "bad").to_string(), "x.yaml: bad");
    }
}
