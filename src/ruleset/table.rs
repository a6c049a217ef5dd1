//! A table as a whole, and changes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

#[cfg(any(test, feature = "testing"))]
use super::Term;
use super::{Bytes, ChainId, Element, Elements, Expr, Names, Rule, SetId, SetName, Verdict};
use crate::model::Family;

/// The name of our table in both families.
pub const TABLE_NAME: &str = "portway";

/// What the kernel holds of one of our tables, as read back.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The rules of each chain, as the kernel's instructions (see [`super::encode_rule`]).
    pub chains: BTreeMap<ChainId, Vec<Vec<Expr>>>,
    /// The elements of each set or map by key. Counter values and remaining timeouts are left out.
    pub sets: BTreeMap<SetId, Elements>,
    /// How many elements maps have room for; those without an entry grow by themselves.
    pub sizes: BTreeMap<SetId, u32>,
    /// Which names the rules use.
    pub names: Names,
    /// The optional sets that are there ([`SetId::is_optional`]).
    pub optional: BTreeSet<SetId>,
    /// Maps that are there besides and that no rule uses: a replacement was not finished.
    pub leftovers: Vec<SetName>,
    /// What is not ours, or not as [`ChainId`] and [`SetId`] declare it: the table was made by another version or changed by
    /// someone else. Found at start, it means that the table is replaced as a whole.
    pub foreign: Vec<Foreign>,
}

/// Something in our table that Portway does not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// An object with another name than ours.
    Object(ForeignKind, String),
    /// A rule in a chain of ours.
    Rule {
        /// The chain.
        chain: ChainId,
        /// Its place, from 1 on.
        number: usize,
    },
    /// What cannot be repaired on its own, described as text.
    Other(String),
}

/// What a foreign object is; in the order in which they can be deleted once their chains have no rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignKind {
    /// A set or map. Anonymous sets are not reported: they are deleted with their rule.
    Set,
    /// A chain.
    Chain,
    /// A stateful object of a type (`NFT_OBJECT_*`): a counter, a quota.
    Stateful(u32),
    /// A flowtable.
    Flowtable,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::Object(kind, name) => write!(f, "{kind} {name}"),
            Foreign::Rule { chain, number } => write!(f, "rule {number} of chain {chain}"),
            Foreign::Other(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for ForeignKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ForeignKind::Set => "set",
            ForeignKind::Chain => "chain",
            ForeignKind::Stateful(_) => "object",
            ForeignKind::Flowtable => "flowtable",
        })
    }
}

impl Table {
    /// Whether the table can be repaired piece by piece: all its objects are ours, and no set is missing.
    pub fn is_usable(&self) -> bool {
        self.foreign.is_empty() && SetId::always_there().all(|set| self.sets.contains_key(&set))
    }

    /// Whether packets enter the table. Where none do, an earlier load was not finished.
    pub fn is_in_force(&self) -> bool {
        !self.foreign.is_empty() || self.chains.keys().any(|chain| chain.is_base())
    }

    /// Says which of the sets that are there are in force, once all rules are read. Rules that no packet meets may name
    /// successors of maps.
    pub fn set_names_in_force(&mut self, present: BTreeSet<SetName>) {
        let rules = self.chains.values().flat_map(|rules| &rules[..end_of_chain(rules)]);
        let used = rules.flatten().filter_map(Expr::set).collect();
        match Names::in_force(&used, &present) {
            Ok(names) => self.names = names,
            Err(set) => {
                let words = format!("rules that name {} under both its names", SetName::from(set));
                self.foreign.push(Foreign::Other(words));
            }
        }
        self.optional = present.iter().map(|name| name.set).filter(|set| set.is_optional()).collect();
        self.leftovers = present.into_iter().filter(|name| *name != self.names.of(name.set)).collect();
    }
}

/// How many rules of a chain packets can meet: none behind one that drops all.
pub fn end_of_chain(rules: &[Vec<Expr>]) -> usize {
    end(rules, |rule| matches!(rule[..], [Expr::Immediate(Verdict::Drop)]))
}

/// The rules of a chain that packets can meet, as [`end_of_chain`].
#[cfg(any(test, feature = "testing"))]
pub fn rules_met(rules: &[Rule]) -> &[Rule] {
    &rules[..end(rules, |rule| matches!(rule[..], [Term::Verdict(Verdict::Drop)]))]
}

fn end<R>(rules: &[R], drops_all: impl Fn(&R) -> bool) -> usize {
    rules.iter().position(drops_all).map_or(rules.len(), |last| last + 1)
}

