//! The table `netdev portway`: made, changed and removed.
//!
//! It is read once, when this process first needs it. A table that is owned (Linux 6.9) nobody else can change; of others
//! [`DirectKernel::is_intact`] tells whether they were deleted or made anew.

mod read;
mod rules;
mod write;

use super::KernelOptions;
use super::side::{Made, SideFamily, SideTable};
use crate::diff::{
    DIRECT_SLICE, DirectGrowth, DirectShrinkage, DirectSlice, direct_growth, direct_shrinkage, direct_slices,
};
use crate::model::Family;
use crate::ruleset::{
    Bytes, DIRECT_FAMILY, DirectFound, DirectFrontend, DirectTable, KernelError, SlotHash, TABLE_NAME,
};
use crate::wire::abi::msg;

/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
const SIDE: SideFamily = SideFamily {
    nfproto: NETDEV,
    name: DIRECT_FAMILY,
    looking: "looking for the table netdev portway",
    committing: "committing to the table netdev portway",
};

/// A connection for the table `netdev portway`, of its own, so that no failure here concerns the other tables.
pub struct DirectKernel {
    side: SideTable,
    /// The table's handle and how many objects it has, once this process has made it.
    made: Option<Made>,
}

impl DirectKernel {
    /// Connects in the network namespace of the calling thread.
    pub fn open(options: KernelOptions) -> Result<Self, KernelError> {
        Ok(Self { side: SideTable::open(options, SIDE)?, made: None })
    }

    /// Takes over the table that there is, and reads it.
    pub fn take(&mut self) -> Result<DirectFound, KernelError> {
        self.side.claim()?;
        let found = self.read()?;
        self.made = self.side.find()?.map(|found| found.made);
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
        let mut batch = self.side.writer(TABLE_NAME);
        if growth.is_new {
            let (_, flags) = self.side.flags()?;
            batch = self.side.writer(TABLE_NAME);
            batch.table(msg::NEWTABLE, flags);
        }
        if growth != DirectGrowth::default() {
            batch.growth(wanted, &growth);
            self.side.send(batch)?;
        }
        for slice in direct_slices(found, wanted, DIRECT_SLICE) {
            self.slice([&found.table, wanted], slice)?;
        }
        let shrinkage = direct_shrinkage(found, wanted);
        if shrinkage != DirectShrinkage::default() {
            // The elements of a deleted map go out of force for packets that are on their way, too.
            self.side.kernel.wait_for_packets()?;
            let mut batch = self.side.writer(TABLE_NAME);
            batch.shrinkage(&shrinkage);
            self.side.send(batch)?;
        }
        self.made = self.side.find()?.map(|found| found.made);
        Ok(())
    }

    /// Changes elements, in parts where the socket does not take all at once.
    fn slice(&mut self, tables: [&DirectTable; 2], slice: DirectSlice) -> Result<(), KernelError> {
        let mut batch = self.side.writer(TABLE_NAME);
        batch.slice(tables, &slice);
        match self.side.send(batch) {
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
        self.side.remove()
    }

    /// Whether the table is still what this process has made. One that is owned nobody else can change but by deleting what is
    /// around it; of others all is read.
    pub fn is_intact(&mut self, made: &DirectFound) -> Result<bool, KernelError> {
        let found = self.side.find()?;
        let is_owned = found.as_ref().is_some_and(|found| self.side.owns(found));
        Ok(found.map(|found| found.made) == self.made && (is_owned || self.read()? == *made))
    }

    /// The number of the current generation: every committed transaction makes a new one.
    #[cfg(any(test, feature = "testing"))]
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        self.side.kernel.generation()
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
        let mut batch = self.side.writer(super::TRIAL_TABLE);
        batch.table(msg::NEWTABLE, 0);
        batch.growth(&table, &direct_growth(&DirectFound::default(), &table));
        self.side.check(batch)
    }
}

/// Deletes the table, if there is one; whether there was.
pub fn remove_direct_table() -> Result<bool, KernelError> {
    DirectKernel::open(KernelOptions::default())?.remove()
}
