//! The table `netdev portway`: made, changed and removed.
//!
//! It is read once, when this process first needs it. A table that is owned (Linux 6.9) nobody else can change; of others
//! [`DirectKernel::is_intact`] tells whether they were deleted or made anew.

mod read;
mod rules;
mod write;

use std::io;

use super::connection::{KernelAnswer, MessageError, RequestError};
use super::process::owner_in_words;
use super::{KernelOptions, NftKernel, describe};
use crate::diff::{
    DIRECT_SLICE, DirectGrowth, DirectShrinkage, DirectSlice, direct_growth, direct_shrinkage, direct_slices,
};
use crate::model::Family;
use crate::ruleset::{
    Bytes, DIRECT_FAMILY, DirectFound, DirectFrontend, DirectTable, KernelError, SlotHash, TABLE_NAME,
};
use crate::wire::abi::{self, msg};
use crate::wire::attr;
use write::Writer;

/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;

/// A connection for the table `netdev portway`, of its own, so that no failure here concerns the other tables.
pub struct DirectKernel {
    kernel: NftKernel,
    /// The table's handle and how many objects it has, once this process has made it.
    made: Option<Made>,
}

/// What tells the table from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    handle: u64,
    uses: u32,
}

/// A table in the kernel.
struct Found {
    flags: u32,
    owner: Option<u32>,
    made: Made,
}

impl DirectKernel {
    /// Connects in the network namespace of the calling thread.
    pub fn open(options: KernelOptions) -> Result<Self, KernelError> {
        Ok(Self { kernel: NftKernel::open_with(options)?, made: None })
    }

    /// Takes over the table that there is, and reads it.
    pub fn take(&mut self) -> Result<DirectFound, KernelError> {
        if let (Some(flags), _) = self.flags()? {
            let mut batch = self.writer(TABLE_NAME);
            batch.table(msg::NEWTABLE, flags);
            self.send(batch)?;
        }
        let found = self.read()?;
        self.made = self.find()?.map(|found| found.made);
        Ok(found)
    }

    /// Makes the table in the kernel, which is known, what is wanted. After an error it is not known any more; where the kernel
    /// has refused something there is none, and all goes the ordinary way.
    pub fn make(&mut self, found: &DirectFound, wanted: &DirectTable) -> Result<(), KernelError> {
        if wanted.is_empty() {
            return self.remove().map(drop);
        }
        let result = match &found.broken {
            None => self.change(found, wanted),
            Some(_) => self.remove().and_then(|_| self.change(&DirectFound::default(), wanted)),
        };
        if let Err(KernelError::Refused { .. }) = result {
            self.remove()?;
        }
        result
    }

    fn change(&mut self, found: &DirectFound, wanted: &DirectTable) -> Result<(), KernelError> {
        let growth = direct_growth(found, wanted);
        let mut batch = self.writer(TABLE_NAME);
        if growth.is_new {
            let (_, flags) = self.flags()?;
            batch = self.writer(TABLE_NAME);
            batch.table(msg::NEWTABLE, flags);
        }
        if growth != DirectGrowth::default() {
            batch.growth(wanted, &growth);
            self.send(batch)?;
        }
        for slice in direct_slices(found, wanted, DIRECT_SLICE) {
            self.slice([&found.table, wanted], slice)?;
        }
        let shrinkage = direct_shrinkage(found, wanted);
        if shrinkage != DirectShrinkage::default() {
            // The elements of a deleted map go out of force for packets that are on their way, too.
            self.kernel.wait_for_packets()?;
            let mut batch = self.writer(TABLE_NAME);
            batch.shrinkage(&shrinkage);
            self.send(batch)?;
        }
        self.made = self.find()?.map(|found| found.made);
        Ok(())
    }

    /// Changes elements, in parts where the socket does not take all at once.
    fn slice(&mut self, tables: [&DirectTable; 2], slice: DirectSlice) -> Result<(), KernelError> {
        let mut batch = self.writer(TABLE_NAME);
        batch.slice(tables, &slice);
        match self.send(batch) {
            Err(refusal @ KernelError::Refused { errno: libc::EMSGSIZE, .. }) => {
                let halves = slice.halves().ok_or(refusal)?;
                halves.into_iter().try_for_each(|half| self.slice(tables, half))
            }
            result => result,
        }
    }

