//! Reading our tables back.

mod in_use;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::abi::{self, elem};
use super::attr::{self, Attrs};
use super::batch::Batch;
use super::declare::Declaration;
use super::elements::{ElementReader, ForeignElement};
use super::ffi::Scratch;
use super::link::{Answer, Link, Message, RequestError};
use super::{TRIAL_TABLE, expr, lookup, objects};
use crate::model::Family;
use crate::ruleset::{
    ChainId, Elements, Expr, Foreign, ForeignKind, KernelError, Keys, Op, Part, SetId, SetName, Table, Touched,
};

/// A set that is being resized for longer than this many listings is taken as listed.
const RESIZE_TRIES: u32 = 5;
/// Pause between listings of a set that is being resized.
const RESIZE_PAUSE: Duration = Duration::from_millis(5);
/// Tries to read what others keep changing.
const READ_TRIES: u32 = 20;
/// Pause before the next try; grows with every one.
const READ_PAUSE: Duration = Duration::from_millis(2);
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
    undisturbed(
        link,
        READING,
        (family, name),
        |touched| !touched.is_empty(),
        |link| {
            let Some(info) = table_info(link, family, name)? else { return Ok(Some(None)) };
            let mut reader = Reader { link, family, name, in_use: false, table: Table::default() };
            if info.flags & want_flags != want_flags || info.flags & !(abi::table::F_OWNER | abi::table::F_PERSIST) != 0
            {
                reader.table.foreign.push(Foreign::Other(format!("flags {:#x} of the table", info.flags)));
            }
            match reader.read() {
                Ok(()) => Ok(Some(Some(reader.table))),
                // Something went away between two dumps.
                Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
                Err(error) => Err(error.into_kernel(READING)),
            }
        },
    )
}

/// Reads a table for those who only look, while others may change it: everything they leave alone is right.
pub(super) fn table_in_use(link: &mut Link, family: Family, name: &str) -> Result<Option<Table>, KernelError> {
    for _ in 0..READ_TRIES {
        if table_info(link, family, name)?.is_none() {
            return Ok(None);
        }
        link.listen().map_err(|source| KernelError::Io { doing: READING, source })?;
        let mut reader = Reader { link, family, name, in_use: true, table: Table::default() };
        let result = reader.read();
        let table = reader.table;
        link.end_listening();
        match result {
            Ok(()) => return Ok(Some(table)),
            // A map has got a successor, or the table is made anew.
            Err(RequestError::Errno(libc::ENOENT)) => std::thread::sleep(READ_PAUSE),
            Err(error) => return Err(error.into_kernel(READING)),
        }
    }
    Err(RequestError::Errno(libc::ENOENT).into_kernel(READING))
}

/// Reads a part of a table; `None` when that is not there, or not in one piece.
pub(super) fn part(link: &mut Link, family: Family, name: &str, part: &Part) -> Result<Option<Table>, KernelError> {
    let mut reader = Reader { link, family, name, in_use: false, table: Table::default() };
    match reader.part(part) {
        // What changes between two questions is told, and read again.
        Ok(complete) => Ok(complete.then_some(reader.table)),
        Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
        Err(error) => Err(error.into_kernel(READING)),
    }
}

/// Reads the elements of a set.
pub(super) fn elements(link: &mut Link, family: Family, table: &str, set: SetName) -> Result<Elements, KernelError> {
    let doing = "reading the elements of a set";
    let concerns = |touched: &Touched| match touched {
        Touched::Everything => true,
        Touched::Parts(parts) => parts.get(&family).is_some_and(|part| part.sets.contains_key(&set)),
    };
    undisturbed(link, doing, (family, table), concerns, |link| {
        let read = complete_elements(link, (family, table), set, None).map_err(|error| error.into_kernel(doing))?;
        let reader = read.map_err(|ForeignElement(what)| KernelError::Garbled { doing, what })?;
        Ok(Some(reader.finish()))
    })
}

/// Reads until nobody else changes meanwhile what was read: `concerns` says whether a change does. A table of ours nobody
/// else can change. Changes of others' tables do not disturb: see [`Reader`].
fn undisturbed<T>(
    link: &mut Link,
    doing: &'static str,
    (family, name): (Family, &str),
    concerns: impl Fn(&Touched) -> bool,
    mut read: impl FnMut(&mut Link) -> Result<Option<T>, KernelError>,
) -> Result<T, KernelError> {
    let mut by = None;
    for attempt in 0..READ_TRIES {
        let owned = table_info(link, family, name)?.is_some_and(|info| info.owner == Some(link.port_id()));
        if owned {
            if let Some(result) = read(link)? {
                return Ok(result);
            }
        } else {
            let watch = Watch::begin(link, doing)?;
            let result = read(link);
            let (touched, who) = watch.end(link)?;
            match result? {
                Some(result) if !concerns(&touched) => return Ok(result),
                _ => by = who.or(by),
            }
        }
        std::thread::sleep(READ_PAUSE * (attempt + 1));
    }
    let by = by.unwrap_or_else(|| "somebody".to_owned());
    let cause = format!("{by} changes table {} {name} all the time", family.nft());
    Err(KernelError::Io { doing, source: io::Error::other(cause) })
}