/// A table with rules in the words of `nft`: what [`crate::render`] prints and the tracer walks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The table's family.
    pub family: Family,
    /// Chains in the order they are listed.
    pub chains: Vec<(ChainId, Vec<Rule>)>,
    /// Elements by key.
    pub sets: BTreeMap<SetName, BTreeMap<Bytes, Element>>,
    /// How many elements maps have room for; those without an entry grow by themselves.
    pub sizes: BTreeMap<SetName, u32>,
}

impl Listing {
    /// A table with all sets that are always there, under these names, and no chain.
    pub fn new(family: Family, names: &Names) -> Self {
        let sets = SetId::always_there().map(|set| (names.of(set), BTreeMap::new())).collect();
        Self { family, chains: Vec::new(), sets, sizes: BTreeMap::new() }
    }

    /// The rules of a chain.
    pub fn rules(&self, chain: ChainId) -> Option<&[Rule]> {
        self.chains.iter().find(|(id, _)| *id == chain).map(|(_, rules)| rules.as_slice())
    }

    /// The element a key selects, also by being within its range.
    pub fn find(&self, name: SetName, key: &Bytes) -> Option<&Element> {
        let elements = self.sets.get(&name)?;
        if let Some(element) = elements.get(key) {
            return Some(element);
        }
        let spec = name.set.spec();
        let in_range =
            |element: &&Element| element.end.is_some_and(|end| spec.contains(self.family, &element.key, &end, key));
        if spec.interval { elements.values().find(in_range) } else { None }
    }
}

/// One change to one object. Within a transaction they take effect in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Creates the table, or takes it over; no error when it exists.
    AddTable,
    /// Deletes the table with all its content; an error when there is none.
    DeleteTable,
    /// Declares a set or map with room for so many elements; 0 for one that grows by itself. Sets whose size is fixed by
    /// [`SetId::spec`] have that.
    AddSet(SetName, u32),
    /// Deletes a set or map that no rule names any more, with its elements. Not in the transaction that deletes the
    /// rules: a packet that is being processed by them would find the map empty.
    DeleteSet(SetName),
    /// Creates a chain; with its hook when it is a base chain.
    AddChain(ChainId),
    /// Deletes an empty, unreferenced chain together with its rules.
    DeleteChain(ChainId),
    /// Appends a rule to a chain.
    AddRule(ChainId, Rule),
    /// Deletes all rules of a chain.
    FlushChain(ChainId),
    /// Deletes the other rules of a chain that has so many before the transaction; an error when it has not.
    KeepRules {
        /// The chain.
        chain: ChainId,
        /// The places of those that stay, from 0 on.
        kept: Range<usize>,
        /// How many there are.
        of: usize,
    },
    /// Adds elements; an error when a key exists with another value.
    AddElements(SetName, Vec<Element>),
    /// Deletes elements (only keys count); an error when one does not exist.
    DeleteElements(SetName, Vec<Element>),
    /// Deletes all rules of a chain that is not ours.
    FlushForeign(String),
    /// Deletes an object that is not ours; an error when it is in use.
    DeleteForeign(ForeignKind, String),
}

/// Changes to our tables that take effect all at once, or not at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transaction {
    /// The changes, each in the table of its family.
    pub ops: Vec<(Family, Op)>,
}

impl Transaction {
    /// Appends all of another transaction.
    pub fn extend(&mut self, other: Transaction) {
        self.ops.extend(other.ops);
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Appends one change; element lists without elements are dropped.
    pub fn push(&mut self, family: Family, op: Op) {
        if !matches!(&op, Op::AddElements(_, list) | Op::DeleteElements(_, list) if list.is_empty()) {
            self.ops.push((family, op));
        }
    }

    /// Whether it deletes a set or a chain: a packet that is being processed may still be led there by rules or elements that
    /// went before.
    pub fn waits_for_packets(&self) -> bool {
        let deletes = |op: &Op| matches!(op, Op::DeleteSet(_) | Op::DeleteChain(_) | Op::DeleteForeign(..));
        self.ops.iter().any(|(_, op)| deletes(op))
    }

    /// Number of elements added and deleted.
    pub fn element_counts(&self) -> (usize, usize) {
        self.ops.iter().fold((0, 0), |(added, deleted), (_, op)| match op {
            Op::AddElements(_, list) => (added + list.len(), deleted),
            Op::DeleteElements(_, list) => (added, deleted + list.len()),
            _ => (added, deleted),
        })
    }
}