    /// Deletes the table; whether there was one.
    pub fn remove(&mut self) -> Result<bool, KernelError> {
        self.made = None;
        let (Some(flags), _) = self.flags()? else { return Ok(false) };
        let mut batch = self.writer(TABLE_NAME);
        batch.table(msg::NEWTABLE, flags);
        batch.table(msg::DELTABLE, 0);
        self.send(batch)?;
        Ok(true)
    }

    /// Whether the table is still what this process has made. One that is owned nobody else can change but by deleting what is
    /// around it; of others all is read.
    pub fn is_intact(&mut self, made: &DirectFound) -> Result<bool, KernelError> {
        let found = self.find()?;
        let is_owned = found.as_ref().is_some_and(|found| found.owner == Some(self.kernel.connection.port_id()));
        Ok(found.map(|found| found.made) == self.made && (is_owned || self.read()? == *made))
    }

    /// The number of the current generation: every committed transaction makes a new one.
    #[cfg(any(test, feature = "testing"))]
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        self.kernel.generation()
    }

    /// Has the kernel check whether it can do this at all; changes nothing. `device` is any interface.
    pub fn trial(&mut self, device: (u32, &str)) -> Result<(), KernelError> {
        let mut table = DirectTable::default();
        table.devices.insert(device.0, device.1.into());
        for family in Family::ALL {
            let hash = SlotHash { modulus: 251, ports: true };
            let frontend = DirectFrontend { hash, label: "trial".into(), slots: [].into() };
            table.frontends.insert((family, Bytes::new()), frontend);
        }
        let mut batch = self.writer(super::TRIAL_TABLE);
        batch.table(msg::NEWTABLE, 0);
        batch.growth(&table, &direct_growth(&DirectFound::default(), &table));
        self.commit(batch, true)
    }

    /// The flags an existing table is to be taken over with, and those of a new one. An error where another process owns it.
    fn flags(&mut self) -> Result<(Option<u32>, u32), KernelError> {
        // First, because it says who may not ask.
        let found = self.find()?;
        let wanted = self.kernel.wanted_flags()?;
        let Some(found) = found else { return Ok((None, wanted)) };
        if let Some(owner) = found.owner.filter(|owner| *owner != self.kernel.connection.port_id()) {
            return Err(refused(
                "the table",
                format!("owned by another process{}", owner_in_words(owner)),
                libc::EPERM,
            ));
        }
        let is_orphan = found.flags & super::ownership::OWNED_FLAGS == abi::table::F_PERSIST;
        Ok((Some(if is_orphan { found.flags | wanted } else { found.flags }), wanted))
    }

    fn find(&mut self) -> Result<Option<Found>, KernelError> {
        let found = self.kernel.connection.get(
            msg::GETTABLE,
            NETDEV,
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
            Err(error) => Err(error.into_kernel("looking for the table netdev portway")),
            Ok(found) => Ok(found),
        }
    }

    fn writer(&self, name: &'static str) -> Writer {
        Writer::new(name, self.kernel.connection.next_seq())
    }

    fn send(&mut self, batch: Writer) -> Result<(), KernelError> {
        self.commit(batch, false)
    }

    fn commit(&mut self, Writer { mut batch, words, .. }: Writer, trial: bool) -> Result<(), KernelError> {
        batch.finish(trial);
        let doing = "committing to the table netdev portway";
        let answer = match self.kernel.connection.send_batch(&batch) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Err(refused(
                    "the transaction as a whole",
                    describe::reason(libc::EMSGSIZE, None, None),
                    libc::EMSGSIZE,
                ));
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
                let object = batch.origin(seq).and_then(|origin| words.get(origin.op));
                let object = object.map_or("the transaction as a whole", String::as_str);
                Err(refused(object, describe::reason(errno, said.as_deref(), None), errno))
            }
        }
    }
}

/// Deletes the table, if there is one; whether there was.
pub fn remove_direct_table() -> Result<bool, KernelError> {
    DirectKernel::open(KernelOptions::default())?.remove()
}

fn refused(object: &str, reason: String, errno: i32) -> KernelError {
    let object = format!("{object} of {DIRECT_FAMILY} {TABLE_NAME}");
    KernelError::Refused { op: 0, element: None, object, reason, errno }
}
