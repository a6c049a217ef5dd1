//! A kernel in memory: as strict as the real one about what exists, what is in use and what overlaps.

use std::collections::{BTreeMap, HashSet};

use super::{
    Bytes, ChainId, Element, Elements, Kernel, KernelError, Listing, Names, Op, Part, Rule, SetId, SetName, Table,
    Term, Transaction, Value, Verdict, encode_rule, rules_met,
};
use crate::model::Family;

/// Implements [`Kernel`] without a kernel, for tests.
#[derive(Debug, Default)]
pub struct FakeKernel {
    tables: BTreeMap<Family, Listing>,
    /// Sets that packets may still look up, because rules named them until a transaction before.
    unsettled: HashSet<(Family, SetName)>,
    /// Transactions applied so far.
    pub transactions: usize,
    /// Element changes applied so far.
    pub element_changes: usize,
    /// Refuses every transaction.
    pub refuse: bool,
    /// Somebody else has the tables.
    pub taken: bool,
    /// Nobody but us can change them.
    pub guarded: bool,
    /// Refuses to add elements with these keys, and says which one it was.
    pub refused_keys: HashSet<(SetId, Bytes)>,
}

impl FakeKernel {
    /// Without any table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The table of a family as text sees it.
    pub fn listing(&self, family: Family) -> Option<&Listing> {
        self.tables.get(&family)
    }

    /// Changes a table as another program would.
    pub fn listing_mut(&mut self, family: Family) -> Option<&mut Listing> {
        self.tables.get_mut(&family)
    }
}

impl Kernel for FakeKernel {
    fn claim(&mut self) -> Result<(), KernelError> {
        if self.taken { Err(KernelError::Locked { holder: String::new() }) } else { Ok(()) }
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        if self.refuse {
            let (object, reason) = ("the transaction".to_owned(), "it was told to".to_owned());
            return Err(KernelError::Refused { op: 0, element: None, object, reason, errno: libc::EBUSY });
        }
        let before = self.tables.clone();
        let is_new = |family: Family, element: &Element| {
            if transaction.ops.contains(&(family, Op::DeleteTable)) {
                // Rules from before the transaction have the sets from before it.
                return false;
            }
            let in_force = before.get(&family).filter(|table| table.chains.iter().any(|(chain, _)| chain.is_base()));
            let target = target_of(element);
            in_force.zip(target).is_some_and(|(table, chain)| table.rules(chain).is_none_or(<[Rule]>::is_empty))
        };
        for (index, (family, op)) in transaction.ops.iter().enumerate() {
            if let Some((set, element)) = self.refused_element(op) {
                self.tables = before;
                let (object, reason) = (format!("element {element} of {set}"), "it was told to".to_owned());
                return Err(KernelError::Refused {
                    op: index,
                    element: Some(element),
                    object,
                    reason,
                    errno: libc::EINVAL,
                });
            }
            let result = match op {
                // The real kernel allows it, but packets may still be processed by the old rules, which name the set.
                Op::DeleteSet(set) if before.get(family).is_some_and(|table| table.needs(*set)) => {
                    Err((format!("set {set}"), libc::EBUSY))
                }
                Op::DeleteElements(set, _)
                    if self.unsettled.contains(&(*family, *set))
                        && before.get(family).is_some_and(|table| table.is_left(*set)) =>
                {
                    Err((format!("elements of {set}"), libc::EBUSY))
                }
                // The same: rules count from before the transaction, elements from behind it.
                Op::AddElements(_, elements) if elements.iter().any(|element| is_new(*family, element)) => {
                    Err(("a chain without rules".to_owned(), libc::EBUSY))
                }
                Op::DeleteChain(chain) if before.get(family).is_some_and(|table| table.leads_to(*chain)) => {
                    Err((format!("chain {chain}"), libc::EBUSY))
                }
                _ => self.apply_op(*family, op),
            };
            if let Err((object, errno)) = result {
                self.tables = before;
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                return Err(KernelError::Refused { op: index, element: None, object, reason, errno });
            }
        }
        if transaction.waits_for_packets() {
            self.settle()?;
        }
        for (family, table) in &before {
            let is_left = |set: &SetName| self.tables.get(family).is_some_and(|table| table.is_left(*set));
            let left = table.sets.keys().filter(|set| table.needs(**set) && is_left(set));
            self.unsettled.extend(left.map(|set| (*family, *set)));
        }
        self.transactions += 1;
        let (added, deleted) = transaction.element_counts();
        self.element_changes += added + deleted;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.unsettled.clear();
        Ok(())
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        Ok(self.tables.get(&family).map(|listing| {
            let code = |rules: &[Rule]| rules.iter().map(|rule| encode_rule(family, rule)).collect();
            let mut table = Table {
                chains: listing.chains.iter().map(|(chain, rules)| (*chain, code(rules))).collect(),
                ..Table::default()
            };
            table.set_names_in_force(listing.sets.keys().copied().collect());
            for set in SetId::ALL {
                let name = table.names.of(set);
                let elements = listing.sets.get(&name).map(|elements| elements.values().cloned().collect());
                table.sets.extend(elements.map(|elements| (set, elements)));
                table.sizes.extend(listing.sizes.get(&name).map(|size| (set, *size)));
            }
            table
        }))
    }

