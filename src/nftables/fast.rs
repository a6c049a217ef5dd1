//! The table `inet portway`: a flow table, and the rule that puts connections into it.

use std::sync::Arc;

use nftnl::nftnl_sys as sys;

use super::connection::RequestError;
use super::side::{SideFamily, SideTable, Writer};
use super::{KernelOptions, TRIAL_TABLE};
use crate::ffi::{Chain, Expression, Head, Rule};
use crate::model::Family;
use crate::ruleset::{
    Expr, FAST_AFTER_PACKETS, FAST_CHAIN, FAST_FAMILY, FAST_PRIORITY, FastDevices, FastFound, KernelError, TABLE_NAME,
    Term, encode_rule,
};
use crate::wire::abi::{self, expr as x, flowtable, msg};
use crate::wire::attr::{self, Attr, Attrs};
use crate::wire::expr;

/// `NFPROTO_INET`.
const INET: u8 = 1;
const SIDE: SideFamily = SideFamily {
    nfproto: INET,
    name: FAST_FAMILY,
    looking: "looking for the table inet portway",
    committing: "committing to the table inet portway",
};
const READING: &str = "reading the table inet portway";
/// `NF_NETDEV_INGRESS`, and the priority `filter`.
const INGRESS: (u32, i32) = (0, 0);
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// Flow table and chain.
const OBJECTS: u32 = 2;
/// Interfaces that one message names. The kernel takes 255, but its announcement of so many would not fit into a page.
const DEVICES_MAX: usize = 100;

/// A connection for the table `inet portway`, of its own, so that no failure here concerns the other tables.
pub struct FastKernel {
    side: SideTable,
}

/// One instruction of the rule.
#[derive(Debug, PartialEq, Eq)]
enum Code {
    /// As in the tables of `ip` and `ip6`.
    Plain(Expr),
    /// Loads how many packets the connection had, in both directions.
    Packets,
    /// Puts that number into network order, in which numbers compare as bytes do.
    NetworkOrder,
    /// Ends the rule unless the number is greater.
    Greater(Vec<u8>),
    /// Puts the connection into the flow table.
    FlowAdd,
}

impl FastKernel {
    /// Connects in the network namespace of the calling thread.
    pub fn open(options: KernelOptions) -> Result<Self, KernelError> {
        Ok(Self { side: SideTable::open(options, SIDE)? })
    }

    /// Takes over the table that there is, and reads it.
    pub fn take(&mut self) -> Result<FastFound, KernelError> {
        self.side.claim()?;
        self.read()
    }

    /// What there is of the table. Of one that somebody changes meanwhile the result has the state of some moment.
    pub fn read(&mut self) -> Result<FastFound, KernelError> {
        let Some(table) = self.side.find()? else { return Ok(FastFound::default()) };
        let devices = self.flowtable().map_err(|error| error.into_kernel(READING))?;
        let is_sound = devices.is_some() && table.made.uses == OBJECTS && self.has_chain()? && self.has_rule()?;
        Ok(FastFound { is_there: true, is_sound, devices: devices.unwrap_or_default() })
    }

    /// Makes the table in the kernel, which is known, the one with these interfaces. Those that the kernel refuses are left
    /// out, and returned with the reason: an interface may be gone by now.
    pub fn make(
        &mut self,
        found: &FastFound,
        wanted: &FastDevices,
    ) -> Result<Vec<(Arc<str>, KernelError)>, KernelError> {
        let change = found.change_to(wanted);
        if change.anew {
            let (present, flags) = self.side.flags()?;
            let mut batch = self.side.writer(TABLE_NAME);
            if let Some(present) = present {
                batch.table(msg::NEWTABLE, present);
                batch.table(msg::DELTABLE, 0);
            }
            batch.table(msg::NEWTABLE, flags);
            batch.fast_table();
            self.side.send(batch)?;
        }
        let mut refused = Vec::new();
        self.change_devices(msg::DELFLOWTABLE, &change.gone, &mut Vec::new())?;
        self.change_devices(msg::NEWFLOWTABLE, &change.added, &mut refused)?;
        Ok(refused)
    }

    /// All at once; where the kernel refuses that, one by one.
    fn change_devices(
        &mut self,
        kind: u16,
        devices: &[Arc<str>],
        refused: &mut Vec<(Arc<str>, KernelError)>,
    ) -> Result<(), KernelError> {
        for some in devices.chunks(DEVICES_MAX) {
            let mut batch = self.side.writer(TABLE_NAME);
            batch.flowtable(kind, some);
            match (self.side.send(batch), some) {
                (Err(cause @ KernelError::Refused { .. }), [device]) => refused.push((device.clone(), cause)),
                (Err(KernelError::Refused { .. }), _) => {
                    some.chunks(1).try_for_each(|one| self.change_devices(kind, one, refused))?;
                }
                (result, _) => result?,
            }
        }
        Ok(())
    }

