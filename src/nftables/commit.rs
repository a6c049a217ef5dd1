//! Committing a transaction, and what an error of the kernel is about.

use std::io;

use super::connection::{KernelAnswer, MessageError};
use super::elements::{self, ElementAction};
use super::process::owner_in_words;
use super::{NftKernel, TRIAL_TABLE, describe, encode, read, surplus};
use crate::ffi::Scratch;
use crate::model::Family;
use crate::ruleset::{Element, KernelError, Op, SetName, TABLE_NAME};
use crate::wire::batch::Batch;

/// What one commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitMode {
    Commit,
    /// As [`CommitMode::Commit`], but deleting an element that is not there is no error.
    CommitDestroy,
    /// Have the kernel check everything, change nothing.
    Trial,
}

impl NftKernel {
    /// Has the kernel check a transaction without applying it. Two things only a commit finds: expressions that are not
    /// allowed in the hook they can be reached from, and a table that somebody changed meanwhile.
    #[cfg(any(test, feature = "testing"))]
    pub fn check(&mut self, transaction: &crate::ruleset::Transaction) -> Result<(), KernelError> {
        self.commit(TABLE_NAME, &transaction.ops, CommitMode::Trial)
    }

    pub(crate) fn commit(&mut self, table: &str, ops: &[(Family, Op)], mode: CommitMode) -> Result<(), KernelError> {
        if ops.is_empty() {
            return Ok(());
        }
        let doing = "committing a transaction";
        let batch = self.encode(table, ops, mode)?;
        // An error before anything was sent concerns the whole transaction.
        let whole = |errno| MessageError { seq: batch.next_seq(), errno, offset: None, words: None };
        let answer = match self.connection.send_batch(&batch) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => KernelAnswer::Failed(whole(libc::EMSGSIZE)),
            Err(source) => return Err(KernelError::Io { doing, source }),
        };
        let result = match answer {
            KernelAnswer::Done => Ok(()),
            KernelAnswer::Failed(failure) => Err(self.refused(table, ops, &batch, &failure)),
            KernelAnswer::Unknown => {
                // Lost for want of memory. The generation does not tell: it may be another program's.
                let source = io::Error::from_raw_os_error(libc::ENOBUFS);
                Err(KernelError::Io { doing, source })
            }
        };
        self.scratch = Some(batch.into_scratch());
        result
    }

    pub(super) fn encode(&mut self, table: &str, ops: &[(Family, Op)], mode: CommitMode) -> Result<Batch, KernelError> {
        let mut surplus = Vec::with_capacity(ops.len());
        for (index, change) in ops.iter().enumerate() {
            surplus.push(surplus::handles(&mut self.connection, table, index, change)?);
        }
        let scratch = self.scratch.take().unwrap_or_else(Scratch::new);
        let mut batch = Batch::new(self.connection.next_seq(), scratch);
        let mut deleted = Vec::new();
        for (index, (family, op)) in ops.iter().enumerate() {
            let flags = match op {
                Op::AddTable if table == TABLE_NAME => self.flags_for(*family, deleted.contains(family))?,
                _ => 0,
            };
            match op {
                Op::DeleteTable => deleted.push(*family),
                Op::DeleteElements(set, list) if mode == CommitMode::CommitDestroy => {
                    elements::write(&mut batch, index, (*family, table, *set), ElementAction::Destroy, list);
                    continue;
                }
                _ => {}
            }
            encode::write(&mut batch, index, *family, table, op, flags, &surplus[index]);
        }
        batch.finish(mode == CommitMode::Trial);
        Ok(batch)
    }

    /// Waits until no packet is being processed by rules that were replaced: these may name maps that are to be deleted,
    /// and the elements of a deleted map go out of force for all packets at once. A commit does not wait for that, but a
    /// transaction that is not committed does: it ends with `synchronize_rcu` (`__nf_tables_abort`), and a packet passes
    /// its hooks in one RCU read-side section.
    ///
    /// Not so a packet that another program queues between two hooks (NFQUEUE), and perhaps an IPv4 UDP packet of this
    /// host itself. Such a packet can write an affinity record for an endpoint that is gone;
    /// [`crate::programmer::Programmer::forget_orphans`] deletes it within the hour.
    pub(super) fn wait_for_packets(&mut self) -> Result<(), KernelError> {
        self.commit(TRIAL_TABLE, &[(Family::Ipv4, Op::AddTable)], CommitMode::Trial)
    }

    /// The error for what the kernel said.
    pub(super) fn refused(
        &mut self,
        table: &str,
        ops: &[(Family, Op)],
        batch: &Batch,
        failure: &MessageError,
    ) -> KernelError {
        let MessageError { seq, errno, offset, words } = failure;
        let origin = batch.origin(*seq);
        let change = origin.and_then(|origin| ops.get(origin.op));
        self.distrusts |= matches!((*errno, change), (libc::EEXIST | libc::EBUSY, Some((_, Op::AddElements(..)))));
        if let (libc::EPERM, Some((family, _))) = (*errno, change) {
            let info = read::table_info(&mut self.connection, *family, table).ok().flatten();
            let owner = info.and_then(|info| info.owner).filter(|owner| *owner != self.connection.port_id());
            if let Some(owner) = owner {
                return KernelError::Owned { family: *family, owner: owner_in_words(owner) };
            }
        }
        let offset = offset.filter(|_| self.options.is_modern());
        let element = origin.and_then(|origin| batch.element_at(origin, offset?));
        let element = element.or_else(|| self.find_element(table, ops, origin?.op));
        KernelError::Refused {
            op: origin.map_or(ops.len(), |origin| origin.op),
            element,
            object: change.map_or_else(
                || "the transaction as a whole".to_owned(),
                |(family, op)| describe::object(*family, table, op, element),
            ),
            reason: describe::reason(*errno, words.as_deref(), change.map(|(_, op)| op)),
            errno: *errno,
        }
    }

    /// Which element of a change the kernel refuses, where it does not say (before Linux 6.0): has it check them one by
    /// one.
    pub(super) fn find_element(&mut self, table: &str, ops: &[(Family, Op)], op: usize) -> Option<usize> {
        let (family, change) = ops.get(op)?;
        let (set, list, one): (_, _, fn(SetName, Vec<Element>) -> Op) = match change {
            Op::AddElements(set, list) => (set, list, Op::AddElements),
            Op::DeleteElements(set, list) => (set, list, Op::DeleteElements),
            _ => return None,
        };
        if list.len() == 1 {
            return Some(0);
        }
        let mut split = ops[..op].to_vec();
        split.extend(list.iter().map(|element| (*family, one(*set, vec![element.clone()]))));
        match self.commit(table, &split, CommitMode::Trial) {
            Err(KernelError::Refused { op: found, .. }) => found.checked_sub(op),
            _ => None,
        }
    }
}