    fn read_part(&mut self, family: Family, _part: &Part) -> Result<Option<Table>, KernelError> {
        self.read(family)
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        let elements = self.tables.get(&family).and_then(|listing| listing.sets.get(&set));
        Ok(elements.into_iter().flat_map(BTreeMap::values).cloned().collect())
    }

    fn guards(&mut self, _family: Family) -> bool {
        self.guarded
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        let map = self.tables.get_mut(&family).and_then(|listing| listing.sets.get_mut(&set.into()));
        if let Some(map) = map {
            map.retain(|key, _| !elements.iter().any(|element| element.key == *key));
        }
        Ok(())
    }
}

type FakeRefusal = (String, i32);

impl FakeKernel {
    fn refused_element(&self, op: &Op) -> Option<(SetName, usize)> {
        let Op::AddElements(set, elements) = op else { return None };
        let at = elements.iter().position(|element| self.refused_keys.contains(&(set.set, element.key)))?;
        Some((*set, at))
    }

    fn apply_op(&mut self, family: Family, op: &Op) -> Result<(), FakeRefusal> {
        match op {
            Op::AddTable => {
                self.tables
                    .entry(family)
                    .or_insert_with(|| Listing { sets: BTreeMap::new(), ..Listing::new(family, &Names::default()) });
                return Ok(());
            }
            Op::DeleteTable => {
                return self.tables.remove(&family).map(|_| ()).ok_or_else(|| ("table".into(), libc::ENOENT));
            }
            _ => {}
        }
        let table = self.tables.get_mut(&family).ok_or_else(|| ("table".to_owned(), libc::ENOENT))?;
        match op {
            Op::AddTable | Op::DeleteTable => Ok(()),
            Op::AddSet(set, _) if table.sets.contains_key(set) => Err((set.to_string(), libc::EEXIST)),
            Op::AddSet(set, size) => {
                table.sets.insert(*set, BTreeMap::new());
                table.sizes.extend((*size > 0).then_some((*set, *size)));
                Ok(())
            }
            Op::DeleteSet(set) => table.delete_set(*set),
            Op::AddChain(chain) if table.rules(*chain).is_some() => Err((chain.to_string(), libc::EEXIST)),
            Op::AddChain(chain) => {
                table.chains.push((*chain, Vec::new()));
                Ok(())
            }
            Op::DeleteChain(chain) => table.delete_chain(*chain),
            Op::AddRule(chain, rule) => table.add_rule(*chain, rule),
            Op::FlushChain(chain) => {
                table.chain_mut(*chain)?.clear();
                Ok(())
            }
            Op::KeepRules { chain, kept, of } => {
                let rules = table.chain_mut(*chain)?;
                if rules.len() != *of {
                    return Err((format!("rules of chain {chain}"), libc::ENOENT));
                }
                *rules = rules.drain(kept.clone()).collect();
                Ok(())
            }
            Op::AddElements(set, elements) => elements.iter().try_for_each(|e| table.add_element(*set, e)),
            Op::DeleteElements(set, elements) => elements.iter().try_for_each(|e| table.delete_element(*set, e)),
            Op::FlushForeign(name) => Err((format!("chain {name}"), libc::ENOENT)),
            Op::DeleteForeign(kind, name) => Err((format!("{kind} {name}"), libc::ENOENT)),
        }
    }
}

