//! What a table means, and which tables a history of changes leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family};
use portway::ruleset::{ChainId, Element, FakeKernel, Listing, Rule, SetId, SetName, Term, Value, Verdict};

use support::canonical::{Sets, meaning, with_first_names};

/// What packets meet: chains that can be reached, and elements of sets that rules use, but for the records that packets write.
/// `None` before there are hooks.
pub(crate) type InForce = Option<(BTreeMap<ChainId, Vec<Rule>>, Sets)>;
/// The tables of both families.
pub(crate) type Tables = [InForce; 2];

/// What a kernel's tables mean.
pub(crate) fn tables(kernel: &FakeKernel) -> Tables {
    Family::ALL.map(|family| kernel.listing(family).and_then(|listing| in_force(&with_first_names(listing))))
}

fn in_force(listing: &Listing) -> InForce {
    let used: BTreeSet<SetName> =
        listing.chains.iter().flat_map(|(_, rules)| rules).flatten().filter_map(Term::set).collect();
    let elements = || {
        let sets = listing.sets.iter().filter(|(name, _)| name.set != SetId::Affinity && used.contains(name));
        sets.flat_map(|(name, elements)| elements.values().map(|element| (name.set, element)))
    };
    let mut open: Vec<ChainId> =
        listing.chains.iter().map(|(chain, _)| *chain).filter(|chain| chain.is_base()).collect();
    if open.is_empty() {
        return None;
    }
    open.extend(elements().filter_map(|(_, element)| target(element)));
    let mut reached = BTreeSet::new();
    while let Some(chain) = open.pop() {
        if reached.insert(chain) {
            let terms = listing.rules(chain).expect("a chain that is gone to").iter().flatten();
            open.extend(terms.filter_map(|term| match term {
                Term::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(*to),
                _ => None,
            }));
        }
    }
    let chains = listing.chains.iter().filter(|(chain, _)| reached.contains(chain)).cloned();
    Some(meaning(chains, elements()))
}

fn target(element: &Element) -> Option<ChainId> {
    match element.value {
        Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain),
        _ => None,
    }
}

/// The tables of a program that starts with the end of a history.
pub(crate) fn from_scratch(options: &Options, history: &[Event]) -> Tables {
    let (mut controller, reports) = Controller::new(FakeKernel::new(), options.clone());
    controller.handle(history.to_vec(), Instant::now());
    assert_eq!(reports.borrow().syncs, 1);
    tables(controller.kernel())
}
