//! Whatever the order of changes, the incrementally kept table equals the one compiled from scratch.

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family};
use portway::ruleset::{ChainId, FakeKernel, Listing, Rule};
use proptest::prelude::*;
use support::canonical::{Sets, with_first_names};
use support::cluster::{any_history, any_options, empty_lists};

/// A listing without what is free to choose.
fn canonical(listing: &Listing) -> (BTreeMap<ChainId, Vec<Rule>>, Sets) {
    let listing = with_first_names(listing);
    let elements =
        listing.sets.iter().flat_map(|(name, elements)| elements.values().map(|element| (name.set, element)));
    let sets = Sets::of(elements);
    (listing.chains.into_iter().collect(), sets)
}

fn from_scratch(options: &Options, history: &[Event]) -> FakeKernel {
    let (mut controller, _) = Controller::new(FakeKernel::new(), options.clone());
    controller.handle(history.to_vec(), Instant::now());
    std::mem::take(controller.kernel())
}

fn assert_same(kept: &FakeKernel, fresh: &FakeKernel) {
    for family in Family::ALL {
        let (kept, fresh) = (kept.listing(family).map(canonical), fresh.listing(family).map(canonical));
        assert_eq!(kept, fresh, "{family}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leads_to_the_table_of_its_end(options in any_options(), history in any_history()) {
        let (mut controller, reports) = Controller::new(FakeKernel::new(), options.clone());
        let mut all = empty_lists();
        controller.handle(all.clone(), Instant::now());
        for batch in history {
            controller.handle(batch.clone(), Instant::now());
            prop_assert_eq!(reports.borrow().failures, 0, "the kernel refused a transaction");
            all.extend(batch);
            assert_same(controller.kernel(), &from_scratch(&options, &all));
        }
    }

    #[test]
    fn a_restart_with_nothing_changed_writes_nothing(options in any_options(), history in any_history()) {
        let (mut controller, _) = Controller::new(FakeKernel::new(), options.clone());
        let mut all = empty_lists();
        controller.handle(all.clone(), Instant::now());
        for batch in history {
            controller.handle(batch.clone(), Instant::now());
            all.extend(batch);
        }
        let kernel = std::mem::take(controller.kernel());
        let written = (kernel.transactions, kernel.element_changes);
        let (mut next, _) = Controller::new(kernel, options);
        next.handle(all, Instant::now());
        prop_assert_eq!((next.kernel().transactions, next.kernel().element_changes), written);
    }

    #[test]
    fn a_restart_after_changes_repairs_the_table(
        options in any_options(),
        history in any_history(),
        missed in any_history(),
    ) {
        let (mut controller, _) = Controller::new(FakeKernel::new(), options.clone());
        let mut all = empty_lists();
        all.extend(history.into_iter().flatten());
        controller.handle(all.clone(), Instant::now());
        let kernel = std::mem::take(controller.kernel());
        all.extend(missed.into_iter().flatten());
        let (mut next, reports) = Controller::new(kernel, options.clone());
        next.handle(all.clone(), Instant::now());
        prop_assert_eq!(reports.borrow().failures, 0);
        assert_same(next.kernel(), &from_scratch(&options, &all));
    }

    #[test]
    fn a_sync_with_nothing_changed_sends_nothing(options in any_options(), history in any_history()) {
        let (mut controller, _) = Controller::new(FakeKernel::new(), options);
        let mut all = empty_lists();
        all.extend(history.into_iter().flatten());
        controller.handle(all.clone(), Instant::now());
        let before = controller.kernel().transactions;
        // The same objects once more, as a relist delivers them.
        let last: Vec<Event> = relist(&all);
        controller.handle(last, Instant::now());
        prop_assert_eq!(controller.kernel().transactions, before);
    }
}

/// The final state of a history as a fresh list of every kind.
fn relist(history: &[Event]) -> Vec<Event> {
    use portway::model::Kind;
    let mut services = BTreeMap::new();
    let mut slices = BTreeMap::new();
    for event in history {
        match event {
            Event::Service(service) => drop(services.insert(service.key.clone(), event.clone())),
            Event::ServiceDeleted(key) => drop(services.remove(key)),
            Event::Slice(slice) => drop(slices.insert(slice.key.clone(), event.clone())),
            Event::SliceDeleted(key) => drop(slices.remove(key)),
            _ => {}
        }
    }
    let mut events = vec![Event::ListStarted(Kind::Service)];
    events.extend(services.into_values());
    events.extend([Event::ListDone(Kind::Service), Event::ListStarted(Kind::EndpointSlice)]);
    events.extend(slices.into_values());
    events.push(Event::ListDone(Kind::EndpointSlice));
    events
}
