//! The table `netdev portway`: made, changed and removed.
//!
//! It is replaced as a whole when this process first needs it, so nothing is read back. A table that is owned (Linux 6.9)
//! nobody else can change; of others [`DirectKernel::is_intact`] tells whether they were deleted or made anew.

use std::io;

use nftnl::nftnl_sys as sys;

use super::connection::{KernelAnswer, MessageError, RequestError};
use super::process::owner_in_words;
use super::{KernelOptions, NftKernel, describe, set};
use crate::diff::DirectChange;
use crate::ffi::{Chain, Expression, Head, Rule, Scratch};
use crate::model::Family;
use crate::render;
use crate::ruleset::{
    DIRECT_FAMILY, DirectElement, DirectMap, DirectTable, DirectValue, Expr, ForwardChain, HASH_SEED, KernelError,
    Register, SlotHash, TABLE_NAME, Verdict,
};
use crate::wire::abi::{self, elem, expr as x, msg};
use crate::wire::attr;
use crate::wire::batch::Batch;
use crate::wire::expr;

/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
/// `NF_NETDEV_INGRESS`, and the priority `filter`.
const INGRESS: (u32, i32) = (0, 0);
/// `NFTNL_CHAIN_DEV`'s value: interfaces a base chain is on.
const PACKET_HOST: u8 = 0;
/// More fragments, or not the first one.
const FRAGMENT: u16 = 0x3fff;
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
                let scratch = Scratch::new();
                let mut batch =
                    Writer { batch: Batch::new(self.kernel.connection.next_seq(), scratch), words: Vec::new() };
                if let Some(flags) = before {
                    batch.table(msg::NEWTABLE, flags);
                    batch.table(msg::DELTABLE, 0);
                }
                batch.table(msg::NEWTABLE, flags);
                batch.whole(wanted);
                self.send(batch)?;
            }
            DirectChange::Elements(gone, new) => {
                let mut batch =
                    Writer { batch: Batch::new(self.kernel.connection.next_seq(), Scratch::new()), words: Vec::new() };
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
        let mut batch =
            Writer { batch: Batch::new(self.kernel.connection.next_seq(), Scratch::new()), words: Vec::new() };
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
        let mut batch =
            Writer { batch: Batch::new(self.kernel.connection.next_seq(), Scratch::new()), words: Vec::new() };
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
        let wanted = self.kernel.wanted_flags()?;
        let Some(found) = self.find()? else { return Ok((None, wanted)) };
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

    fn send(&mut self, batch: Writer) -> Result<(), KernelError> {
        self.commit(batch, false)
    }

    fn commit(&mut self, Writer { mut batch, words }: Writer, trial: bool) -> Result<(), KernelError> {
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
    batch: Batch,
    words: Vec<String>,
}

impl Writer {
    fn about(&mut self, what: impl Into<String>) -> usize {
        self.words.push(what.into());
        self.words.len() - 1
    }

    fn table(&mut self, kind: u16, flags: u32) {
        let (index, create) =
            (self.about("the table"), if kind == msg::NEWTABLE { libc::NLM_F_CREATE as u16 } else { 0 });
        self.batch.request((index, 0), (kind, NETDEV, create), |buf| {
            attr::put_str(buf, abi::table::NAME, TABLE_NAME);
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
        let object = set::declared(map.family(), (TABLE_NAME, &name), &map.spec(), 0, index as u32 + 1);
        let head = head(msg::NEWSET, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
    }

    fn chain(&mut self, name: &str, chain: Chain) {
        let index = self.about(format!("chain {name}"));
        let chain = chain.str(sys::NFTNL_CHAIN_TABLE, TABLE_NAME).str(sys::NFTNL_CHAIN_NAME, name);
        let head = head(msg::NEWCHAIN, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| chain.build(scratch, head, out));
    }

    fn rule(&mut self, chain: &str, write: impl FnOnce(&mut Rule)) {
        let index = self.about(format!("a rule of chain {chain}"));
        let mut rule = Rule::new()
            .u32(sys::NFTNL_RULE_FAMILY, u32::from(NETDEV))
            .str(sys::NFTNL_RULE_TABLE, TABLE_NAME)
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
            self.rule(&name, |rule| {
                of_family(rule, family);
                frontend(rule, family, 0);
                rule.add(
                    lookup(&table.name(DirectMap::Frontends(family)), 0)
                        .u32(sys::NFTNL_EXPR_LOOKUP_DREG, x::REG_VERDICT),
                );
            });
        }
    }

    fn forward(&mut self, table: &DirectTable, chain: ForwardChain) {
        let (name, family) = (chain.to_string(), chain.family);
        self.chain(&name, Chain::new());
        // A bridge or a listener can have the interface take packets that are meant for others.
        self.rule(&name, |rule| {
            rule.add(meta(x::META_PKTTYPE, 0));
            add(rule, family, &Expr::Compare { register: 0, negate: true, data: vec![PACKET_HOST] });
            add(rule, family, &Expr::Immediate(Verdict::Return));
        });
        if family == Family::Ipv4 {
            // Only the first fragment has ports. All must go the same way: the ordinary one.
            self.rule(&name, |rule| {
                of_family(rule, family);
                add(rule, family, &Expr::NetworkHeader { offset: 6, len: 2, to: 0 });
                add(rule, family, &Expr::Mask { register: 0, mask: FRAGMENT.to_be_bytes().to_vec() });
                add(rule, family, &Expr::Compare { register: 0, negate: true, data: vec![0, 0] });
                add(rule, family, &Expr::Immediate(Verdict::Return));
            });
        }
        for device in table.devices.keys() {
            let map = table.name(DirectMap::Nodes(family, *device));
            self.rule(&name, |rule| hand_on(rule, chain, *device, &map));
        }
    }

    fn elements(&mut self, table: &DirectTable, kind: u16, elements: &[(DirectMap, DirectElement)]) {
        let flags = if kind == msg::NEWSETELEM { libc::NLM_F_CREATE as u16 } else { 0 };
        for list in elements.chunk_by(|(map, _), (other, _)| map == other) {
            let Some((map, _)) = list.first() else { continue };
            let name = table.name(*map);
            let index = self.about(format!("an element of map {name}"));
            let mut done = 0;
            while done < list.len() {
                done += self.batch.request((index, done), (kind, NETDEV, flags), |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, TABLE_NAME);
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

/// `fwd ip to ip daddr . ip protocol . th dport . jhash ip saddr ... map @nodes-eth0 device "eth0"`. The kernel lowers the TTL,
/// so nothing goes in circles for ever.
fn hand_on(rule: &mut Rule, ForwardChain { family, hash }: ForwardChain, device: u32, map: &str) {
    const DEVICE: Register = 0;
    const KEY: Register = 1;
    of_family(rule, family);
    let immediate = Expression::new(c"immediate").u32(sys::NFTNL_EXPR_IMM_DREG, expr::register(DEVICE));
    rule.add(immediate.data(sys::NFTNL_EXPR_IMM_DATA, &device.to_ne_bytes()));
    let slot = frontend(rule, family, KEY);
    let client = slot + 1;
    let (offset, len) = if family == Family::Ipv4 { (12, 4) } else { (8, 16) };
    add(rule, family, &Expr::NetworkHeader { offset, len, to: client });
    let mut hashed = len;
    if hash.ports {
        add(rule, family, &Expr::TransportHeader { offset: 0, len: 2, to: client + len / 4 });
        hashed += 4;
    }
    rule.add(
        Expression::new(c"hash")
            .u32(sys::NFTNL_EXPR_HASH_SREG, expr::register(client))
            .u32(sys::NFTNL_EXPR_HASH_DREG, expr::register(slot))
            .u32(sys::NFTNL_EXPR_HASH_LEN, hashed)
            .u32(sys::NFTNL_EXPR_HASH_MODULUS, hash.modulus)
            .u32(sys::NFTNL_EXPR_HASH_SEED, HASH_SEED)
            .u32(sys::NFTNL_EXPR_HASH_OFFSET, 0)
            .u32(sys::NFTNL_EXPR_HASH_TYPE, 0),
    );
    rule.add(lookup(map, KEY).u32(sys::NFTNL_EXPR_LOOKUP_DREG, expr::register(KEY)));
    rule.add(
        Expression::new(c"fwd")
            .u32(sys::NFTNL_EXPR_FWD_SREG_DEV, expr::register(DEVICE))
            .u32(sys::NFTNL_EXPR_FWD_SREG_ADDR, expr::register(KEY))
            .u32(sys::NFTNL_EXPR_FWD_NFPROTO, u32::from(expr::nfproto(family))),
    );
}

/// Only packets of a family. In this table there are others too.
fn of_family(rule: &mut Rule, family: Family) {
    let protocol: u16 = if family == Family::Ipv4 { 0x0800 } else { 0x86dd };
    rule.add(meta(x::META_PROTOCOL, 0));
    add(rule, family, &Expr::Compare { register: 0, negate: false, data: protocol.to_be_bytes().to_vec() });
}

/// Loads the frontend a packet is for, and says which register is next. Only a protocol that follows the IPv6 header at once
/// counts: fragments, and whatever else has more headers, go the ordinary way.
fn frontend(rule: &mut Rule, family: Family, at: Register) -> Register {
    let (address, len, protocol) = if family == Family::Ipv4 { (16, 4, 9) } else { (24, 16, 6) };
    let behind = at + len / 4;
    add(rule, family, &Expr::NetworkHeader { offset: address, len, to: at });
    add(rule, family, &Expr::NetworkHeader { offset: protocol, len: 1, to: behind });
    add(rule, family, &Expr::TransportHeader { offset: 2, len: 2, to: behind + 1 });
    behind + 2
}

fn meta(key: u32, to: Register) -> Expression {
    Expression::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, expr::register(to))
}

fn lookup(map: &str, key: Register) -> Expression {
    Expression::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, expr::register(key))
        .str(sys::NFTNL_EXPR_LOOKUP_SET, map)
}

fn add(rule: &mut Rule, family: Family, code: &Expr) {
    expr::add(rule, family, code);
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
