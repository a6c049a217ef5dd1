//! Has TCP connections to endpoints that are gone answered with a reset, for a while.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ExistingLayout;
use super::mirror::{FamilyMirror, Mirror};
use super::recorder::OpRecorder;
use crate::model::{Changes, Model};
use crate::plan::{Member, Target};
use crate::ruleset::ChainId;

impl Mirror {
    /// Takes note of which endpoints have left all slices, which have come back, and whose time is over. The next
    /// [`Mirror::update`] puts it into the tables.
    pub fn note_gone(&mut self, model: &Model, changes: &Changes, reset_for: Duration, now: Instant) {
        self.gone.expire(now);
        if !self.gone.is_empty() {
            for slice in changes.services.iter().flat_map(|service| model.slices(service)) {
                for (ip, port) in slice.tcp_targets() {
                    self.gone.remove(Target { ip, port });
                }
            }
        }
        if !reset_for.is_zero() {
            let departed = model.departed(changes).into_iter().map(|(ip, port)| Target { ip, port });
            self.gone.add(departed, now + reset_for);
        }
    }

    /// Goes on with the endpoints that the process before this one had in a table, their time beginning anew.
    pub fn adopt_gone(&mut self, existing: &ExistingLayout<'_>, model: &Model, reset_for: Duration, now: Instant) {
        if reset_for.is_zero() || existing.gone.is_empty() {
            return;
        }
        let mut gone = existing.gone.clone();
        gone.retain(|target| !model.has_tcp_target((target.ip, target.port)) && !self.gone.contains(*target));
        self.gone.add(gone, now + reset_for);
    }

    /// When the next endpoint is to be forgotten.
    pub fn forgets_at(&self) -> Option<Instant> {
        self.gone.next()
    }
}

impl FamilyMirror {
    /// Has the table of the family answer for these endpoints. The chains that do so are there as long as there is one.
    pub(super) fn update_gone(&mut self, gone: BTreeSet<Target>, recorder: &mut OpRecorder) {
        if gone == self.gone {
            return;
        }
        let before = std::mem::replace(&mut self.gone, gone);
        for target in before.difference(&self.gone) {
            recorder.delete_member(Member::gone(*target));
        }
        for target in self.gone.difference(&before) {
            recorder.add_member(Member::gone(*target));
        }
        for chain in ChainId::RESETS {
            match (before.is_empty(), self.gone.is_empty()) {
                (true, false) => self.chains.add(chain),
                (false, true) => self.chains.remove(chain),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "departures_tests.rs"]
mod tests;
