//! A sync: which families take part, and what follows success and failure.

use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::{Controller, Report, Synced};
use crate::model::{Changes, Family, ObjectKey};
use crate::programmer::{Failure, Sent};
use crate::ruleset::{Kernel, KernelError};

/// How many refused elements one sync tolerates (setting aside the Service of each) before it backs off.
const REFUSALS_MAX: usize = 8;
/// The most lines that one sync logs about what Services do not get: a Service can claim thousands of ports of another
/// one.
const OBJECTIONS_TOLD: usize = 20;

/// A sync that is going on.
struct Sync {
    start: Instant,
    /// When the oldest event it deals with arrived.
    received: Instant,
    changes: Changes,
    succeeded: bool,
    added: usize,
    deleted: usize,
}

impl<K: Kernel> Controller<K> {
    /// Has families whose table is known take over changes, when it is time or `at_once`, and tries those whose table is not.
    pub(super) fn sync(&mut self, now: Instant, at_once: bool) {
        if !self.is_ready() {
            return;
        }
        let knows_any = self.programmer.known().next().is_some();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let updates =
            knows_any && (at_once || is_due(self.schedule.update_at()) || is_due(self.programmer.forgets_at()));
        let due = |family: &Family| self.schedule.retry_at(*family).is_none_or(|at| at <= now);
        let mut rebuilds: Vec<Family> = self.unknown().filter(due).collect();
        if !rebuilds.is_empty() && !self.claim(&rebuilds) {
            rebuilds.clear();
        }
        if !updates && rebuilds.is_empty() {
            return;
        }
        if !rebuilds.is_empty() || !self.model.pending().is_empty() {
            self.tell(|observer| observer.requested());
        }
        let received = self.schedule.requested().unwrap_or(now);
        // A family that is retried alone leaves the changes to the other one, whose time has not come.
        let takes_changes = updates || !knows_any;
        let changes = if takes_changes { self.model.take_changes() } else { Changes::default() };
        if takes_changes {
            self.schedule.took_changes();
        }
        let start = Instant::now();
        let mut sync = Sync { start, received, changes, succeeded: false, added: 0, deleted: 0 };
        if updates {
            let settings = self.options.settings(&self.model);
            let results = self.programmer.update(&settings, &self.model, &sync.changes);
            self.report_objections();
            for (family, result) in results {
                self.conclude(family, result, false, &mut sync);
            }
        }
        if !knows_any {
            // The tables were read after whatever is in doubt.
            self.doubts.take();
        }
        for family in rebuilds {
            sync.start = Instant::now();
            let result = self.rebuild(family);
            self.conclude(family, result, true, &mut sync);
        }
        self.report(&sync);
    }

    /// Whether we may change the tables. If not, it is tried again soon: nothing announces when another process releases
    /// them.
    fn claim(&mut self, families: &[Family]) -> bool {
        match self.programmer.claim() {
            Ok(()) => {
                if self.taken.take().is_some() {
                    info!("the tables are free: taking over");
                }
                true
            }
            Err(cause) => {
                if !cause.is_taken() {
                    self.tell(|observer| observer.requested());
                }
                families.iter().for_each(|family| self.failed(*family, &cause, Duration::ZERO));
                false
            }
        }
    }

    fn rebuild(&mut self, family: Family) -> Result<Sent, Failure> {
        let settings = self.options.settings(&self.model);
        let result = self.programmer.rebuild(family, settings, &self.model);
        self.report_objections();
        result
    }

    fn report_objections(&mut self) {
        for (_, objections) in self.programmer.take_objections() {
            for objection in objections.iter().take(OBJECTIONS_TOLD) {
                warn!("{objection}");
            }
            let more = objections.len().saturating_sub(OBJECTIONS_TOLD);
            if more > 0 {
                warn!(more, "more of the kind; `portway faults` shows them");
            }
            self.tell(|observer| observer.objected(&objections));
        }
    }

