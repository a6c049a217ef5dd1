//! Reading our tables back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::abi::{self, elem};
use super::attr::{self, Attrs};
use super::declare::Declaration;
use super::elements::{ElementReader, ForeignElement};
use super::expr;
use super::link::{Link, Message, RequestError, retry_interrupted};
use super::lookup;
use crate::model::Family;
use crate::ruleset::{ChainId, Elements, Expr, Foreign, ForeignKind, KernelError, Keys, Part, SetId, SetName, Table};

/// A set that is being resized for longer than this many listings is taken as listed.
const RESIZE_TRIES: u32 = 5;
/// Pause between listings of a set that is being resized.
const RESIZE_PAUSE: Duration = Duration::from_millis(5);
/// What is being done, for errors.
const READING: &str = "reading the table back";

/// A table's own attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableInfo {
    pub(super) flags: u32,
    /// The netlink port of the socket that owns it.
    pub(super) owner: Option<u32>,
}

/// Asks for a table of a family; `None` when there is none.
pub(super) fn table_info(link: &mut Link, family: Family, name: &str) -> Result<Option<TableInfo>, KernelError> {
    let result = link.get(
        abi::msg::GETTABLE,
        expr::nfproto(family),
        |buf| attr::put_str(buf, abi::table::NAME, name),
        |message| {
            let flags = message.attrs.u32_of(abi::table::FLAGS).unwrap_or(0);
            Ok(TableInfo { flags, owner: message.attrs.u32_of(abi::table::OWNER) })
        },
    );
    match result {
        Ok(info) => Ok(info),
        Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
        Err(error) => Err(error.into_kernel("looking for the table")),
    }
}

/// Reads a table whole. With `want_flags`, a table that lacks one of them is foreign.
pub(super) fn table(
    link: &mut Link,
    family: Family,
    name: &str,
    want_flags: u32,
) -> Result<Option<Table>, KernelError> {
    retry_interrupted(READING, || {
        let before = generation(link)?;
        let Some(info) = table_info(link, family, name)? else { return Ok(Some(None)) };
        let mut reader = Reader { link, family, name, interrupted: false, table: Table::default() };
        if info.flags & want_flags != want_flags || info.flags & !(abi::table::F_OWNER | abi::table::F_PERSIST) != 0 {
            reader.table.foreign.push(Foreign::Other(format!("flags {:#x} of the table", info.flags)));
        }
        let owned = info.owner == Some(reader.link.port_id());
        match reader.read() {
            Ok(()) => {}
            // Something went away between two dumps.
            Err(RequestError::Errno(libc::ENOENT)) => return Ok(None),
            Err(error) => return Err(error.into_kernel(READING)),
        }
        let (table, interrupted) = (reader.table, reader.interrupted);
        // Nobody else can change a table of ours, whatever happens elsewhere.
        let undisturbed = owned || (!interrupted && generation(link)? == before);
        Ok(undisturbed.then_some(Some(table)))
    })
}

/// Reads a part of a table; `None` when that is not there, or not in one piece.
pub(super) fn part(link: &mut Link, family: Family, name: &str, part: &Part) -> Result<Option<Table>, KernelError> {
    retry_interrupted(READING, || {
        let mut reader = Reader { link, family, name, interrupted: false, table: Table::default() };
        match reader.part(part) {
            // What changes between two questions is told, and read again.
            Ok(complete) => Ok((!reader.interrupted).then(|| complete.then_some(reader.table))),
            Err(RequestError::Errno(libc::ENOENT)) => Ok(Some(None)),
            Err(error) => Err(error.into_kernel(READING)),
        }
    })
}

/// Reads the elements of a set.
pub(super) fn elements(link: &mut Link, family: Family, table: &str, set: SetName) -> Result<Elements, KernelError> {
    let doing = "reading the elements of a set";
    retry_interrupted(doing, || {
        let before = generation(link)?;
        let owned = table_info(link, family, table)?.is_some_and(|info| info.owner == Some(link.port_id()));
        let read = dump_elements(link, family, table, set).map_err(|error| error.into_kernel(doing))?;
        let reader = read.map_err(|ForeignElement(what)| KernelError::Garbled { doing, what })?;
        // The kernel does not mark dumps of elements as interrupted.
        let undisturbed = owned || generation(link)? == before;
        let complete = undisturbed && !reader.has_duplicates();
        Ok(complete.then(|| reader.finish()))
    })
}

