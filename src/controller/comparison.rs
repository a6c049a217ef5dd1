//! Comparing the kernel with the mirror, because somebody else may have changed the tables, and once in a while.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::{debug, warn};

use super::doubt::Doubt;
use super::{Controller, Repair};
use crate::programmer::Failure;
use crate::ruleset::{ChangedParts, Kernel};

impl<K: Kernel> Controller<K> {
    /// Reads the tables back and repairs what differs from the mirror.
    pub fn verify(&mut self) {
        let by = self.doubts.take().and_then(|doubt| doubt.by);
        self.compare(Doubt { by, touched: ChangedParts::Everything });
    }

    /// Reads back what others are reported to have touched, and repairs what differs from the mirror.
    pub fn check_doubts(&mut self) {
        if let Some(doubt) = self.doubts.take() {
            self.compare(doubt);
        }
    }

    fn compare(&mut self, doubt: Doubt) {
        let start = Instant::now();
        let (mut repair, mut repaired, mut loaded, mut whole) =
            (Repair { by: doubt.by, ..Repair::default() }, false, false, BTreeSet::new());
        for family in self.programmer.known() {
            let part = match &doubt.touched {
                ChangedParts::Everything => None,
                ChangedParts::Parts(parts) => match parts.get(&family) {
                    None => continue,
                    part => part,
                },
            };
            let begin = Instant::now();
            match self.programmer.compare(family, part) {
                Ok((sent, read_all)) => {
                    whole.extend(read_all.then_some(family));
                    repaired |= !sent.is_nothing();
                    loaded |= sent.loaded;
                    repair.added += sent.added;
                    repair.deleted += sent.deleted;
                }
                Err(Failure { cause, .. }) => {
                    // The table may be wrong, so a sync is due from now on; health measures how long that takes.
                    self.tell(|observer| observer.requested());
                    self.failed(family, &cause, begin.elapsed());
                    whole.insert(family);
                }
            }
        }
        if repaired {
            warn!(took = ?start.elapsed(), ?whole, "the tables were {repair}");
            self.tell(|observer| observer.repaired(&repair));
        } else {
            debug!(took = ?start.elapsed(), ?whole, "the tables are as they should be");
        }
        let end = Instant::now();
        self.limiter.ran(start, end, loaded);
        if matches!(doubt.touched, ChangedParts::Everything) || !whole.is_empty() {
            self.verified = end;
            self.release();
        }
    }

    /// Once in a while. A table that only we can change is as we left it: listing it would cost seconds at worst. Services
    /// that were set aside get another chance.
    pub(super) fn look_after(&mut self) {
        if !self.programmer.guards_all() {
            return self.verify();
        }
        let start = Instant::now();
        self.verified = start;
        for family in self.programmer.known() {
            if let Err(Failure { cause, .. }) = self.programmer.forget_orphans(family) {
                self.failed(family, &cause, start.elapsed());
            }
        }
        self.release();
    }

    /// Gives Services that were set aside another chance.
    fn release(&mut self) {
        if self.model.all_set_aside().len() > 0 {
            self.model.release();
            self.sync(Instant::now(), true);
        }
    }
}
