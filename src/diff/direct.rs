//! What to change in the table `netdev portway`, and in what order.
//!
//! Rules and declarations are few, and change in one transaction. Elements are many, and come in slices. At any moment a
//! frontend hands all its packets on as before, or all as wanted, or none; and none only where it is new or goes.

use crate::model::Family;
use crate::ruleset::{Bytes, DirectChain, DirectElement, DirectFound, DirectFrontend, DirectMap, DirectTable, Hop};

/// Elements of a slice; others who use nf_tables wait some 20 ms for it.
pub const DIRECT_SLICE: usize = 4096;

/// What is declared first: rules and elements name it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectGrowth {
    /// There is no table yet.
    pub is_new: bool,
    /// New maps.
    pub maps: Vec<DirectMap>,
    /// New chains.
    pub chains: Vec<DirectChain>,
    /// Chains whose rules are written anew.
    pub rewritten: Vec<DirectChain>,
}

/// What is deleted in the end, by name: nothing names it any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectShrinkage {
    /// Chains, which are flushed first.
    pub chains: Vec<String>,
    /// Maps.
    pub maps: Vec<String>,
}

/// Elements that change in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectSlice(Vec<Atom>);

/// Elements that change together: what goes, and what comes. They may have the same keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Atom {
    gone: Vec<(DirectMap, DirectElement)>,
    new: Vec<(DirectMap, DirectElement)>,
}

/// Declarations and rules to begin with.
pub fn direct_growth(found: &DirectFound, wanted: &DirectTable) -> DirectGrowth {
    let is_same = |chain: &DirectChain| {
        !found.stale.contains(chain)
            && found.table.rules(*chain) == wanted.rules(*chain)
            && found.table.chain_name(*chain) == wanted.chain_name(*chain)
    };
    let (there, chains): (Vec<_>, Vec<_>) =
        wanted.all_chains().into_iter().partition(|chain| found.chains.contains(chain));
    DirectGrowth {
        is_new: !found.is_there,
        maps: wanted.maps().into_iter().filter(|map| !found.maps.contains(map)).collect(),
        chains,
        rewritten: there.into_iter().filter(|chain| !is_same(chain)).collect(),
    }
}

/// What to delete in the end.
pub fn direct_shrinkage(found: &DirectFound, wanted: &DirectTable) -> DirectShrinkage {
    let (chains, maps) = (wanted.all_chains(), wanted.maps());
    let unused = found.chains.iter().filter(|chain| !chains.contains(chain));
    let names = unused.map(|chain| found.table.chain_name(*chain)).chain(found.other_chains.iter().cloned()).collect();
    let unused = found.maps.iter().filter(|map| !maps.contains(map));
    let maps = unused.map(|map| found.table.name(*map)).chain(found.other_maps.iter().cloned()).collect();
    DirectShrinkage { chains: names, maps }
}

/// Changes of elements, in slices of at least so many where there are more. They are made one after the other, because of all
/// of them together there can be a million.
pub fn direct_slices(found: &DirectFound, wanted: &DirectTable, size: usize) -> impl Iterator<Item = DirectSlice> {
    let strays = found.strays.iter().cloned().map(Atom::gone);
    let known = &found.table.frontends;
    let gone = known.iter().filter(|(at, _)| !wanted.frontends.contains_key(at));
    let gone = gone.flat_map(|((family, key), frontend)| disappearing(*family, key, frontend));
    let others = wanted.frontends.iter().flat_map(move |(at @ (family, key), frontend)| match known.get(at) {
        None => appearing(*family, key, frontend),
        Some(old) if old == frontend => Vec::new(),
        Some(old) => changing(*family, key, old, frontend),
    });
    let mut atoms = strays.chain(gone).chain(others);
    std::iter::from_fn(move || {
        let mut slice = DirectSlice::default();
        while slice.len() < size
            && let Some(atom) = atoms.next()
        {
            slice.0.push(atom);
        }
        (!slice.0.is_empty()).then_some(slice)
    })
}

