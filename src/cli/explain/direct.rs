//! Whether a packet is handed on to another node before the tables of `ip` and `ip6` see it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;

use crate::host::links::Links;
use crate::nftables::{DirectKernel, KernelOptions};
use crate::ruleset::DirectTable;
use crate::trace::{Host, Ingress, Packet};

/// The table of direct return, and what else decides.
pub(super) struct Direct {
    pub(super) table: DirectTable,
    /// The interface by which the host answers the client, where that is known.
    pub(super) way_back: Option<(u32, Arc<str>)>,
}

impl Direct {
    /// What is in the kernel; an empty table where direct return is off.
    pub(super) fn in_kernel(client: IpAddr) -> anyhow::Result<Self> {
        let found = DirectKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.read());
        let found = found.context("cannot read the table netdev portway")?;
        for object in found.oddities() {
            eprintln!("portway: {object} of netdev portway: not as Portway makes it; what follows leaves it out");
        }
        if !found.is_there {
            return Ok(Self { table: DirectTable::default(), way_back: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let way_back = runtime.block_on(async {
            let links = Links::open()?;
            let Some(way) = links.way_to(client).await? else { return Ok::<_, anyhow::Error>(None) };
            Ok(links.devices().await?.remove(&way.device).map(|name| (way.device, name)))
        })?;
        Ok(Self { table: found.table, way_back })
    }

    /// A packet whose interface is not said comes in where its answers leave, as far as that is known; and what is assumed.
    pub(super) fn choose_interface(&self, packet: &mut Packet, host: &Host) -> Option<String> {
        if self.table.is_empty() || packet.interface.is_some() || host.is_local(packet.source) {
            return None;
        }
        match &self.way_back {
            Some((index, name)) if self.table.devices.contains_key(index) => {
                packet.interface = Some(name.to_string());
                Some(format!("taken to come in on {name}, by which answers leave; else give --interface"))
            }
            _ => {
                let names: Vec<&str> = self.table.devices.values().map(|name| &**name).collect();
                Some(format!(
                    "for a packet that comes in on an interface of direct return give --interface {}",
                    names.join(" or ")
                ))
            }
        }
    }

    pub(super) fn ingress(&self) -> Ingress<'_> {
        Ingress { table: &self.table, way_back: self.way_back.as_ref().map(|(index, _)| *index) }
    }
}
