//! A table with what is free to choose forgotten: the slots of endpoints, which of the chains that will do picks one, the numbers
//! of Service ports with affinity, and which of two names a map goes by.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use portway::plan::Affinity;
use portway::ruleset::{
    Bytes, ChainId, Element, EndpointMap, Listing, Names, Pick, PickBy, SetId, SetName, Term, Value, Verdict, rules_met,
};

/// A table with all sets under their first names. Rules behind one that drops all are left out, and maps that no rule uses
/// beside one that rules do.
pub fn with_first_names(listing: &Listing) -> Listing {
    let mut listing = listing.clone();
    for (_, rules) in &mut listing.chains {
        rules.truncate(rules_met(rules).len());
    }
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

/// What the chains and the elements of a table mean. A chain that picks an endpoint at random is left out if a verdict leads
/// there, and the verdict names the one made for as many slots as have endpoints, if the chain allows for so many.
pub fn meaning<R, E: Borrow<Element>>(
    chains: impl IntoIterator<Item = (ChainId, R)>,
    elements: impl IntoIterator<Item = (SetId, E)>,
) -> (BTreeMap<ChainId, R>, Sets) {
    let elements: Vec<(SetId, E)> = elements.into_iter().collect();
    let used: HashSet<ChainId> = elements.iter().filter_map(|(_, element)| random_pick(element.borrow())).collect();
    let chains = chains.into_iter().filter(|(chain, _)| !used.contains(chain)).collect();
    (chains, Sets::of(elements))
}

fn random_pick(element: &Element) -> Option<ChainId> {
    let Value::Verdict(Verdict::Goto(chain)) = element.value else { return None };
    matches!(chain, ChainId::Pick(Pick { by: PickBy::Random | PickBy::Sticky, .. })).then_some(chain)
}

/// The sets of a table, in a form in which tables that mean the same are equal.
#[derive(Debug, PartialEq)]
pub struct Sets {
    /// Elements that leave no choice.
    plain: BTreeMap<SetId, BTreeMap<Bytes, Element>>,
    /// The slots and the endpoints of each frontend.
    endpoints: BTreeMap<(SetId, Bytes), (BTreeSet<u32>, BTreeSet<String>)>,
    /// Frontends that share a number, each with its endpoint set and comment.
    sticky: BTreeSet<BTreeSet<(SetId, Bytes, u32, String)>>,
}

impl Sets {
    /// Takes the elements of all sets.
    fn of<E: Borrow<Element>>(elements: impl IntoIterator<Item = (SetId, E)>) -> Self {
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
                plain.entry(set).or_default().insert(key, element.clone());
            }
        }
        for element in plain.values_mut().flat_map(BTreeMap::values_mut) {
            let Some(ChainId::Pick(pick)) = random_pick(element) else { continue };
            let count = endpoints.get(&(pick.map.set(), element.key)).map_or(0, |(slots, _)| slots.len() as u32);
            if (pick.fewest()..=pick.count).contains(&count) {
                element.value = Value::Verdict(Verdict::Goto(ChainId::Pick(Pick { count, ..pick })));
            }
        }
        // What different numbers stand for differs: no two have a frontend in common.
        let mut seen = HashSet::new();
        assert!(sticky.values().flatten().all(|(set, key, ..)| seen.insert((*set, *key))));
        Self { plain, endpoints, sticky: sticky.into_values().collect() }
    }
}