/// The slots first: where one is missing the packet goes the ordinary way, and its connection to another endpoint's node.
fn appearing(family: Family, key: &Bytes, frontend: &DirectFrontend) -> Vec<Atom> {
    let slots = frontend.slot_elements(family, key).map(Atom::new);
    slots.chain([Atom::new(frontend.entry(family, key))]).collect()
}

fn disappearing(family: Family, key: &Bytes, frontend: &DirectFrontend) -> Vec<Atom> {
    let slots = frontend.slot_elements(family, key).map(Atom::gone);
    [Atom::gone(frontend.entry(family, key))].into_iter().chain(slots).collect()
}

fn changing(family: Family, key: &Bytes, old: &DirectFrontend, new: &DirectFrontend) -> Vec<Atom> {
    let entries = (old.entry(family, key), new.entry(family, key));
    if old.hash != new.hash {
        // The slots of one hash mean nothing to the other.
        let gone = old.slot_elements(family, key).chain([entries.0]).collect();
        return vec![Atom { gone, new: new.slot_elements(family, key).chain([entries.1]).collect() }];
    }
    let label = (entries.0 != entries.1).then(|| Atom { gone: vec![entries.0], new: vec![entries.1] });
    let pairs = old.slots.iter().zip(&*new.slots).enumerate().filter(|(_, (old, new))| old != new);
    let element = |slot, hop: &Option<Hop>| hop.map(|hop| hop.element(family, key, slot)).into_iter().collect();
    let atoms = pairs.map(|(slot, (from, to))| Atom { gone: element(slot, from), new: element(slot, to) });
    label.into_iter().chain(atoms).collect()
}

impl Atom {
    fn gone(element: (DirectMap, DirectElement)) -> Self {
        Self { gone: vec![element], new: Vec::new() }
    }

    fn new(element: (DirectMap, DirectElement)) -> Self {
        Self { gone: Vec::new(), new: vec![element] }
    }

    fn len(&self) -> usize {
        self.gone.len() + self.new.len()
    }

    /// One element each, where the kernel does not take them together: meanwhile the frontend hands on nothing.
    fn taken_apart(self) -> Vec<Atom> {
        let is_entry = |(map, _): &(DirectMap, DirectElement)| matches!(map, DirectMap::Frontends(_));
        let (entries_gone, gone): (Vec<_>, Vec<_>) = self.gone.into_iter().partition(is_entry);
        let (entries_new, new): (Vec<_>, Vec<_>) = self.new.into_iter().partition(is_entry);
        let gone = entries_gone.into_iter().chain(gone).map(Atom::gone);
        gone.chain(new.into_iter().chain(entries_new).map(Atom::new)).collect()
    }
}

impl DirectSlice {
    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.0.iter().map(Atom::len).sum()
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements that go, by map.
    pub fn gone(&self) -> Vec<(DirectMap, &DirectElement)> {
        by_map(self.0.iter().flat_map(|atom| &atom.gone))
    }

    /// Elements that come then, by map.
    pub fn added(&self) -> Vec<(DirectMap, &DirectElement)> {
        by_map(self.0.iter().flat_map(|atom| &atom.new))
    }

    /// Two halves, to be applied in this order, where the kernel does not take all of it at once; `None` for a single element.
    pub fn halves(self) -> Option<[DirectSlice; 2]> {
        let mut atoms = self.0;
        if atoms.len() == 1 && atoms[0].len() > 1 {
            atoms = atoms.pop()?.taken_apart();
        }
        if atoms.len() < 2 {
            return None;
        }
        let second = atoms.split_off(atoms.len() / 2);
        Some([DirectSlice(atoms), DirectSlice(second)])
    }
}

fn by_map<'a>(all: impl Iterator<Item = &'a (DirectMap, DirectElement)>) -> Vec<(DirectMap, &'a DirectElement)> {
    let mut all: Vec<_> = all.map(|(map, element)| (*map, element)).collect();
    all.sort_by_key(|(map, _)| *map);
    all
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
