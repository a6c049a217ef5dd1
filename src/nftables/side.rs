//! A table beside those of `ip` and `ip6`, on a connection of its own, so that no failure there concerns the others.
//!
//! A table that is owned (Linux 6.9) nobody else can change.

use std::io;

use super::connection::{KernelAnswer, MessageError, RequestError};
use super::process::owner_in_words;
use super::{KernelOptions, NftKernel, describe, ownership};
use crate::ffi::Scratch;
use crate::ruleset::{KernelError, TABLE_NAME};
use crate::wire::abi::{self, msg};
use crate::wire::attr::{self, Attrs};
use crate::wire::batch::Batch;

/// The family of such a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct SideFamily {
    /// `NFPROTO_*`.
    pub(super) nfproto: u8,
    /// As `nft` calls it.
    pub(super) name: &'static str,
    /// What is being done, for errors.
    pub(super) looking: &'static str,
    /// The same of transactions.
    pub(super) committing: &'static str,
}

/// The connection for the table `portway` of one family.
pub(super) struct SideTable {
    pub(super) kernel: NftKernel,
    family: SideFamily,
}

/// What tells the table from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    handle: u64,
    /// How many objects it has.
    pub(super) uses: u32,
}

/// A table in the kernel.
pub(super) struct Found {
    flags: u32,
    owner: Option<u32>,
    pub(super) made: Made,
}

impl SideTable {
    /// Connects in the network namespace of the calling thread.
    pub(super) fn open(options: KernelOptions, family: SideFamily) -> Result<Self, KernelError> {
        Ok(Self { kernel: NftKernel::open_with(options)?, family })
    }

    /// Takes over the table where there is one.
    pub(super) fn claim(&mut self) -> Result<(), KernelError> {
        if let (Some(flags), _) = self.flags()? {
            let mut batch = self.writer(TABLE_NAME);
            batch.table(msg::NEWTABLE, flags);
            self.send(batch)?;
        }
        Ok(())
    }

    /// Deletes the table; whether there was one.
    pub(super) fn remove(&mut self) -> Result<bool, KernelError> {
        let (Some(flags), _) = self.flags()? else { return Ok(false) };
        let mut batch = self.writer(TABLE_NAME);
        batch.table(msg::NEWTABLE, flags);
        batch.table(msg::DELTABLE, 0);
        self.send(batch)?;
        Ok(true)
    }

    /// The flags an existing table is to be taken over with, and those of a new one. An error where another process owns it.
    pub(super) fn flags(&mut self) -> Result<(Option<u32>, u32), KernelError> {
        // First, because it says who may not ask.
        let found = self.find()?;
        let wanted = self.kernel.wanted_flags()?;
        let Some(found) = found else { return Ok((None, wanted)) };
        if let Some(owner) = found.owner.filter(|owner| *owner != self.kernel.connection.port_id()) {
            let reason = format!("owned by another process{}", owner_in_words(owner));
            return Err(self.refused("the table", reason, libc::EPERM));
        }
        let is_orphan = found.flags & ownership::OWNED_FLAGS == abi::table::F_PERSIST;
        Ok((Some(if is_orphan { found.flags | wanted } else { found.flags }), wanted))
    }

    /// Whether this process owns a table that was found.
    pub(super) fn owns(&self, found: &Found) -> bool {
        found.owner == Some(self.kernel.connection.port_id())
    }

    /// Looks for the table.
    pub(super) fn find(&mut self) -> Result<Option<Found>, KernelError> {
        let found = self.kernel.connection.get(
            msg::GETTABLE,
            self.family.nfproto,
            |buf| attr::put_str(buf, abi::table::NAME, TABLE_NAME),
            |message| {
                let attrs = &message.attrs;
                let handle = attrs.find_kind(abi::table::HANDLE).and_then(|attr| attr.u64()).unwrap_or(0);
                let made = Made { handle, uses: attrs.u32_of(abi::table::USE).unwrap_or(0) };
                let flags = attrs.u32_of(abi::table::FLAGS).unwrap_or(0);
                Ok(Found { flags, owner: attrs.u32_of(abi::table::OWNER), made })
            },
        );
        match found {
            // EAFNOSUPPORT: a kernel without the family has no such table.
            Err(RequestError::Errno(libc::ENOENT | libc::EAFNOSUPPORT)) => Ok(None),
            Err(error) => Err(error.into_kernel(self.family.looking)),
            Ok(found) => Ok(found),
        }
    }