    /// Deletes the table; whether there was one. The kernel forwards its connections the ordinary way then.
    pub fn remove(&mut self) -> Result<bool, KernelError> {
        self.side.remove()
    }

    /// Has the kernel check whether it can do this at all; changes nothing.
    pub fn trial(&mut self) -> Result<(), KernelError> {
        let mut batch = self.side.writer(TRIAL_TABLE);
        batch.table(msg::NEWTABLE, 0);
        batch.fast_table();
        self.side.check(batch)
    }

    /// The interfaces of the flow table; `None` when there is none as Portway makes it.
    fn flowtable(&mut self) -> Result<Option<FastDevices>, RequestError> {
        // Asked for by its name it has to fit into a page, and with some 200 interfaces does not: EPERM says the kernel then.
        let listed = self.side.kernel.connection.dump_again(
            msg::GETFLOWTABLE,
            INET,
            |buf| attr::put_str(buf, flowtable::TABLE, TABLE_NAME),
            |message| {
                let attrs = &message.attrs;
                let is_ours =
                    [flowtable::TABLE, flowtable::NAME].iter().all(|kind| attrs.str_of(*kind) == Some(TABLE_NAME));
                Ok(is_ours.then(|| read_flowtable(attrs)))
            },
        );
        match listed {
            Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
            listed => Ok(listed?.into_iter().flatten().next().flatten()),
        }
    }

    fn has_chain(&mut self) -> Result<bool, KernelError> {
        let found = self.side.kernel.connection.get(
            msg::GETCHAIN,
            INET,
            |buf| {
                attr::put_str(buf, abi::chain::TABLE, TABLE_NAME);
                attr::put_str(buf, abi::chain::NAME, FAST_CHAIN);
            },
            |message| Ok(is_chain(&message.attrs)),
        );
        match found {
            Err(RequestError::Errno(libc::ENOENT)) => Ok(false),
            found => found.map(|found| found == Some(true)).map_err(|error| error.into_kernel(READING)),
        }
    }

    /// Whether there is the rule, and no other.
    fn has_rule(&mut self) -> Result<bool, KernelError> {
        let rules = self.side.rules(|_, expressions| expressions.map(decode).collect::<Option<Vec<Code>>>());
        match rules {
            Err(RequestError::Errno(libc::ENOENT)) => Ok(false),
            Err(error) => Err(error.into_kernel(READING)),
            Ok(rules) => Ok(rules == [Some(rule())]),
        }
    }
}

/// Deletes the table, if there is one; whether there was.
pub fn remove_fast_table() -> Result<bool, KernelError> {
    FastKernel::open(KernelOptions::default())?.remove()
}

