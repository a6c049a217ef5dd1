//! The kernel's side of the table: nf_tables over netlink.
//!
//! [`NftKernel`] holds one socket for life. A transaction is one `sendmsg` that the kernel applies whole or not at all.
//! Objects are built with libnftnl, elements (of which there can be a million) directly; `nft` is never run. What results
//! is what `nft` would have made, so any `nft` from 1.0.6 on can list it.
//!
//! A transaction is limited by the socket's send buffer, which is raised as needed: 1 GiB with CAP_NET_ADMIN in the first
//! user namespace, `net.core.wmem_max` elsewhere. Elements take 60 to 200 bytes each.

mod abi;
pub(crate) mod attr;
mod batch;
mod counters;
mod declare;
mod elements;
mod expr;
mod ffi;
mod filters;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod holder;
mod leftovers;
mod link;
mod lock;
mod lookup;
pub(crate) mod message;
mod neighbours;
mod objects;
mod preflight;
mod read;
pub(crate) mod socket;
mod watch;
mod words;

use std::io;

use crate::model::Family;
use crate::ruleset::{
    Element, Elements, Kernel, KernelError, Op, Part, SetId, SetName, TABLE_NAME, Table, Touched, Transaction,
};

use batch::Batch;
pub use counters::{Counted, FrontendCount};
use elements::Action;
use ffi::Scratch;
pub use filters::ForwardFilter;
use holder::owner_in_words;
pub use leftovers::Leftovers;
use link::{Answer, Failure, Link};
use lock::Lock;
pub use neighbours::BaseChain;
pub use preflight::{Feature, Missing};

/// A table to try things in; never committed.
const TRIAL_TABLE: &str = "portway-trial";
/// Attempts to delete what others delete at the same time.
const FORGET_TRIES: usize = 3;

/// How to work with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Own the tables where the kernel can (Linux 6.9): as long as this process lives no other one can change them, and
    /// they stay in force when it ends.
    pub owned: bool,
    /// Use what Linux got after 5.15, where it is there. Off, the ways for older kernels are taken (for tests).
    pub modern: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { owned: true, modern: true }
    }
}

/// Has all threads of the process allocate from one heap, which takes a sixth less memory. Call it while there is one thread.
/// Here because it takes a call of the C library.
pub fn use_one_heap() {
    ffi::use_one_heap();
}

/// Gives memory that is free back to the system. Here because it takes a call of the C library.
pub fn give_back_memory() {
    ffi::give_back_memory();
}

/// What one commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Commit,
    /// As [`Mode::Commit`], but deleting an element that is not there is no error.
    CommitDestroy,
    /// Have the kernel check everything, change nothing.
    Trial,
}

/// The door to nf_tables in one network namespace.
pub struct NftKernel {
    link: Link,
    options: Options,
    /// Opened to look only.
    looks_only: bool,
    /// Whether tables can be owned; found out when first needed.
    can_own: Option<bool>,
    /// Whether elements can be deleted without being there; found out when first needed.
    can_destroy: Option<bool>,
    /// Keeps other Portways out where tables cannot be owned.
    lock: Lock,
    scratch: Option<Scratch>,
}

impl NftKernel {
    /// Opens the door in the network namespace of the calling thread, with default options.
    pub fn open() -> Result<Self, KernelError> {
        Self::open_with(Options::default())
    }

    /// Opens the door in the network namespace of the calling thread.
    pub fn open_with(options: Options) -> Result<Self, KernelError> {
        let link = Link::open()
            .map_err(|source| KernelError::Io { doing: "opening a netlink socket to nf_tables", source })?;
        Ok(Self {
            link,
            options,
            looks_only: false,
            can_own: None,
            can_destroy: None,
            lock: Lock::default(),
            scratch: None,
        })
    }

    /// Opens the door to look only: whose tables they are does not matter then, and a table that somebody keeps changing can
    /// be read. What they leave alone meanwhile is right; of what they change comes what was there at some moment.
    pub fn open_to_read() -> Result<Self, KernelError> {
        let kernel = Self::open_with(Options { owned: false, ..Options::default() })?;
        Ok(Self { looks_only: true, ..kernel })
    }