/// The announcements of what others change while something is read.
struct Watch {
    doing: &'static str,
    /// All transactions up to this generation were over when reading began.
    generation: u32,
}

impl Watch {
    fn begin(link: &mut Link, doing: &'static str) -> Result<Self, KernelError> {
        link.listen().map_err(|source| KernelError::Io { doing, source })?;
        let generation = generation(link)?;
        wait_for_commits(link, doing)?;
        Ok(Self { doing, generation })
    }

    /// What was touched meanwhile, as far as it can have been seen, and by whom; everything when that is not known.
    fn end(self, link: &mut Link) -> Result<(Touched, Option<String>), KernelError> {
        let end = generation(link);
        let Some(mut announcements) = link.end_listening() else { return Ok((Touched::Everything, None)) };
        let end = end?;
        let all = end == self.generation || announcements.catch_up(end).map_err(|source| self.error(source))?;
        let (touched, by) = announcements.take();
        Ok((if all { touched } else { Touched::Everything }, by))
    }

    fn error(&self, source: io::Error) -> KernelError {
        KernelError::Io { doing: self.doing, source }
    }
}

/// Waits until transactions that others have begun are over: one at a time has its turn.
fn wait_for_commits(link: &mut Link, doing: &'static str) -> Result<(), KernelError> {
    let mut batch = Batch::new(link.next_seq(), Scratch::new());
    objects::write(&mut batch, 0, Family::Ipv4, TRIAL_TABLE, &Op::AddTable, 0);
    batch.finish(true);
    match link.send_batch(&batch).map_err(|source| KernelError::Io { doing, source })? {
        Answer::Failed(failure) => Err(RequestError::Errno(failure.errno).into_kernel(doing)),
        Answer::Done | Answer::Unknown => Ok(()),
    }
}

/// How many elements a set has, where the kernel says it.
fn set_count(link: &mut Link, (family, table): (Family, &str), set: SetName) -> Result<Option<u32>, RequestError> {
    let count = link.get(
        abi::msg::GETSET,
        expr::nfproto(family),
        |buf| {
            attr::put_str(buf, abi::set::TABLE, table);
            attr::put_str(buf, abi::set::NAME, &set.to_string());
        },
        |message| Ok(message.attrs.u32_of(abi::set::COUNT)),
    )?;
    Ok(count.flatten())
}

type ElementDump = Result<ElementReader, ForeignElement>;

/// Lists a set. `count` is the number of elements the kernel says it has.
fn complete_elements(
    link: &mut Link,
    (family, table): (Family, &str),
    set: SetName,
    count: Option<u32>,
) -> Result<ElementDump, RequestError> {
    for attempt in 1.. {
        let (read, interrupted) = dump_elements(link, family, table, set)?;
        if let Ok(reader) = &read {
            // A set that is being resized is listed with gaps or repetitions, and packets write some while they are listed.
            let complete =
                !interrupted && !reader.has_duplicates() && count.is_none_or(|count| count as usize == reader.count());
            if !complete && attempt < RESIZE_TRIES {
                tracing::debug!(%set, ?count, read = reader.count(), "incomplete listing, trying again");
                std::thread::sleep(RESIZE_PAUSE);
                continue;
            }
        }
        return Ok(read);
    }
    Err(RequestError::Errno(libc::EINTR))
}