    /// Handles the result of a family's sync. Where the kernel refused an element, goes on without its Service.
    fn conclude(&mut self, family: Family, mut result: Result<Sent, Failure>, rebuilt: bool, sync: &mut Sync) {
        let mut full = rebuilt;
        for _ in 0..REFUSALS_MAX {
            let Err(Failure { cause, blamed }) = &result else { break };
            if blamed.is_empty() {
                break;
            }
            // Before the table was read, the refusal may be due to a change by somebody else.
            if full {
                self.set_aside(family, blamed, cause);
            }
            full = true;
            result = self.rebuild(family);
        }
        match result {
            Ok(sent) => self.succeeded(family, &sent, full, sync),
            Err(Failure { cause, .. }) => self.failed(family, &cause, sync.start.elapsed()),
        }
    }

    /// One bad element must not keep all others out of the kernel: goes on without the Services it belongs to, until they
    /// change or the table is verified.
    fn set_aside(&mut self, family: Family, services: &[ObjectKey], cause: &KernelError) {
        for service in services {
            error!(%service, %family, %cause, "Service {service} is set aside: nothing of it is in force in {family} until it changes");
            self.model.set_aside(service.clone(), family, cause.to_string());
        }
    }

    fn succeeded(&mut self, family: Family, sent: &Sent, full: bool, sync: &mut Sync) {
        self.schedule.succeeded(family, Instant::now());
        sync.succeeded = true;
        sync.added += sent.added;
        sync.deleted += sent.deleted;
        if let Some(cause) = &sent.not_deleted {
            self.tell(|observer| observer.cleanup_failed(family, cause));
        }
        // A family that is not served must have no table, so there is nothing to report.
        let Some(mirror) = self.programmer.mirror().filter(|mirror| mirror.families().any(|f| f == family)) else {
            return;
        };
        let done = Synced {
            family,
            model: &self.model,
            mirror,
            changes: &sync.changes,
            full,
            elements: (sent.added, sent.deleted),
            transaction: &sent.changes,
            duration: sync.start.elapsed(),
        };
        self.observers.iter_mut().for_each(|observer| observer.synced(&done));
    }

    pub(super) fn failed(&mut self, family: Family, cause: &KernelError, duration: Duration) {
        let now = Instant::now();
        if cause.is_taken() {
            self.schedule.taken(family, now);
            return self.wait_for_others(cause);
        }
        self.tell(|observer| observer.failed(family, cause, duration));
        if let KernelError::Refused { errno: libc::ENFILE, .. } = cause {
            // Should not happen. If the kernel counts elements in another way than we do, a larger map helps.
            self.options.sizing.headroom = self.options.sizing.headroom.saturating_mul(2);
        }
        let wait = self.schedule.failed(family, now, duration);
        self.reports.send_modify(|report| report.failures = self.schedule.failures());
        error!(%family, %cause, retry_in = ?wait, "sync failed; the rules in the kernel stay as they are");
    }

    fn wait_for_others(&mut self, cause: &KernelError) {
        let words = cause.to_string();
        if self.taken.as_ref() != Some(&words) {
            warn!(%cause, "waiting; the rules in the kernel stay as they are");
            self.tell(|observer| observer.waiting(cause));
            self.taken = Some(words);
        }
    }

    fn report(&mut self, sync: &Sync) {
        let (services, latency) = (self.model.service_count(), sync.received.elapsed());
        let Sync { added, deleted, .. } = *sync;
        let failures = self.schedule.failures();
        if !sync.succeeded {
            return;
        }
        let mut first = false;
        self.reports.send_modify(|report| {
            first = report.syncs == 0;
            *report = Report { syncs: report.syncs + 1, services, added, deleted, latency, failures };
        });
        if first {
            info!(services, added, deleted, ?latency, "first sync done");
        }
        debug!(services, added, deleted, ?latency, "synced");
    }
}
