//! Portway's table in the kernel. Elements are asked for by their keys: `nft` lists whole tables, which takes seconds at
//! 10,000 Services, and on a small machine takes them from what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use portway::model::Family;
use portway::nftables::NftKernel;
use portway::ruleset::{Bytes, Kernel as _, Keys, Part, SetId, SetName, Table};

const TCP: u8 = 6;
const PORT: u16 = 80;

pub(crate) struct KernelTable(NftKernel);

impl KernelTable {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self(NftKernel::open_to_read()?))
    }

    /// Whether there is a Service with this address.
    pub(crate) fn has(&mut self, address: &str) -> Result<bool> {
        let key = Bytes::new().ip(address.parse::<IpAddr>()?).u8(TCP).u16(PORT);
        let first = SetName::from(SetId::Services);
        // While the map is being replaced it has another name.
        for name in [first, first.other()] {
            let sets = BTreeMap::from([(name, Keys::These(BTreeSet::from([key])))]);
            let table = self.0.read_part(Family::Ipv4, &Part { structure: false, sets })?;
            if table.and_then(|table| table.sets.get(&SetId::Services).map(|found| found.contains_key(&key)))
                == Some(true)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All of it.
    pub(crate) fn read(&mut self) -> Result<Table> {
        self.0.read(Family::Ipv4)?.context("Portway has no table")
    }
}