type ElementDump = Result<ElementReader, ForeignElement>;

fn dump_elements(link: &mut Link, family: Family, table: &str, set: SetName) -> Result<ElementDump, RequestError> {
    let (name, mut reader) = (set.to_string(), ElementReader::new(family, set.set));
    let mut foreign = None;
    link.dump(
        abi::msg::GETSETELEM,
        expr::nfproto(family),
        |buf| {
            attr::put_str(buf, elem::LIST_TABLE, table);
            attr::put_str(buf, elem::LIST_SET, &name);
        },
        |message| {
            if foreign.is_none() {
                foreign = reader.message(&message.attrs).err();
            }
            Ok(())
        },
    )?;
    Ok(foreign.map_or(Ok(reader), Err))
}

struct Reader<'a> {
    link: &'a mut Link,
    family: Family,
    name: &'a str,
    interrupted: bool,
    table: Table,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), RequestError> {
        self.chains()?;
        self.rules()?;
        self.sets()
    }

    /// Reads a part; whether all of it was there.
    fn part(&mut self, part: &Part) -> Result<bool, RequestError> {
        if part.structure {
            self.chains()?;
            self.rules()?;
            self.objects(abi::msg::GETOBJ)?;
            self.objects(abi::msg::GETFLOWTABLE)?;
        }
        let by_key = |keys: &Keys| matches!(keys, Keys::These(_));
        let known =
            if part.structure || !part.sets.values().all(by_key) { self.declarations()? } else { BTreeMap::new() };
        if part.structure {
            self.table.settle_names(known.keys().copied().collect());
        }
        for (name, keys) in &part.sets {
            match keys {
                Keys::These(keys) => {
                    let found = lookup::some(self.link, (self.family, self.name), *name, keys)?;
                    self.table.sets.insert(name.set, found);
                }
                Keys::All => match known.get(name) {
                    Some((_, count)) => self.elements(*name, *count)?,
                    None => return Ok(false),
                },
            }
        }
        Ok(true)
    }

    /// The kernel cannot list the chains of one table only: those of others are passed over unread.
    fn chains(&mut self) -> Result<(), RequestError> {
        let name = self.name;
        let (chains, interrupted) = self.link.dump(
            abi::msg::GETCHAIN,
            expr::nfproto(self.family),
            |_| {},
            |message| {
                let attrs = message.attrs;
                if attrs.str_of(abi::chain::TABLE) != Some(name) {
                    return Ok(None);
                }
                let name = attrs.str_of(abi::chain::NAME).ok_or_else(|| garbled("a chain without name"))?;
                Ok(Some(match name.parse::<ChainId>() {
                    Ok(chain) if is_as_declared(chain, &attrs) => Ok(chain),
                    Ok(_) => Err(Foreign::Other(format!("chain {name}"))),
                    Err(_) => Err(Foreign::Object(ForeignKind::Chain, name.to_owned())),
                }))
            },
        )?;
        self.interrupted |= interrupted;
        for chain in chains.into_iter().flatten() {
            match chain {
                Ok(chain) => drop(self.table.chains.insert(chain, Vec::new())),
                Err(foreign) => self.table.foreign.push(foreign),
            }
        }
        Ok(())
    }

    fn rules(&mut self) -> Result<(), RequestError> {
        let (family, name) = (self.family, self.name);
        let (rules, interrupted) = self.link.dump(
            abi::msg::GETRULE,
            expr::nfproto(family),
            |buf| attr::put_str(buf, abi::rule::TABLE, name),
            |message| Ok(read_rule(family, name, &message)),
        )?;
        self.interrupted |= interrupted;
        for (chain, code) in rules.into_iter().flatten() {
            let chain = chain.parse().ok();
            let known = chain.and_then(|chain: ChainId| Some((chain, self.table.chains.get_mut(&chain)?)));
            match (known, code) {
                (Some((_, rules)), Some(code)) => rules.push(code),
                (Some((chain, rules)), None) => {
                    let number = rules.len() + 1;
                    self.table.foreign.push(Foreign::Rule { chain, number });
                }
                // The chain is foreign, and that says it all.
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Stateful objects, or flowtables: ours has none.
    fn objects(&mut self, kind: u16) -> Result<(), RequestError> {
        let name = self.name;
        let (objects, interrupted) = self.link.dump(
            kind,
            expr::nfproto(self.family),
            |buf| attr::put_str(buf, abi::table::NAME, name),
            |message| Ok(read_object(kind, name, &message.attrs)),
        )?;
        self.interrupted |= interrupted;
        self.table.foreign.extend(objects.into_iter().flatten());
        Ok(())
    }

    fn sets(&mut self) -> Result<(), RequestError> {
        let known = self.declarations()?;
        self.table.settle_names(known.keys().copied().collect());
        for (name, (size, count)) in known {
            if name == self.table.names.of(name.set) {
                self.table.sizes.extend((size > 0).then_some((name.set, size)));
                self.elements(name, count)?;
            }
        }
        Ok(())
    }

    /// The sets and maps that are as declared, with their size and the number of their elements where the kernel says it.
    fn declarations(&mut self) -> Result<BTreeMap<SetName, (u32, Option<u32>)>, RequestError> {
        let (family, name) = (self.family, self.name);
        let (sets, interrupted) = self.link.dump(
            abi::msg::GETSET,
            expr::nfproto(family),
            |buf| attr::put_str(buf, abi::set::TABLE, name),
            |message| {
                let attrs = message.attrs;
                if attrs.str_of(abi::set::TABLE) != Some(name) || is_anonymous(&attrs) {
                    return Ok(None);
                }
                let name = attrs.str_of(abi::set::NAME).ok_or_else(|| garbled("a set without name"))?;
                let Ok(name) = name.parse::<SetName>() else {
                    return Ok(Some(Err(Foreign::Object(ForeignKind::Set, name.to_owned()))));
                };
                let size = size_as_declared(family, name.set, &attrs);
                let known = size.map(|size| (name, (size, attrs.u32_of(abi::set::COUNT))));
                Ok(Some(known.ok_or_else(|| Foreign::Other(format!("set {name}")))))
            },
        )?;
        self.interrupted |= interrupted;
        let mut known = BTreeMap::new();
        for set in sets.into_iter().flatten() {
            match set {
                Ok((name, declared)) => drop(known.insert(name, declared)),
                Err(foreign) => self.table.foreign.push(foreign),
            }
        }
        Ok(known)
    }

    fn elements(&mut self, name: SetName, count: Option<u32>) -> Result<(), RequestError> {
        let (set, spec) = (name.set, name.set.spec());
        // Elements of dynamic maps come and go; a range is two elements to the kernel.
        let count = count.filter(|_| !spec.interval && !spec.dynamic);
        if let Some(reader) = lookup::endpoints(self.link, (self.family, self.name), &self.table, name, count) {
            self.table.sets.insert(set, reader.finish());
            return Ok(());
        }
        for attempt in 1.. {
            let read = dump_elements(self.link, self.family, self.name, name)?;
            if let Ok(reader) = &read {
                // A set that is being resized is listed with gaps or repetitions.
                let complete = !reader.has_duplicates() && count.is_none_or(|count| count as usize == reader.count());
                if !complete && attempt < RESIZE_TRIES {
                    tracing::debug!(set = %name, ?count, read = reader.count(), "incomplete listing, trying again");
                    std::thread::sleep(RESIZE_PAUSE);
                    continue;
                }
            }
            match read {
                Ok(reader) => drop(self.table.sets.insert(set, reader.finish())),
                Err(ForeignElement(what)) => self.table.foreign.push(Foreign::Other(what)),
            }
            break;
        }
        Ok(())
    }
}

fn generation(link: &mut Link) -> Result<u32, KernelError> {
    link.generation().map_err(|error| error.into_kernel(READING))
}

fn garbled(what: &str) -> KernelError {
    KernelError::Garbled { doing: READING, what: what.to_owned() }
}

pub(super) fn read_rule(family: Family, table: &str, message: &Message<'_>) -> Option<(String, Option<Vec<Expr>>)> {
    let attrs = &message.attrs;
    if attrs.str_of(abi::rule::TABLE) != Some(table) {
        return None;
    }
    let chain = attrs.str_of(abi::rule::CHAIN)?.to_owned();
    let expressions = attrs.nested_of(abi::rule::EXPRESSIONS).unwrap_or(Attrs::new(&[]));
    Some((chain, expr::decode_all(family, expressions)))
}

pub(super) fn read_object(kind: u16, table: &str, attrs: &Attrs<'_>) -> Option<Foreign> {
    if attrs.str_of(abi::table::NAME) != Some(table) {
        return None;
    }
    let is_flowtable = kind == abi::msg::GETFLOWTABLE;
    let name_attr = if is_flowtable { abi::flowtable::NAME } else { abi::object::NAME };
    let name = attrs.str_of(name_attr)?.to_owned();
    let kind =
        if is_flowtable { ForeignKind::Flowtable } else { ForeignKind::Stateful(attrs.u32_of(abi::object::TYPE)?) };
    Some(Foreign::Object(kind, name))
}

/// Whether a set is part of a rule.
fn is_anonymous(attrs: &Attrs<'_>) -> bool {
    attrs.u32_of(abi::set::FLAGS).is_some_and(|flags| flags & abi::set::F_ANONYMOUS != 0)
}

/// Whether hook, priority, type and policy are what the chain's name stands for.
pub(super) fn is_as_declared(chain: ChainId, attrs: &Attrs<'_>) -> bool {
    let hook = attrs.nested_of(abi::chain::HOOK);
    match (chain.base(), hook) {
        (None, None) => true,
        (Some(base), Some(hook)) => {
            hook.u32_of(abi::chain::HOOK_NUM) == Some(base.hook)
                && hook.u32_of(abi::chain::HOOK_PRIORITY) == Some(base.priority as u32)
                && attrs.str_of(abi::chain::TYPE) == Some("nat")
                && attrs.u32_of(abi::chain::POLICY) == Some(abi::chain::POLICY_ACCEPT)
        }
        _ => false,
    }
}

/// The size the set was given where its declaration leaves that open, else 0; `None` when it is not as declared.
fn size_as_declared(family: Family, set: SetId, attrs: &Attrs<'_>) -> Option<u32> {
    let (wanted, found) = (Declaration::of(family, &set.spec()), read_declaration(attrs)?);
    let size = if set.is_sizable() { found.size } else { 0 };
    (Declaration { size: found.size - size, ..found } == wanted).then_some(size)
}

pub(super) fn read_declaration(attrs: &Attrs<'_>) -> Option<Declaration> {
    let data_type = attrs.u32_of(abi::set::DATA_TYPE);
    let verdict = data_type == Some(abi::set::VERDICT_TYPE);
    let data = match data_type.filter(|_| !verdict) {
        Some(data_type) => Some((data_type, attrs.u32_of(abi::set::DATA_LEN)?)),
        None => None,
    };
    let counter = attrs.nested_of(abi::set::EXPR).and_then(|expr| expr.str_of(abi::EXPR_NAME)) == Some("counter");
    Some(Declaration {
        flags: attrs.u32_of(abi::set::FLAGS).unwrap_or(0),
        key_type: attrs.u32_of(abi::set::KEY_TYPE)?,
        key_len: attrs.u32_of(abi::set::KEY_LEN)?,
        data,
        verdict,
        size: attrs.nested_of(abi::set::DESC).and_then(|desc| desc.u32_of(abi::set::DESC_SIZE)).unwrap_or(0),
        counter,
    })
}