impl Listing {
    fn chain_mut(&mut self, chain: ChainId) -> Result<&mut Vec<Rule>, FakeRefusal> {
        let found = self.chains.iter_mut().find(|(id, _)| *id == chain);
        found.map(|(_, rules)| rules).ok_or_else(|| (format!("chain {chain}"), libc::ENOENT))
    }

    fn set_mut(&mut self, set: SetName) -> Result<&mut BTreeMap<Bytes, Element>, FakeRefusal> {
        self.sets.get_mut(&set).ok_or_else(|| (format!("set {set}"), libc::ENOENT))
    }

    /// Whether elements lead to a chain.
    fn leads_to(&self, chain: ChainId) -> bool {
        self.sets.values().flat_map(BTreeMap::values).any(|element| target_of(element) == Some(chain))
    }

    fn delete_chain(&mut self, chain: ChainId) -> Result<(), FakeRefusal> {
        self.chain_mut(chain)?;
        let by_rule = self
            .chains
            .iter()
            .flat_map(|(_, rules)| rules)
            .flatten()
            .any(|term| matches!(term, Term::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if *to == chain));
        if by_rule || self.leads_to(chain) {
            return Err((format!("chain {chain}"), libc::EBUSY));
        }
        self.chains.retain(|(id, _)| *id != chain);
        Ok(())
    }

    /// Whether a rule names a set.
    fn names(&self, set: SetName) -> bool {
        self.chains.iter().flat_map(|(_, rules)| rules).flatten().any(|term| term.set() == Some(set))
    }

    /// Whether packets look up a set that has elements: not by rules behind one that drops all.
    fn needs(&self, set: SetName) -> bool {
        let rules = self.chains.iter().flat_map(|(_, rules)| rules_met(rules));
        rules.flatten().any(|term| term.set() == Some(set))
            && self.sets.get(&set).is_some_and(|elements| !elements.is_empty())
    }

    /// Whether a set has elements and no rule names it.
    fn is_left(&self, set: SetName) -> bool {
        !self.names(set) && self.sets.get(&set).is_some_and(|elements| !elements.is_empty())
    }

    fn delete_set(&mut self, set: SetName) -> Result<(), FakeRefusal> {
        self.set_mut(set)?;
        if self.names(set) {
            return Err((set.to_string(), libc::EBUSY));
        }
        self.sets.remove(&set);
        self.sizes.remove(&set);
        Ok(())
    }

    fn add_rule(&mut self, chain: ChainId, rule: &Rule) -> Result<(), FakeRefusal> {
        for term in rule {
            if let Some(set) = term.set() {
                self.set_mut(set)?;
            }
            if let Term::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) = term {
                self.chain_mut(*to)?;
            }
        }
        self.chain_mut(chain)?.push(rule.clone());
        Ok(())
    }

    fn add_element(&mut self, set: SetName, element: &Element) -> Result<(), FakeRefusal> {
        if let Some(chain) = target_of(element) {
            self.chain_mut(chain)?;
        }
        let refused = |errno| Err((format!("element {:?} of {set}", element.key), errno));
        if element.key.as_slice().len() != set.set.spec().key_len(self.family) {
            return refused(libc::EINVAL);
        }
        let overlaps = |other: &Element| {
            let spec = set.set.spec();
            let within = |key: &Bytes| other.end.is_some_and(|end| spec.contains(self.family, &other.key, &end, key));
            within(&element.key) || element.end.is_some_and(|end| within(&end))
        };
        let interval = set.set.spec().interval;
        let taken =
            |all: &BTreeMap<Bytes, Element>| all.contains_key(&element.key) || (interval && all.values().any(overlaps));
        if self.sets.get(&set).is_some_and(taken) {
            return refused(libc::EEXIST);
        }
        let size = self.sizes.get(&set).copied();
        let elements = self.set_mut(set)?;
        if size.is_some_and(|size| elements.len() >= size as usize) {
            return refused(libc::ENFILE);
        }
        elements.insert(element.key, element.clone());
        Ok(())
    }

    fn delete_element(&mut self, set: SetName, element: &Element) -> Result<(), FakeRefusal> {
        let missing = || (format!("element {:?} of {set}", element.key), libc::ENOENT);
        self.set_mut(set)?.remove(&element.key).map(|_| ()).ok_or_else(missing)
    }
}

fn target_of(element: &Element) -> Option<ChainId> {
    match element.value {
        Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain),
        _ => None,
    }
}
