//! The table `netdev portway`: made, changed and removed.
//!
//! It is replaced as a whole when this process first needs it, so nothing is read back. A table that is owned (Linux 6.9)
//! nobody else can change; of others [`DirectKernel::is_intact`] tells whether they were deleted or made anew.

mod rules;

use std::io;

use nftnl::nftnl_sys as sys;

use super::connection::{KernelAnswer, MessageError, RequestError};
use super::process::owner_in_words;
use super::{KernelOptions, NftKernel, describe, set};
use crate::diff::DirectChange;
use crate::ffi::{Chain, Head, Rule, Scratch};
use crate::model::Family;
use crate::render;
use crate::ruleset::{
    DIRECT_FAMILY, DirectElement, DirectMap, DirectTable, DirectValue, ForwardChain, KernelError, SlotHash, TABLE_NAME,
};
use crate::wire::abi::{self, elem, msg};
use crate::wire::attr;
use crate::wire::batch::Batch;

/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
/// `NF_NETDEV_INGRESS`, and the priority `filter`.
const INGRESS: (u32, i32) = (0, 0);
/// Bytes of a list of elements, and more than the longest element takes.
const LIST_MAX: usize = u16::MAX as usize;
const ELEMENT_MAX: usize = 512;

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

    /// Makes the table in the kernel what is wanted. On an error nothing has changed, unless
    /// [`KernelError::is_uncertain`]: then only replacing it helps.
    pub fn apply(&mut self, wanted: &DirectTable, change: &DirectChange) -> Result<(), KernelError> {
        match change {
            DirectChange::Nothing => return Ok(()),
            DirectChange::Remove => return self.remove().map(drop),
            DirectChange::Replace => {
                let (before, flags) = self.flags()?;
                let mut batch = self.writer(TABLE_NAME);
                if let Some(flags) = before {
                    batch.table(msg::NEWTABLE, flags);
                    batch.table(msg::DELTABLE, 0);
                }
                batch.table(msg::NEWTABLE, flags);
                batch.whole(wanted);
                self.send(batch)?;
            }
            DirectChange::Elements(gone, new) => {
                let mut batch = self.writer(TABLE_NAME);
                batch.elements(wanted, msg::DELSETELEM, gone);
                batch.elements(wanted, msg::NEWSETELEM, new);
                self.send(batch)?;
            }
        }
        self.made = self.find()?.map(|found| found.made);
        Ok(())
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

    /// Whether the table is the one this process has made last, with all its chains and maps. Without one: whether there is none.
    pub fn is_intact(&mut self) -> Result<bool, KernelError> {
        Ok(self.find()?.map(|found| found.made) == self.made)
    }

    /// Has the kernel check whether it can do this at all; changes nothing. `device` is any interface.
    pub fn trial(&mut self, device: (u32, &str)) -> Result<(), KernelError> {
        let mut table = DirectTable::default();
        table.devices.insert(device.0, device.1.into());
        let mut batch = self.writer(super::TRIAL_TABLE);
        batch.table(msg::NEWTABLE, 0);
        for family in Family::ALL {
            batch.map(&table, DirectMap::Frontends(family));
            batch.map(&table, DirectMap::Nodes(family, device.0));
            batch.forward(&table, ForwardChain { family, hash: SlotHash { modulus: 251, ports: true } });
        }
        batch.ingress(&table, device.1);
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
        Writer { name, batch: Batch::new(self.kernel.connection.next_seq(), Scratch::new()), words: Vec::new() }
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

/// A transaction, and what its messages are about.
struct Writer {
    /// The table's name.
    name: &'static str,
    batch: Batch,
    words: Vec<String>,
}

impl Writer {
    fn about(&mut self, what: impl Into<String>) -> usize {
        self.words.push(what.into());
        self.words.len() - 1
    }

    fn table(&mut self, kind: u16, flags: u32) {
        let name = self.name;
        let (index, create) =
            (self.about("the table"), if kind == msg::NEWTABLE { libc::NLM_F_CREATE as u16 } else { 0 });
        self.batch.request((index, 0), (kind, NETDEV, create), |buf| {
            attr::put_str(buf, abi::table::NAME, name);
            if kind == msg::NEWTABLE {
                attr::put_u32(buf, abi::table::FLAGS, flags);
            }
            0
        });
    }

    /// Everything in a table that is there and empty.
    fn whole(&mut self, table: &DirectTable) {
        table.maps().into_iter().for_each(|map| self.map(table, map));
        table.chains().into_iter().for_each(|chain| self.forward(table, chain));
        let elements: Vec<_> = table.elements().into_iter().map(|((map, _), element)| (map, element)).collect();
        self.elements(table, msg::NEWSETELEM, &elements);
        // Packets come in here, so this is last.
        table.devices.values().for_each(|device| self.ingress(table, device));
    }

    fn map(&mut self, table: &DirectTable, map: DirectMap) {
        let name = table.name(map);
        let index = self.about(format!("map {name}"));
        let object = set::declared(map.family(), (self.name, &name), &map.spec(), 0, index as u32 + 1);
        let head = head(msg::NEWSET, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
    }

    fn chain(&mut self, name: &str, chain: Chain) {
        let index = self.about(format!("chain {name}"));
        let chain = chain.str(sys::NFTNL_CHAIN_TABLE, self.name).str(sys::NFTNL_CHAIN_NAME, name);
        let head = head(msg::NEWCHAIN, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| chain.build(scratch, head, out));
    }

    fn rule(&mut self, chain: &str, write: impl FnOnce(&mut Rule)) {
        let index = self.about(format!("a rule of chain {chain}"));
        let mut rule = Rule::new()
            .u32(sys::NFTNL_RULE_FAMILY, u32::from(NETDEV))
            .str(sys::NFTNL_RULE_TABLE, self.name)
            .str(sys::NFTNL_RULE_CHAIN, chain);
        write(&mut rule);
        let head = head(msg::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        self.batch.object(index, head, |scratch, head, out| rule.build(scratch, head, out));
    }

    /// Packets to frontends of ours leave the way of all others here.
    fn ingress(&mut self, table: &DirectTable, device: &str) {
        let name = render::ingress_name(device);
        let chain = Chain::new()
            .str(sys::NFTNL_CHAIN_TYPE, "filter")
            .u32(sys::NFTNL_CHAIN_HOOKNUM, INGRESS.0)
            .i32(sys::NFTNL_CHAIN_PRIO, INGRESS.1)
            .str(sys::NFTNL_CHAIN_DEV, device)
            .u32(sys::NFTNL_CHAIN_POLICY, abi::chain::POLICY_ACCEPT);
        self.chain(&name, chain);
        for family in table.families() {
            self.rule(&name, |rule| rules::leave(rule, family, &table.name(DirectMap::Frontends(family))));
        }
    }

    fn forward(&mut self, table: &DirectTable, chain: ForwardChain) {
        let (name, family) = (chain.to_string(), chain.family);
        self.chain(&name, Chain::new());
        // A bridge or a listener can have the interface take packets that are meant for others.
        self.rule(&name, |rule| rules::skip_packets_to_others(rule, family));
        if family == Family::Ipv4 {
            // Only the first fragment has ports. All must go the same way: the ordinary one.
            self.rule(&name, |rule| rules::skip_fragments(rule, family));
        }
        for device in table.devices.keys() {
            let map = table.name(DirectMap::Nodes(family, *device));
            self.rule(&name, |rule| rules::hand_on(rule, chain, *device, &map));
        }
    }

    fn elements(&mut self, table: &DirectTable, kind: u16, elements: &[(DirectMap, DirectElement)]) {
        let flags = if kind == msg::NEWSETELEM { libc::NLM_F_CREATE as u16 } else { 0 };
        for list in elements.chunk_by(|(map, _), (other, _)| map == other) {
            let Some((map, _)) = list.first() else { continue };
            let name = table.name(*map);
            let index = self.about(format!("an element of map {name}"));
            let (mut done, table_name) = (0, self.name);
            while done < list.len() {
                done += self.batch.request((index, done), (kind, NETDEV, flags), |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, table_name);
                    attr::put_str(buf, elem::LIST_SET, &name);
                    let nest = attr::begin_nest(buf, elem::LIST_ELEMENTS);
                    let mut written = 0;
                    for (_, element) in &list[done..] {
                        if buf.len() - nest + ELEMENT_MAX > LIST_MAX {
                            break;
                        }
                        put_element(buf, element, kind == msg::NEWSETELEM);
                        written += 1;
                    }
                    attr::end_nest(buf, nest);
                    written
                });
            }
        }
    }
}

fn head(kind: u16, flags: i32) -> Head {
    Head { kind, family: NETDEV, flags: flags as u16, seq: 0 }
}

fn put_element(buf: &mut Vec<u8>, element: &DirectElement, adding: bool) {
    let nest = attr::begin_nest(buf, abi::LIST_ELEM);
    super::elements::put_data(buf, elem::KEY, &element.key);
    if adding {
        match element.value {
            DirectValue::Node(ip) => super::elements::put_data(buf, elem::DATA, &crate::ruleset::Bytes::new().ip(ip)),
            DirectValue::Forward(chain) => {
                let data = attr::begin_nest(buf, elem::DATA);
                let verdict = attr::begin_nest(buf, abi::DATA_VERDICT);
                attr::put_u32(buf, abi::VERDICT_CODE, abi::verdict::GOTO);
                attr::put_str(buf, abi::VERDICT_CHAIN, &chain.to_string());
                attr::end_nest(buf, verdict);
                attr::end_nest(buf, data);
            }
        }
        super::elements::put_userdata(buf, element.comment.as_deref(), false);
    }
    attr::end_nest(buf, nest);
}
