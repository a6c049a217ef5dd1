//! Tables that are read while the lists of the API server are still on their way.

use super::Programmer;
use crate::model::Family;
use crate::ruleset::{Kernel, KernelError, Table};

impl<K: Kernel> Programmer<K> {
    /// Reads the tables that are there and that nobody but us can change from now on: a restart reads a million elements
    /// meanwhile. What fails here fails again when it matters.
    pub fn read_ahead(&mut self) {
        if self.mirror.is_some() || self.claim().is_err() {
            return;
        }
        for family in Family::ALL {
            if self.kernel.guards(family)
                && let Ok(Some(table)) = self.kernel.read(family)
            {
                self.ahead.insert(family, table);
            }
        }
    }

    /// The table of a family, as it was read ahead or as it is read now.
    pub(super) fn table_of(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        match self.ahead.remove(&family) {
            // Whoever took it from us may have changed it.
            Some(table) if self.kernel.guards(family) => Ok(Some(table)),
            _ => self.kernel.read(family),
        }
    }
}
