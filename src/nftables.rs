//! The kernel's side of the table: nf_tables over netlink.
//!
//! [`NftKernel`] holds one socket for life. A transaction is one `sendmsg` that the kernel applies whole or not at all.
//! Objects are built with libnftnl, elements (of which there can be a million) directly; `nft` is never run. What results
//! is what `nft` would have made, so any `nft` from 1.0.6 on can list it.
//!
//! A transaction is limited by the socket's send buffer, which is raised as needed: 1 GiB with CAP_NET_ADMIN in the first
//! user namespace, `net.core.wmem_max` elsewhere. Elements take 60 to 200 bytes each.

mod commit;
mod connection;
mod counters;
mod describe;
mod direct;
mod elements;
mod encode;
mod fast;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod lock;
mod ownership;
mod process;
pub(crate) mod read;
mod set;
mod side;
mod surplus;
mod watch;

use crate::ffi::Scratch;
use crate::model::Family;
use crate::ruleset::{
    Element, Elements, Kernel, KernelError, Op, Part, SetId, SetName, TABLE_NAME, Table, Transaction,
};
use crate::wire::abi;
pub(crate) use commit::CommitMode;
pub(crate) use connection::{Connection, KernelAnswer, RequestError, retry_interrupted};
pub use counters::{ElementCount, FrontendCount};
pub(crate) use describe::reason;
pub use direct::{DirectKernel, remove_direct_table};
pub use fast::{FastKernel, remove_fast_table};
use lock::Lock;
use read::ReadOptions;

/// A table to try things in; never committed.
pub(crate) const TRIAL_TABLE: &str = "portway-trial";
/// Attempts to delete what others delete at the same time.
const FORGET_TRIES: usize = 3;

/// How to work with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelOptions {
    /// Own the tables where the kernel can (Linux 6.9): as long as this process lives no other one can change them, and
    /// they stay in force when it ends.
    pub owned: bool,
    /// Use what Linux got after 5.15, where it is there. Off, the ways for older kernels are taken.
    #[cfg(any(test, feature = "testing"))]
    pub modern: bool,
}

impl KernelOptions {
    /// Whether to own the tables.
    pub fn new(owned: bool) -> Self {
        Self {
            owned,
            #[cfg(any(test, feature = "testing"))]
            modern: true,
        }
    }

    /// Whether to use what Linux got after 5.15.
    fn is_modern(self) -> bool {
        #[cfg(any(test, feature = "testing"))]
        return self.modern;
        #[cfg(not(any(test, feature = "testing")))]
        true
    }
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self::new(true)
    }
}

/// A connection to nf_tables in one network namespace.
pub struct NftKernel {
    pub(crate) connection: Connection,
    options: KernelOptions,
    /// Opened for reading only.
    read_only: bool,
    /// Whether tables can be owned; found out when first needed.
    can_own: Option<bool>,
    /// Whether elements can be deleted without being there; found out when first needed.
    can_destroy: Option<bool>,
    /// The kernel has refused an element because there is another one with its key: there may be more that we do not know.
    distrusts: bool,
    /// Keeps other Portways out where tables cannot be owned.
    lock: Lock,
    scratch: Option<Scratch>,
}

impl NftKernel {
    /// Connects in the network namespace of the calling thread, with default options.
    pub fn open() -> Result<Self, KernelError> {
        Self::open_with(KernelOptions::default())
    }

    /// Connects in the network namespace of the calling thread.
    pub fn open_with(options: KernelOptions) -> Result<Self, KernelError> {
        let connection = Connection::open()
            .map_err(|source| KernelError::Io { doing: "opening a netlink socket to nf_tables", source })?;
        Ok(Self {
            connection,
            options,
            read_only: false,
            can_own: None,
            can_destroy: None,
            distrusts: false,
            lock: Lock::default(),
            scratch: None,
        })
    }

    /// Connects for reading only: the owner of the tables does not matter then, and a table that its owner keeps changing
    /// can be read. What does not change meanwhile is right; of what changes the result has the state of some moment.
    pub fn open_to_read() -> Result<Self, KernelError> {
        let kernel = Self::open_with(KernelOptions::new(false))?;
        Ok(Self { read_only: true, ..kernel })
    }

