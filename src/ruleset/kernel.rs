//! The only interface to the kernel's tables. `nftables` implements it over netlink, `FakeKernel` (feature `testing`) in
//! memory.

use super::{Element, Elements, Part, SetId, SetName, Table, Transaction};
use crate::model::Family;

/// Programs tables and reads them back. Only tables named [`super::TABLE_NAME`] are ever touched or listed.
pub trait Kernel: Send {
    /// Takes over the tables that exist, without changing what is in them. Called before they are read to be changed;
    /// [`KernelError::is_taken`] when another process has them, which has to end first.
    fn claim(&mut self) -> Result<(), KernelError>;

    /// Makes all changes of a transaction take effect at once; where it deletes what packets can be led to
    /// ([`Transaction::waits_for_packets`]), not before no packet is being processed by rules of earlier transactions. On an error nothing has changed, except where
    /// [`KernelError::is_uncertain`] says that this is not known.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError>;

    /// Waits until no packet is being processed by rules of earlier transactions.
    fn settle(&mut self) -> Result<(), KernelError>;

    /// Reads our table of a family; `None` when there is none.
    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError>;

    /// Reads at least a part of our table of a family; `None` when that is not there, or not in one piece. Of sets with some
    /// touched keys come the elements with these keys; one that none of ours can be comes without a value.
    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError>;

    /// Reads the elements of one set or map of ours; those that packets write not before no packet is being processed by
    /// rules of earlier transactions.
    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError>;

    /// Whether, as long as we live, nobody but us can change our table of a family.
    fn guards(&mut self, family: Family) -> bool;

    /// Deletes elements of a map the packet path writes, whether or not they still exist.
    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError>;
}

/// Why the kernel could not do it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused one change; nothing was changed.
    #[error("the kernel refused {object}: {reason}")]
    Refused {
        /// Index into [`Transaction::ops`].
        op: usize,
        /// Index into the op's elements, when the kernel said which one.
        element: Option<usize>,
        /// The object in words, as `element 10.96.0.1 . tcp . 443 of map ip portway services`.
        object: String,
        /// The error, for people, with a hint where one is known.
        reason: String,
        /// The errno.
        errno: i32,
    },
    /// Another process owns the table.
    #[error("table {family} {name} is owned by another process{owner}: stop it first, or wait until it ends",
        family = family.nft(), name = super::TABLE_NAME)]
    Owned {
        /// Which table.
        family: Family,
        /// ` (portway, pid 123)`, when known.
        owner: String,
    },
    /// Another Portway programs tables that nobody can own.
    #[error("another Portway is at work in this network namespace{holder}: stop it first, or wait until it ends")]
    Locked {
        /// ` (portway, pid 123)`, when known.
        holder: String,
    },
    /// This process may not.
    #[error("needs root, or CAP_NET_ADMIN in this network namespace: the kernel refuses {doing}")]
    NotPermitted {
        /// What was being done.
        doing: &'static str,
    },
    /// Sending or receiving failed in a way that leaves open what the kernel did.
    #[error("lost touch with the kernel while {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("unreadable answer from the kernel while {doing}: {what}")]
    Garbled {
        /// What was being done.
        doing: &'static str,
        /// What was wrong.
        what: String,
    },
}

impl KernelError {
    /// Whether another process has the tables, and it is enough to wait until it ends.
    pub fn is_taken(&self) -> bool {
        matches!(self, KernelError::Owned { .. } | KernelError::Locked { .. })
    }

    /// Whether the transaction did not fit into the socket's buffer: a smaller one may.
    pub fn is_too_big(&self) -> bool {
        matches!(self, KernelError::Refused { errno: libc::EMSGSIZE, .. })
    }

    /// Whether the transaction may have taken effect although this error was returned: read back before going on.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, KernelError::Io { .. } | KernelError::Garbled { .. })
    }
}