fn dump_elements(
    link: &mut Link,
    family: Family,
    table: &str,
    set: SetName,
) -> Result<(ElementDump, bool), RequestError> {
    let (name, mut reader) = (set.to_string(), ElementReader::new(family, set.set));
    let mut foreign = None;
    let (_, interrupted) = link.dump(
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
    Ok((foreign.map_or(Ok(reader), Err), interrupted))
}

/// The name of a rule's chain, and its instructions; `None` when it is none we would write.
type ReadRule = (String, Option<Vec<Expr>>);

/// Reads a table object by object.
///
/// What others do to their own tables changes nothing of what is read. The kernel sends a dump in parts and goes on by
/// counting: in dumps of rules, of sets and of elements it counts what is in our table only. Dumps of chains count those of
/// all tables, so they are used to find chains that are not ours; ours are asked for by their names.
struct Reader<'a> {
    link: &'a mut Link,
    family: Family,
    name: &'a str,
    /// Others change it, and nobody waits until they do not.
    in_use: bool,
    table: Table,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), RequestError> {
        self.chains_and_rules()?;
        self.sets()
    }

    /// Reads a part; whether all of it was there.
    fn part(&mut self, part: &Part) -> Result<bool, RequestError> {
        if part.structure {
            self.chains_and_rules()?;
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

    fn chains_and_rules(&mut self) -> Result<(), RequestError> {
        let rules = self.rules()?;
        self.list_chains()?;
        // Each chain of ours is either always there or has rules.
        let named: BTreeSet<ChainId> = rules.iter().filter_map(|(chain, _)| chain.parse().ok()).collect();
        for chain in named.into_iter().chain(ChainId::FIXED) {
            if !self.table.chains.contains_key(&chain) {
                self.chain(chain)?;
            }
        }
        for (chain, code) in rules {
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

    /// The rules of all chains.
    fn rules(&mut self) -> Result<Vec<ReadRule>, RequestError> {
        let (family, name) = (self.family, self.name);
        let rules = self.link.dump_again(
            abi::msg::GETRULE,
            expr::nfproto(family),
            |buf| attr::put_str(buf, abi::rule::TABLE, name),
            |message| Ok(read_rule(family, name, &message)),
        )?;
        Ok(rules.into_iter().flatten().collect())
    }

    /// The kernel cannot list the chains of one table only: those of others are passed over unread.
    fn list_chains(&mut self) -> Result<(), RequestError> {
        let name = self.name;
        let chains = self.link.dump_again(
            abi::msg::GETCHAIN,
            expr::nfproto(self.family),
            |_| {},
            |message| read_chain(name, &message.attrs),
        )?;
        chains.into_iter().flatten().for_each(|chain| self.found_chain(chain));
        Ok(())
    }

    /// Looks for a chain by its name.
    fn chain(&mut self, chain: ChainId) -> Result<(), RequestError> {
        let name = self.name;
        let found = self.link.get(
            abi::msg::GETCHAIN,
            expr::nfproto(self.family),
            |buf| {
                attr::put_str(buf, abi::chain::TABLE, name);
                attr::put_str(buf, abi::chain::NAME, &chain.to_string());
            },
            |message| read_chain(name, &message.attrs),
        );
        match found {
            Ok(found) => found.flatten().into_iter().for_each(|chain| self.found_chain(chain)),
            Err(RequestError::Errno(libc::ENOENT)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn found_chain(&mut self, chain: Result<ChainId, Foreign>) {
        match chain {
            Ok(chain) => drop(self.table.chains.insert(chain, Vec::new())),
            Err(foreign) => {
                // One that is not as declared is found in the list and by its name.
                if !self.table.foreign.contains(&foreign) {
                    self.table.foreign.push(foreign);
                }
            }
        }
    }

    /// Stateful objects, or flowtables: ours has none.
    fn objects(&mut self, kind: u16) -> Result<(), RequestError> {
        let name = self.name;
        let objects = self.link.dump_again(
            kind,
            expr::nfproto(self.family),
            |buf| attr::put_str(buf, abi::table::NAME, name),
            |message| Ok(read_object(kind, name, &message.attrs)),
        )?;
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
        let sets = self.link.dump_again(
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
        if !self.in_use
            && let Some(reader) = lookup::endpoints(self.link, (self.family, self.name), &self.table, name, count)
        {
            self.table.sets.insert(set, reader.finish());
            return Ok(());
        }
        let whose = (self.family, self.name);
        let read = if self.in_use {
            in_use::elements(self.link, whose, &self.table, name)?
        } else {
            complete_elements(self.link, whose, name, count)?.map(|reader| reader.finish())
        };
        match read {
            Ok(elements) => drop(self.table.sets.insert(set, elements)),
            Err(ForeignElement(what)) => self.table.foreign.push(Foreign::Other(what)),
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

/// Reads a chain; `None` when it is in another table.
fn read_chain(table: &str, attrs: &Attrs<'_>) -> Result<Option<Result<ChainId, Foreign>>, KernelError> {
    if attrs.str_of(abi::chain::TABLE) != Some(table) {
        return Ok(None);
    }
    let name = attrs.str_of(abi::chain::NAME).ok_or_else(|| garbled("a chain without name"))?;
    Ok(Some(match name.parse::<ChainId>() {
        Ok(chain) if is_as_declared(chain, attrs) => Ok(chain),
        Ok(_) => Err(Foreign::Other(format!("chain {name}"))),
        Err(_) => Err(Foreign::Object(ForeignKind::Chain, name.to_owned())),
    }))
}

pub(super) fn read_rule(family: Family, table: &str, message: &Message<'_>) -> Option<ReadRule> {
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