    /// The number of the current generation: every committed transaction, of anybody in this network namespace, makes a
    /// new one.
    #[cfg(any(test, feature = "testing"))]
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        self.connection.generation().map_err(|error| error.into_kernel(connection::READING_GENERATION))
    }

    /// Deletes our tables, in both families, and nothing else; says in which families there was one.
    pub fn cleanup(&mut self) -> Result<Vec<Family>, KernelError> {
        // The trial table is never committed. One that exists was left by a bug.
        self.delete_tables(TRIAL_TABLE)?;
        self.delete_tables(TABLE_NAME)
    }

    /// Deletes the tables of a name in both families at once; says in which families there was one.
    pub(crate) fn delete_tables(&mut self, name: &str) -> Result<Vec<Family>, KernelError> {
        for _ in 0..FORGET_TRIES {
            let mut there = Vec::new();
            for family in Family::ALL {
                if read::table_info(&mut self.connection, family, name)?.is_some() {
                    there.push(family);
                }
            }
            let ops: Vec<_> = there.iter().map(|family| (*family, Op::DeleteTable)).collect();
            match self.commit(name, &ops, CommitMode::Commit) {
                Ok(()) => return Ok(there),
                // Somebody else has just deleted one of them.
                Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    /// Deletes the elements that exist, on kernels that refuse to delete others.
    fn forget_one_by_one(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        for _ in 0..FORGET_TRIES {
            let there = self.read_set(family, set.into())?;
            let list: Vec<_> = elements.iter().filter(|element| there.contains_key(&element.key)).cloned().collect();
            if list.is_empty() {
                return Ok(());
            }
            match self.commit(TABLE_NAME, &[(family, Op::DeleteElements(set.into(), list))], CommitMode::Commit) {
                Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                result => return result,
            }
        }
        for element in elements {
            let op = Op::DeleteElements(set.into(), vec![element.clone()]);
            match self.commit(TABLE_NAME, &[(family, op)], CommitMode::Commit) {
                Ok(()) | Err(KernelError::Refused { errno: libc::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Kernel for NftKernel {
    fn claim(&mut self) -> Result<(), KernelError> {
        if self.wanted_flags()? == 0 {
            self.lock.take()?;
        }
        let mut orphans = Vec::new();
        for family in Family::ALL {
            let info = read::table_info(&mut self.connection, family, TABLE_NAME)?;
            // Fails when another process owns the table.
            let flags = self.flags_for(family, false)?;
            if info.is_some_and(|info| info.flags != flags) {
                orphans.push((family, Op::AddTable));
            }
        }
        self.commit(TABLE_NAME, &orphans, CommitMode::Commit)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        if transaction.waits_for_packets() {
            self.wait_for_packets()?;
        }
        self.commit(TABLE_NAME, &transaction.ops, CommitMode::Commit)
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.wait_for_packets()
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        if self.read_only {
            return read::table_in_use(&mut self.connection, family, TABLE_NAME);
        }
        // A table without the flags of an owned one cannot get them: it has to be replaced.
        let want_flags = self.wanted_flags()? & abi::table::F_PERSIST;
        let options = ReadOptions { want_flags, list_all: self.distrusts, no_counts: !self.options.is_modern() };
        let table = read::table(&mut self.connection, family, TABLE_NAME, options)?;
        self.distrusts = false;
        Ok(table)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        read::part(&mut self.connection, family, TABLE_NAME, part)
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        if set.set.spec().dynamic && !self.read_only {
            // A packet that met the rules and elements of before may be about to write an affinity record.
            self.wait_for_packets()?;
        }
        read::elements(&mut self.connection, family, TABLE_NAME, set)
    }

    fn guards(&mut self, family: Family) -> bool {
        let info = read::table_info(&mut self.connection, family, TABLE_NAME).ok().flatten();
        info.is_some_and(|info| info.owner == Some(self.connection.port_id()))
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        if elements.is_empty() {
            return Ok(());
        }
        if self.options.is_modern() && self.can_destroy != Some(false) {
            let ops = [(family, Op::DeleteElements(set.into(), elements.to_vec()))];
            match self.commit(TABLE_NAME, &ops, CommitMode::CommitDestroy) {
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
