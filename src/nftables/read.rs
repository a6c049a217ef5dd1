//! Reading our tables back.

mod by_key;
mod in_use;
mod listing;
pub(crate) mod objects;
mod table;
mod undisturbed;

use std::collections::{BTreeMap, BTreeSet};

use super::connection::{Connection, RequestError};
use super::elements::ForeignElement;
use crate::model::Family;
use crate::ruleset::{ChainId, ChangedParts, Elements, Foreign, ForeignKind, KernelError, Keys, Part, SetName, Table};
use crate::wire::{abi, attr, expr};
use listing::list;
use objects::{READING, ReadRule, garbled, is_anonymous, read_chain, read_object, read_rule, size_as_declared};
pub(crate) use table::table_info;
use undisturbed::{READ_PAUSE, READ_TRIES, undisturbed};

/// How a table is read whole.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadOptions {
    /// A table that lacks one of these flags is foreign.
    pub(crate) want_flags: u32,
    /// All elements are listed, also where it takes long: some may be there that nothing leads to.
    pub(crate) list_all: bool,
    /// The kernel does not say how many elements a map has (before Linux 6.16).
    pub(crate) no_counts: bool,
}

/// Reads a table whole.
pub(crate) fn table(
    connection: &mut Connection,
    family: Family,
    name: &str,
    options: ReadOptions,
) -> Result<Option<Table>, KernelError> {
    // That there is none is one answer, which no commit cuts in two; so nobody's commit is waited for.
    if table_info(connection, family, name)?.is_none() {
        return Ok(None);
    }
    undisturbed(
        connection,
        READING,
        (family, name),
        |touched| !touched.is_empty(),
        |connection| {
            let Some(info) = table_info(connection, family, name)? else { return Ok(Some(None)) };
            let mut reader = TableReader { connection, family, name, in_use: false, options, table: Table::default() };
            let want_flags = options.want_flags;
            if info.flags & want_flags != want_flags || info.flags & !(abi::table::F_OWNER | abi::table::F_PERSIST) != 0
            {
                reader.table.foreign.push(Foreign::Other(format!("flags {:#x} of the table", info.flags)));
            }
            match reader.read() {
                Ok(()) => Ok(Some(Some(reader.table))),
                // Something was deleted between two dumps.
                Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
                Err(error) => Err(error.into_kernel(READING)),
            }
        },
    )
}

/// Reads a table while its owner may change it: everything that does not change meanwhile is right.
pub(crate) fn table_in_use(
    connection: &mut Connection,
    family: Family,
    name: &str,
) -> Result<Option<Table>, KernelError> {
    for _ in 0..READ_TRIES {
        if table_info(connection, family, name)?.is_none() {
            return Ok(None);
        }
        connection.listen().map_err(|source| KernelError::Io { doing: READING, source })?;
        let (options, table) = (ReadOptions::default(), Table::default());
        let mut reader = TableReader { connection, family, name, in_use: true, options, table };
        let result = reader.read();
        let table = reader.table;
        connection.end_listening();
        match result {
            Ok(()) => return Ok(Some(table)),
            // A map is replaced by a larger one, or the table by a new one.
            Err(RequestError::Errno(libc::ENOENT)) => std::thread::sleep(READ_PAUSE),
            Err(error) => return Err(error.into_kernel(READING)),
        }
    }
    Err(RequestError::Errno(libc::ENOENT).into_kernel(READING))
}

/// Reads a part of a table; `None` when that is not there, or not in one piece.
pub(crate) fn part(
    connection: &mut Connection,
    family: Family,
    name: &str,
    part: &Part,
) -> Result<Option<Table>, KernelError> {
    let (options, table) = (ReadOptions::default(), Table::default());
    let mut reader = TableReader { connection, family, name, in_use: false, options, table };
    match reader.part(part) {
        // What changes between two requests is announced, and read again.
        Ok(complete) => Ok(complete.then_some(reader.table)),
        Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
        Err(error) => Err(error.into_kernel(READING)),
    }
}

/// Reads the elements of a set.
pub(crate) fn elements(
    connection: &mut Connection,
    family: Family,
    table: &str,
    set: SetName,
) -> Result<Elements, KernelError> {
    let doing = "reading the elements of a set";
    let concerns = |touched: &ChangedParts| match touched {
        ChangedParts::Everything => true,
        ChangedParts::Parts(parts) => parts.get(&family).is_some_and(|part| part.sets.contains_key(&set)),
    };
    undisturbed(connection, doing, (family, table), concerns, |connection| {
        let read = list(connection, (family, table), set, None).map_err(|error| error.into_kernel(doing))?;
        let reader = read.map_err(|ForeignElement(what)| KernelError::Garbled { doing, what })?;
        Ok(Some(reader.finish()))
    })
}

/// Reads a table object by object.
///
/// What others do to their own tables changes nothing of what is read. The kernel sends a dump in parts and goes on by
/// counting: in dumps of rules, of sets and of elements it counts what is in our table only. Dumps of chains count those of
/// all tables, so they are used to find chains that are not ours; ours are asked for by their names.
struct TableReader<'a> {
    connection: &'a mut Connection,
    family: Family,
    name: &'a str,
    /// Its owner may change it, and we do not wait for a moment without changes.
    in_use: bool,
    options: ReadOptions,
    table: Table,
}

impl TableReader<'_> {
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
            self.table.set_names_in_force(known.keys().copied().collect());
        }
        for (name, keys) in &part.sets {
            match keys {
                Keys::These(keys) => {
                    let found = by_key::some(self.connection, (self.family, self.name), *name, keys)?;
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
                // The chain is reported as foreign already.
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// The rules of all chains.
    fn rules(&mut self) -> Result<Vec<ReadRule>, RequestError> {
        let (family, name) = (self.family, self.name);
        let rules = self.connection.dump_again(
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
        let chains = self.connection.dump_again(
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
        let found = self.connection.get(
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
        let objects = self.connection.dump_again(
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
        self.table.set_names_in_force(known.keys().copied().collect());
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
        let sets = self.connection.dump_again(
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
        let count = count.filter(|_| !spec.interval && !spec.dynamic && !self.options.no_counts);
        if !self.in_use
            && !self.options.list_all
            && let Some(elements) =
                by_key::endpoints(self.connection, (self.family, self.name), &self.table, name, count)
        {
            self.table.sets.insert(set, elements);
            return Ok(());
        }
        let whose = (self.family, self.name);
        let read = if self.in_use {
            in_use::elements(self.connection, whose, &self.table, name)?
        } else {
            list(self.connection, whose, name, count)?.map(|reader| reader.finish())
        };
        match read {
            Ok(elements) => drop(self.table.sets.insert(set, elements)),
            Err(ForeignElement(what)) => self.table.foreign.push(Foreign::Other(what)),
        }
        Ok(())
    }
}