    /// The number of the current generation: every committed transaction, of anybody in this network namespace, makes a
    /// new one.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        self.link.generation().map_err(|error| error.into_kernel(link::READING_GENERATION))
    }

    /// Has the kernel check a transaction without applying it. Two things only a commit finds: expressions that are not
    /// allowed in the hook they can be reached from, and a table that somebody changed meanwhile.
    pub fn check(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        self.commit(TABLE_NAME, &transaction.ops, Mode::Trial)
    }

    /// Deletes our tables, in both families, and nothing else; says in which families there was one.
    pub fn cleanup(&mut self) -> Result<Vec<Family>, KernelError> {
        // Never committed; one that is there is a bug's, or not ours to keep all the same.
        self.delete_tables(TRIAL_TABLE)?;
        self.delete_tables(TABLE_NAME)
    }

    /// Deletes the tables of a name in both families at once; says in which families there was one.
    fn delete_tables(&mut self, name: &str) -> Result<Vec<Family>, KernelError> {
        for _ in 0..FORGET_TRIES {
            let mut there = Vec::new();
            for family in Family::ALL {
                if read::table_info(&mut self.link, family, name)?.is_some() {
                    there.push(family);
                }
            }
            let ops: Vec<_> = there.iter().map(|family| (*family, Op::DeleteTable)).collect();
            match self.commit(name, &ops, Mode::Commit) {
                Ok(()) => return Ok(there),
                // Somebody else was quicker with one of them.
                Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    fn commit(&mut self, table: &str, ops: &[(Family, Op)], mode: Mode) -> Result<(), KernelError> {
        if ops.is_empty() {
            return Ok(());
        }
        let doing = "committing a transaction";
        let batch = self.encode(table, ops, mode)?;
        // An error before anything was sent is about the whole.
        let whole = |errno| Failure { seq: batch.next_seq(), errno, offset: None, words: None };
        let answer = match self.link.send_batch(&batch) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Answer::Failed(whole(libc::EMSGSIZE)),
            Err(source) => return Err(KernelError::Io { doing, source }),
        };
        let result = match answer {
            Answer::Done => Ok(()),
            Answer::Failed(failure) => Err(self.refused(table, ops, &batch, &failure)),
            Answer::Unknown => {
                // Lost for want of memory. The generation does not tell: it may be another program's.
                let source = io::Error::from_raw_os_error(libc::ENOBUFS);
                Err(KernelError::Io { doing, source })
            }
        };
        self.scratch = Some(batch.into_scratch());
        result
    }

    fn encode(&mut self, table: &str, ops: &[(Family, Op)], mode: Mode) -> Result<Batch, KernelError> {
        let scratch = self.scratch.take().unwrap_or_else(Scratch::new);
        let mut batch = Batch::new(self.link.next_seq(), scratch);
        let mut deleted = Vec::new();
        for (index, (family, op)) in ops.iter().enumerate() {
            let flags = match op {
                Op::AddTable if table == TABLE_NAME => self.flags_for(*family, deleted.contains(family))?,
                _ => 0,
            };
            match op {
                Op::DeleteTable => deleted.push(*family),
                Op::DeleteElements(set, list) if mode == Mode::CommitDestroy => {
                    elements::write(&mut batch, index, (*family, table, *set), Action::Destroy, list);
                    continue;
                }
                _ => {}
            }
            objects::write(&mut batch, index, *family, table, op, flags);
        }
        batch.finish(mode == Mode::Trial);
        Ok(batch)
    }

    /// The flags to add our table with: new, ours already, left behind by a process that ended, or somebody's.
    fn flags_for(&mut self, family: Family, deleted_before: bool) -> Result<u32, KernelError> {
        let wanted = self.wanted_flags()?;
        let existing = read::table_info(&mut self.link, family, TABLE_NAME)?;
        let Some(info) = existing else { return Ok(wanted) };
        if let Some(owner) = info.owner.filter(|owner| *owner != self.link.port_id()) {
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
        tell: impl FnMut(Option<String>, Touched) -> bool + Send + 'static,
    ) -> Result<bool, KernelError> {
        if self.wanted_flags()? != 0 {
            return Ok(false);
        }
        let doing = "starting to listen for changes of the tables";
        watch::start(self.link.port_id(), tell).map_err(|source| KernelError::Io { doing, source })?;
        Ok(true)
    }

    /// Whether this kernel can protect a table from other programs (Linux 6.9).
    pub fn can_own(&mut self) -> Result<bool, KernelError> {
        self.find_out_owning()
    }

    /// Who owns our table of a family, in words; `None` when there is no table, an empty text when nobody owns it.
    pub fn owner(&mut self, family: Family) -> Result<Option<String>, KernelError> {
        let info = read::table_info(&mut self.link, family, TABLE_NAME)?;
        Ok(info.map(|info| info.owner.map(owner_in_words).unwrap_or_default()))
    }

    /// Who of other Portways has the tables, in words; `None` when nobody has them.
    pub fn other_portway(&mut self) -> Result<Option<String>, KernelError> {
        for family in Family::ALL {
            if let Some(owner) = self.owner(family)?.filter(|owner| !owner.is_empty()) {
                return Ok(Some(owner));
            }
        }
        // Taken and given back: nobody is to wait for who only asks.
        match Lock::default().take() {
            Ok(()) => Ok(None),
            Err(KernelError::Locked { holder }) => Ok(Some(holder)),
            Err(error) => Err(error),
        }
    }

    fn wanted_flags(&mut self) -> Result<u32, KernelError> {
        if !(self.options.owned && self.options.modern) {
            return Ok(0);
        }
        let can_own = match self.can_own {
            Some(known) => known,
            None => self.find_out_owning()?,
        };
        self.can_own = Some(can_own);
        Ok(if can_own { OWNED_FLAGS } else { 0 })
    }

    fn find_out_owning(&mut self) -> Result<bool, KernelError> {
        let mut batch = Batch::new(self.link.next_seq(), Scratch::new());
        objects::write(&mut batch, 0, Family::Ipv4, TRIAL_TABLE, &Op::AddTable, OWNED_FLAGS);
        batch.finish(true);
        let doing = "finding out whether tables can be owned";
        match self.link.send_batch(&batch).map_err(|source| KernelError::Io { doing, source })? {
            Answer::Done => Ok(true),
            Answer::Failed(Failure { errno: libc::EOPNOTSUPP | libc::EINVAL, .. }) => {
                tracing::info!("this kernel cannot protect a table from other programs (Linux 6.9 can)");
                Ok(false)
            }
            Answer::Failed(failure) => {
                let ops = [(Family::Ipv4, Op::AddTable)];
                Err(self.refused(TRIAL_TABLE, &ops, &batch, &failure))
            }
            Answer::Unknown => Err(KernelError::Io { doing, source: io::Error::from_raw_os_error(libc::ENOBUFS) }),
        }
    }

    /// Waits until no packet walks rules that were replaced before: they may name maps that are to be deleted, and the
    /// elements of these go out of force for all packets at once. A commit does not wait for that, but a transaction that
    /// is not committed does: it ends with `synchronize_rcu` (`__nf_tables_abort`), and packets are handled in one RCU
    /// read-side section.
    fn wait_for_packets(&mut self) -> Result<(), KernelError> {
        self.commit(TRIAL_TABLE, &[(Family::Ipv4, Op::AddTable)], Mode::Trial)
    }

    /// The error for what the kernel said.
    fn refused(&mut self, table: &str, ops: &[(Family, Op)], batch: &Batch, failure: &Failure) -> KernelError {
        let Failure { seq, errno, offset, words } = failure;
        let origin = batch.origin(*seq);
        let change = origin.and_then(|origin| ops.get(origin.op));
        if let (libc::EPERM, Some((family, _))) = (*errno, change) {
            let info = read::table_info(&mut self.link, *family, table).ok().flatten();
            let owner = info.and_then(|info| info.owner).filter(|owner| *owner != self.link.port_id());
            if let Some(owner) = owner {
                return KernelError::Owned { family: *family, owner: owner_in_words(owner) };
            }
        }
        let offset = offset.filter(|_| self.options.modern);
        let element = origin.and_then(|origin| batch.element_at(origin, offset?));
        let element = element.or_else(|| self.find_element(table, ops, origin?.op));
        KernelError::Refused {
            op: origin.map_or(ops.len(), |origin| origin.op),
            element,
            object: change.map_or_else(
                || "the transaction as a whole".to_owned(),
                |(family, op)| words::object(*family, table, op, element),
            ),
            reason: words::reason(*errno, words.as_deref(), change.map(|(_, op)| op)),
            errno: *errno,
        }
    }

    /// Which element of a change the kernel refuses, where it does not say (before Linux 6.0): has it check them one by
    /// one.
    fn find_element(&mut self, table: &str, ops: &[(Family, Op)], op: usize) -> Option<usize> {
        let (family, Op::AddElements(set, list)) = ops.get(op)? else { return None };
        if list.len() == 1 {
            return Some(0);
        }
        let mut split = ops[..op].to_vec();
        split.extend(list.iter().map(|element| (*family, Op::AddElements(*set, vec![element.clone()]))));
        match self.commit(table, &split, Mode::Trial) {
            Err(KernelError::Refused { op: found, .. }) => found.checked_sub(op),
            _ => None,
        }
    }

    /// Deletes what is there at the moment, on kernels that make an error of what is not.
    fn forget_one_by_one(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        for _ in 0..FORGET_TRIES {
            let there = self.read_set(family, set.into())?;
            let list: Vec<_> = elements.iter().filter(|element| there.contains_key(&element.key)).cloned().collect();
            if list.is_empty() {
                return Ok(());
            }
            match self.commit(TABLE_NAME, &[(family, Op::DeleteElements(set.into(), list))], Mode::Commit) {
                Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                result => return result,
            }
        }
        for element in elements {
            let op = Op::DeleteElements(set.into(), vec![element.clone()]);
            match self.commit(TABLE_NAME, &[(family, op)], Mode::Commit) {
                Ok(()) | Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Flags of a table that is ours as long as we live, and stays when we end.
const OWNED_FLAGS: u32 = abi::table::F_OWNER | abi::table::F_PERSIST;

impl Kernel for NftKernel {
    fn claim(&mut self) -> Result<(), KernelError> {
        if self.wanted_flags()? == 0 {
            self.lock.take()?;
        }
        let mut orphans = Vec::new();
        for family in Family::ALL {
            let info = read::table_info(&mut self.link, family, TABLE_NAME)?;
            // Fails when it is somebody's.
            let flags = self.flags_for(family, false)?;
            if info.is_some_and(|info| info.flags != flags) {
                orphans.push((family, Op::AddTable));
            }
        }
        self.commit(TABLE_NAME, &orphans, Mode::Commit)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        if transaction.ops.iter().any(|(_, op)| matches!(op, Op::DeleteSet(_))) {
            self.wait_for_packets()?;
        }
        self.commit(TABLE_NAME, &transaction.ops, Mode::Commit)
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        if self.looks_only {
            return read::table_in_use(&mut self.link, family, TABLE_NAME);
        }
        // A table that could be protected but is not can only be replaced.
        let flags = self.wanted_flags()? & abi::table::F_PERSIST;
        read::table(&mut self.link, family, TABLE_NAME, flags)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        read::part(&mut self.link, family, TABLE_NAME, part)
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        if set.set.spec().dynamic && !self.looks_only {
            // A packet that still walks what was replaced may be about to write one of its records.
            self.wait_for_packets()?;
        }
        read::elements(&mut self.link, family, TABLE_NAME, set)
    }

    fn guards(&mut self, family: Family) -> bool {
        let info = read::table_info(&mut self.link, family, TABLE_NAME).ok().flatten();
        info.is_some_and(|info| info.owner == Some(self.link.port_id()))
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        if elements.is_empty() {
            return Ok(());
        }
        if self.options.modern && self.can_destroy != Some(false) {
            let ops = [(family, Op::DeleteElements(set.into(), elements.to_vec()))];
            match self.commit(TABLE_NAME, &ops, Mode::CommitDestroy) {
                Ok(()) => {
                    self.can_destroy = Some(true);
                    return Ok(());
                }
                // The message is unknown before Linux 6.3.
                Err(KernelError::Refused { errno: libc::EINVAL | libc::EOPNOTSUPP, .. })
                    if self.can_destroy.is_none() =>
                {
                    self.can_destroy = Some(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.forget_one_by_one(family, set, elements)
    }
}
