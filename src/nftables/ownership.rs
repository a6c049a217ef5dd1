//! Who owns the tables.

use std::io;

use super::connection::{KernelAnswer, MessageError};
use super::lock::Lock;
use super::process::owner_in_words;
use super::{NftKernel, TRIAL_TABLE, encode, read, watch};
use crate::ffi::Scratch;
use crate::model::Family;
use crate::ruleset::{ChangedParts, KernelError, Op, TABLE_NAME};
use crate::wire::abi;
use crate::wire::batch::Batch;

/// Flags of a table that is ours as long as we live, and stays when we end.
pub(super) const OWNED_FLAGS: u32 = abi::table::F_OWNER | abi::table::F_PERSIST;

impl NftKernel {
    /// The flags to add our table with, whether it is new, ours already, or left behind by a process that ended. An error
    /// when another process owns it.
    pub(super) fn flags_for(&mut self, family: Family, deleted_before: bool) -> Result<u32, KernelError> {
        let wanted = self.wanted_flags()?;
        let existing = read::table_info(&mut self.connection, family, TABLE_NAME)?;
        let Some(info) = existing else { return Ok(wanted) };
        if let Some(owner) = info.owner.filter(|owner| *owner != self.connection.port_id()) {
            return Err(KernelError::Owned { family, owner: owner_in_words(owner) });
        }
        if deleted_before {
            return Ok(wanted);
        }
        let is_orphan = info.flags & OWNED_FLAGS == abi::table::F_PERSIST;
        // Flags other than the owner cannot change as long as the table lives.
        Ok(if is_orphan { info.flags | wanted } else { info.flags })
    }

    /// Where tables are not owned, has a thread listen for changes of our tables that others make in the network namespace
    /// of the calling thread, and says whether it does. `tell` is given the name of who it was and what was touched; `None`
    /// and everything when changes may have been missed. The thread ends when `tell` returns false.
    pub fn watch(
        &mut self,
        tell: impl FnMut(Option<String>, ChangedParts) -> bool + Send + 'static,
    ) -> Result<bool, KernelError> {
        if self.wanted_flags()? != 0 {
            return Ok(false);
        }
        let doing = "starting to listen for changes of the tables";
        watch::start(self.connection.port_id(), tell).map_err(|source| KernelError::Io { doing, source })?;
        Ok(true)
    }

    /// Whether this kernel can protect a table from other programs (Linux 6.9).
    pub fn can_own(&mut self) -> Result<bool, KernelError> {
        self.find_out_owning()
    }

    /// Who owns our table of a family, in words; `None` when there is no table, an empty text when nobody owns it.
    pub fn owner(&mut self, family: Family) -> Result<Option<String>, KernelError> {
        let info = read::table_info(&mut self.connection, family, TABLE_NAME)?;
        Ok(info.map(|info| info.owner.map(owner_in_words).unwrap_or_default()))
    }

    /// The other Portway that has the tables, as text; `None` when there is none.
    pub fn other_portway(&mut self) -> Result<Option<String>, KernelError> {
        for family in Family::ALL {
            if let Some(owner) = self.owner(family)?.filter(|owner| !owner.is_empty()) {
                return Ok(Some(owner));
            }
        }
        // Taken and released at once: no other Portway is to wait for a process that only asks.
        match Lock::default().take() {
            Ok(()) => Ok(None),
            Err(KernelError::Locked { holder }) => Ok(Some(holder)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn wanted_flags(&mut self) -> Result<u32, KernelError> {
        if !(self.options.owned && self.options.is_modern()) {
            return Ok(0);
        }
        let can_own = match self.can_own {
            Some(known) => known,
            None => self.find_out_owning()?,
        };
        self.can_own = Some(can_own);
        Ok(if can_own { OWNED_FLAGS } else { 0 })
    }

    pub(super) fn find_out_owning(&mut self) -> Result<bool, KernelError> {
        let mut batch = Batch::new(self.connection.next_seq(), Scratch::new());
        encode::write(&mut batch, 0, Family::Ipv4, TRIAL_TABLE, &Op::AddTable, OWNED_FLAGS, &[]);
        batch.finish(true);
        let doing = "finding out whether tables can be owned";
        match self.connection.send_batch(&batch).map_err(|source| KernelError::Io { doing, source })? {
            KernelAnswer::Done => Ok(true),
            KernelAnswer::Failed(MessageError { errno: libc::EOPNOTSUPP | libc::EINVAL, .. }) => {
                tracing::info!("this kernel cannot protect a table from other programs (Linux 6.9 can)");
                Ok(false)
            }
            KernelAnswer::Failed(failure) => {
                let ops = [(Family::Ipv4, Op::AddTable)];
                Err(self.refused(TRIAL_TABLE, &ops, &batch, &failure))
            }
            KernelAnswer::Unknown => {
                Err(KernelError::Io { doing, source: io::Error::from_raw_os_error(libc::ENOBUFS) })
            }
        }
    }
}