    /// What `read` makes of each rule of the table: of its chain and its expressions.
    pub(super) fn rules<T>(&mut self, read: impl Fn(&str, Attrs<'_>) -> T) -> Result<Vec<T>, RequestError> {
        let rules = self.kernel.connection.dump_again(
            msg::GETRULE,
            self.family.nfproto,
            |buf| attr::put_str(buf, abi::rule::TABLE, TABLE_NAME),
            |message| {
                let attrs = &message.attrs;
                let is_ours = attrs.str_of(abi::rule::TABLE) == Some(TABLE_NAME);
                let expressions = attrs.nested_of(abi::rule::EXPRESSIONS).unwrap_or(Attrs::new(&[]));
                Ok(attrs.str_of(abi::rule::CHAIN).filter(|_| is_ours).map(|chain| read(chain, expressions)))
            },
        )?;
        Ok(rules.into_iter().flatten().collect())
    }

    /// Begins a transaction about the table of a name.
    pub(super) fn writer(&self, name: &'static str) -> Writer {
        Writer::new(name, self.family.nfproto, self.kernel.connection.next_seq())
    }

    /// Commits.
    pub(super) fn send(&mut self, batch: Writer) -> Result<(), KernelError> {
        self.commit(batch, false)
    }

    /// Has the kernel check a transaction; changes nothing.
    pub(super) fn check(&mut self, batch: Writer) -> Result<(), KernelError> {
        self.commit(batch, true)
    }

    fn commit(&mut self, Writer { mut batch, words, .. }: Writer, trial: bool) -> Result<(), KernelError> {
        batch.finish(trial);
        let doing = self.family.committing;
        let whole = "the transaction as a whole";
        let answer = match self.kernel.connection.send_batch(&batch) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Err(self.refused(whole, describe::reason(libc::EMSGSIZE, None, None), libc::EMSGSIZE));
            }
            Err(source) => return Err(KernelError::Io { doing, source }),
        };
        match answer {
            KernelAnswer::Done => Ok(()),
            KernelAnswer::Unknown => {
                Err(KernelError::Io { doing, source: io::Error::from_raw_os_error(libc::ENOBUFS) })
            }
            KernelAnswer::Failed(MessageError { errno: libc::EPERM, .. }) => Err(KernelError::NotPermitted { doing }),
            KernelAnswer::Failed(MessageError { seq, errno, words: said, .. }) => {
                let object = batch.origin(seq).and_then(|origin| words.get(origin.op)).map_or(whole, String::as_str);
                Err(self.refused(object, describe::reason(errno, said.as_deref(), None), errno))
            }
        }
    }

    fn refused(&self, object: &str, reason: String, errno: i32) -> KernelError {
        let object = format!("{object} of {} {TABLE_NAME}", self.family.name);
        KernelError::Refused { op: 0, element: None, object, reason, errno }
    }
}

/// A transaction, and what its messages are about.
pub(super) struct Writer {
    /// The table's name.
    pub(super) name: &'static str,
    pub(super) nfproto: u8,
    pub(super) batch: Batch,
    /// By what the batch calls its operations.
    words: Vec<String>,
}

impl Writer {
    /// `seq` is the number of its first message.
    fn new(name: &'static str, nfproto: u8, seq: u32) -> Self {
        Self { name, nfproto, batch: Batch::new(seq, Scratch::new()), words: Vec::new() }
    }

    /// What the next messages are about; its index.
    pub(super) fn about(&mut self, what: impl Into<String>) -> usize {
        self.words.push(what.into());
        self.words.len() - 1
    }

    /// Makes or takes over the table (`NFT_MSG_NEWTABLE`), or deletes it.
    pub(super) fn table(&mut self, kind: u16, flags: u32) {
        let name = self.name;
        let create = if kind == msg::NEWTABLE { libc::NLM_F_CREATE as u16 } else { 0 };
        self.request("the table", kind, create, |buf| {
            attr::put_str(buf, abi::table::NAME, name);
            if kind == msg::NEWTABLE {
                attr::put_u32(buf, abi::table::FLAGS, flags);
            }
        });
    }

    /// A message about one object.
    pub(super) fn request(&mut self, what: impl Into<String>, kind: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let index = self.about(what);
        self.batch.request((index, 0), (kind, self.nfproto, flags), |buf| {
            write(buf);
            0
        });
    }
}
