//! A table with what is free to choose forgotten: the slots of endpoints, the numbers of Service ports with affinity, and
//! which of two names a map goes by.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use portway::plan::Affinity;
use portway::ruleset::{Bytes, Element, EndpointMap, Listing, Names, SetId, SetName, Term, Value};

/// A table with all sets under their first names. Maps that no rule uses beside one that rules do are left out.
pub fn with_first_names(listing: &Listing) -> Listing {
    let mut listing = listing.clone();
    let terms = listing.chains.iter_mut().flat_map(|(_, rules)| rules).flatten();
    let mut used = BTreeSet::new();
    for name in terms.filter_map(Term::set_mut) {
        used.insert(*name);
        *name = name.set.into();
    }
    let present = listing.sets.keys().copied().collect();
    let names = Names::in_force(&used, &present).expect("all rules use the same name");
    let sets = std::mem::take(&mut listing.sets).into_iter().filter(|(name, _)| *name == names.of(name.set));
    listing.sets = sets.map(|(name, elements)| (SetName::from(name.set), elements)).collect();
    listing
}

/// The sets of a table, in a form in which tables that mean the same are equal.
#[derive(Debug, PartialEq)]
pub struct Sets {
    /// Elements that leave no choice.
    plain: BTreeMap<SetId, BTreeMap<Bytes, String>>,
    /// The slots and the endpoints of each frontend.
    endpoints: BTreeMap<(SetId, Bytes), (BTreeSet<u32>, BTreeSet<String>)>,
    /// Frontends that share a number, each with its endpoint set and comment.
    sticky: BTreeSet<BTreeSet<(SetId, Bytes, u32, String)>>,
}

impl Sets {
    /// Takes the elements of all sets.
    pub fn of<E: Borrow<Element>>(elements: impl IntoIterator<Item = (SetId, E)>) -> Self {
        let (slots, ids) = (EndpointMap::ALL.map(EndpointMap::set), EndpointMap::ALL.map(EndpointMap::affinity_ids));
        let (mut plain, mut endpoints) =
            (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::<_, (BTreeSet<_>, BTreeSet<_>)>::new());
        let mut sticky = BTreeMap::<_, BTreeSet<_>>::new();
        for (set, element) in elements {
            let element = element.borrow();
            let key = element.key;
            if slots.contains(&set) {
                let split = key.as_slice().len() - 4;
                let frontend = Bytes::from_slice(&key.as_slice()[..split]).expect("short");
                let entry = endpoints.entry((set, frontend)).or_default();
                entry.0.insert(key.u32_host_at(split).expect("slot"));
                entry.1.insert(format!("{:?}", element.value));
            } else if ids.contains(&set) {
                let Value::Data(id) = element.value else { panic!("{element:?} has no ID") };
                let id = id.u32_host_at(0).expect("an ID");
                let number = Affinity::number_of(id).expect("one of ours");
                let comment = format!("{:?}", element.comment);
                sticky.entry(number).or_default().insert((set, key, id % 2, comment));
            } else {
                plain.entry(set).or_default().insert(key, format!("{element:?}"));
            }
        }
        // What different numbers stand for differs: no two have a frontend in common.
        let mut seen = HashSet::new();
        assert!(sticky.values().flatten().all(|(set, key, ..)| seen.insert((*set, *key))));
        Self { plain, endpoints, sticky: sticky.into_values().collect() }
    }
}