impl Writer {
    /// Flow table, chain and rule, in a table that is there.
    fn fast_table(&mut self) {
        self.flowtable(msg::NEWFLOWTABLE, &[]);
        let name = self.name;
        let index = self.about(format!("chain {FAST_CHAIN}"));
        let chain = Chain::new()
            .str(sys::NFTNL_CHAIN_TABLE, name)
            .str(sys::NFTNL_CHAIN_NAME, FAST_CHAIN)
            .str(sys::NFTNL_CHAIN_TYPE, "filter")
            .u32(sys::NFTNL_CHAIN_HOOKNUM, FORWARD)
            .i32(sys::NFTNL_CHAIN_PRIO, FAST_PRIORITY)
            .u32(sys::NFTNL_CHAIN_POLICY, abi::chain::POLICY_ACCEPT);
        let create = |kind, flags: i32| Head { kind, family: INET, flags: flags as u16, seq: 0 };
        let head = create(msg::NEWCHAIN, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| chain.build(scratch, head, out));
        let index = self.about("the rule that puts connections into the flow table");
        let mut object = Rule::new()
            .u32(sys::NFTNL_RULE_FAMILY, u32::from(INET))
            .str(sys::NFTNL_RULE_TABLE, name)
            .str(sys::NFTNL_RULE_CHAIN, FAST_CHAIN);
        rule().iter().for_each(|code| object.add(encode(code)));
        let head = create(msg::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
    }

    /// Makes the flow table or adds interfaces to it, or deletes some from it.
    fn flowtable(&mut self, kind: u16, devices: &[Arc<str>]) {
        let name = self.name;
        let create = if kind == msg::NEWFLOWTABLE { libc::NLM_F_CREATE as u16 } else { 0 };
        let what = match devices {
            [] => "the flow table".to_owned(),
            [device] => format!("interface {device} of the flow table"),
            some => format!("{} interfaces of the flow table", some.len()),
        };
        self.request(what, kind, create, |buf| {
            attr::put_str(buf, flowtable::TABLE, name);
            attr::put_str(buf, flowtable::NAME, TABLE_NAME);
            let hook = attr::begin_nest(buf, flowtable::HOOK);
            attr::put_u32(buf, flowtable::HOOK_NUM, INGRESS.0);
            attr::put_u32(buf, flowtable::HOOK_PRIORITY, INGRESS.1 as u32);
            if !devices.is_empty() {
                let list = attr::begin_nest(buf, flowtable::HOOK_DEVICES);
                devices.iter().for_each(|device| attr::put_str(buf, flowtable::DEVICE_NAME, device));
                attr::end_nest(buf, list);
            }
            attr::end_nest(buf, hook);
        });
    }
}

/// `ct status dnat ct packets > 20 flow add @portway`, as `nft` writes it.
fn rule() -> Vec<Code> {
    // What differs between families is not in this rule.
    let translated = encode_rule(Family::Ipv4, &vec![Term::Translated]).into_iter().map(Code::Plain);
    let number = FAST_AFTER_PACKETS.to_be_bytes().to_vec();
    translated.chain([Code::Packets, Code::NetworkOrder, Code::Greater(number), Code::FlowAdd]).collect()
}

fn encode(code: &Code) -> Expression {
    let register = expr::register(0);
    match code {
        Code::Plain(plain) => expr::encode(Family::Ipv4, plain),
        Code::Packets => {
            Expression::new(c"ct").u32(sys::NFTNL_EXPR_CT_KEY, x::CT_PACKETS).u32(sys::NFTNL_EXPR_CT_DREG, register)
        }
        Code::NetworkOrder => Expression::new(c"byteorder")
            .u32(sys::NFTNL_EXPR_BYTEORDER_SREG, register)
            .u32(sys::NFTNL_EXPR_BYTEORDER_DREG, register)
            .u32(sys::NFTNL_EXPR_BYTEORDER_OP, x::BYTEORDER_HTON)
            .u32(sys::NFTNL_EXPR_BYTEORDER_LEN, 8)
            .u32(sys::NFTNL_EXPR_BYTEORDER_SIZE, 8),
        Code::Greater(number) => Expression::new(c"cmp")
            .u32(sys::NFTNL_EXPR_CMP_SREG, register)
            .u32(sys::NFTNL_EXPR_CMP_OP, x::CMP_GT)
            .data(sys::NFTNL_EXPR_CMP_DATA, number),
        Code::FlowAdd => Expression::new(c"flow_offload").str(sys::NFTNL_EXPR_FLOW_TABLE_NAME, TABLE_NAME),
    }
}

/// An instruction the kernel has; `None` when it is none we would write.
fn decode(expression: Attr<'_>) -> Option<Code> {
    if let Some(plain) = expr::decode(Family::Ipv4, expression) {
        return Some(Code::Plain(plain));
    }
    let data = expression.nested().nested_of(abi::EXPR_DATA)?;
    let is_first = |kind| data.u32_of(kind).and_then(expr::read_register) == Some(0);
    let code = match expression.nested().str_of(abi::EXPR_NAME)? {
        "ct" if is_first(1) && data.u32_of(2)? == x::CT_PACKETS && data.find_kind(3).is_none() => Code::Packets,
        "byteorder"
            if is_first(1)
                && is_first(2)
                && (3..6).map(|kind| data.u32_of(kind)).eq([x::BYTEORDER_HTON, 8, 8].map(Some)) =>
        {
            Code::NetworkOrder
        }
        "cmp" if is_first(1) && data.u32_of(2)? == x::CMP_GT => {
            Code::Greater(data.nested_of(3)?.find_kind(abi::DATA_VALUE)?.value.to_vec())
        }
        "flow_offload" if data.str_of(1)? == TABLE_NAME => Code::FlowAdd,
        _ => return None,
    };
    Some(code)
}

fn is_chain(attrs: &Attrs<'_>) -> bool {
    attrs.nested_of(abi::chain::HOOK).is_some_and(|hook| {
        hook.u32_of(abi::chain::HOOK_NUM) == Some(FORWARD)
            && hook.u32_of(abi::chain::HOOK_PRIORITY) == Some(FAST_PRIORITY as u32)
            && attrs.str_of(abi::chain::TYPE) == Some("filter")
            && attrs.u32_of(abi::chain::POLICY) == Some(abi::chain::POLICY_ACCEPT)
    })
}

/// The interfaces of a flow table; `None` when it is not as Portway makes it.
fn read_flowtable(attrs: &Attrs<'_>) -> Option<FastDevices> {
    let hook = attrs.nested_of(flowtable::HOOK)?;
    let is_ours = hook.u32_of(flowtable::HOOK_NUM)? == INGRESS.0
        && hook.u32_of(flowtable::HOOK_PRIORITY)? == INGRESS.1 as u32
        && attrs.u32_of(flowtable::FLAGS).unwrap_or(0) == 0;
    let devices = hook.nested_of(flowtable::HOOK_DEVICES).into_iter().flatten();
    is_ours.then(|| devices.filter_map(|device| Some(device.str()?.into())).collect())
}
