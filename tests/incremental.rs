//! Whatever the order of changes, the incrementally kept table equals the one compiled from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use portway::config::Options;
use portway::controller::Controller;
use portway::diff::{Mirror, Steps};
use portway::model::{Event, Family, Model};
use portway::plan::Sizing;
use portway::ruleset::{
    Bytes, ChainId, Element, FakeKernel, Kernel as _, Keys, Listing, Op, Part, Rule, SetId, SetName, Table,
    Transaction, Value,
};
use proptest::prelude::*;
use support::canonical::{Sets, meaning, with_first_names};
use support::cluster::{any_history, any_options, empty_lists};

/// A listing without what is free to choose.
fn canonical(listing: &Listing) -> (BTreeMap<ChainId, Vec<Rule>>, Sets) {
    let listing = with_first_names(listing);
    let elements =
        listing.sets.iter().flat_map(|(name, elements)| elements.values().map(|element| (name.set, element)));
    meaning(listing.chains, elements)
}

fn from_scratch(options: &Options, history: &[Event]) -> FakeKernel {
    let (mut controller, _) = Controller::new(FakeKernel::new(), options.clone());
    controller.handle(history.to_vec(), Instant::now());
    std::mem::take(controller.kernel())
}

/// What the kernel holds leaves the mirror nothing to do: its chains have their rules, and no others are there.
fn assert_kept(controller: &mut Controller<FakeKernel>) {
    for family in Family::ALL {
        let table = controller.kernel().read(family).expect("in memory");
        let mirror = controller.mirror().expect("synced");
        assert!(mirror.rebase(family, table.as_ref()).is_empty(), "{family}");
    }
}

fn assert_same(kept: &FakeKernel, fresh: &FakeKernel) {
    for family in Family::ALL {
        let (kept, fresh) = (kept.listing(family).map(canonical), fresh.listing(family).map(canonical));
        assert_eq!(kept, fresh, "{family}");
    }
}

/// Tables in which nearly every map is replaced again and again, and what they come from.
struct Growing {
    options: Options,
    events: Vec<Event>,
    model: Model,
    mirror: Mirror,
    kernel: FakeKernel,
    served: Vec<Family>,
}

impl Growing {
    fn new(options: Options) -> Self {
        let options = Options { sizing: Sizing { floor: 3, headroom: 2 }, ..options };
        let (mut kernel, mut model, events) = (FakeKernel::new(), Model::default(), empty_lists());
        events.iter().cloned().for_each(|event| model.apply(event));
        model.take_changes();
        let (mirror, _) = Mirror::build(options.settings(&model), &model);
        let served: Vec<Family> = mirror.families().collect();
        for family in &served {
            mirror.commit_in(&mut kernel, &mirror.rebase(*family, None));
        }
        Self { options, events, model, mirror, kernel, served }
    }

    fn take(&mut self, batch: Vec<Event>) {
        batch.iter().cloned().for_each(|event| self.model.apply(event));
        self.events.extend(batch);
        let (changes, settings) = (self.model.take_changes(), self.options.settings(&self.model));
        for update in self.mirror.update(&settings, &self.model, &changes).families {
            self.mirror.commit_in(&mut self.kernel, &update.steps);
        }
    }

    /// A chain's rules for successors, when all have theirs one owner's elements, or the switch when that was the last; or an
    /// owner's elements of maps that were replaced.
    fn grow(&mut self, family: Family) {
        let (kernel, mirror) = (&mut self.kernel, &mut self.mirror);
        let mut part = mirror.begin_successors(family);
        if part.is_empty() {
            part = mirror.bind_successors(family);
        }
        if part.is_empty() {
            part = mirror.fill_successors(family, 1);
        }
        if !part.is_empty() {
            kernel.apply(&part).expect("the kernel takes it");
        } else if let Some(steps) = mirror.switch_to_successors(family) {
            let adds = |(_, op): &(Family, Op)| matches!(op, Op::AddRule(ChainId::Pick(_), _));
            assert!(!steps.main.ops.iter().any(adds), "the kernel walks all elements for each rule");
            mirror.commit_in(kernel, &steps);
            kernel.settle().expect("nothing to wait for");
        } else {
            kernel.apply(&mirror.empty_predecessors(family, 1)).expect("the kernel takes it");
        }
    }

    fn fresh(&self) -> FakeKernel {
        from_scratch(&self.options, &self.events)
    }
}

/// As [`assert_same`], whatever maps there are that no rule uses.
fn assert_in_force(kept: &FakeKernel, mirror: &Mirror, fresh: &FakeKernel) {
    for family in mirror.families() {
        let table = kept.listing(family).expect("served");
        let names = mirror.listing(family).expect("served").sets;
        let used = |name: &SetName| names.contains_key(name);
        let sets = table.sets.iter().filter(|(name, _)| used(name)).map(|(name, set)| (*name, set.clone())).collect();
        let in_force = Listing { sets, ..table.clone() };
        assert_eq!(Some(canonical(&in_force)), fresh.listing(family).map(canonical), "{family}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

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
            assert_kept(&mut controller);
        }
    }

    #[test]
    fn changes_go_on_while_maps_get_successors(
        options in any_options(),
        history in any_history(),
        pace in prop::collection::vec(0_usize..30, 1..10),
    ) {
        let mut it = Growing::new(options);
        let served = it.served.clone();
        for (batch, pace) in history.into_iter().zip(pace.iter().cycle()) {
            it.take(batch);
            assert_in_force(&it.kernel, &it.mirror, &it.fresh());
            for family in &served {
                (0..*pace).for_each(|_| it.grow(*family));
            }
            assert_in_force(&it.kernel, &it.mirror, &it.fresh());
        }
        for family in &served {
            while it.mirror.is_growing(*family) {
                it.grow(*family);
            }
            let table = it.kernel.read(*family).expect("in memory").expect("there");
            prop_assert_eq!(table.leftovers, []);
        }
        assert_same(&it.kernel, &it.fresh());
    }

    #[test]
    fn a_restart_while_maps_get_successors_is_without_them(
        options in any_options(),
        history in any_history(),
        steps in 0_usize..60,
    ) {
        let mut it = Growing::new(options);
        let served = it.served.clone();
        history.into_iter().for_each(|batch| it.take(batch));
        for family in &served {
            (0..steps).for_each(|_| it.grow(*family));
        }
        // Another program's question meanwhile: the kernel has what it should have.
        for family in &served {
            let (table, part) =
                (it.kernel.read(*family).expect("in memory"), Part { structure: true, ..Part::default() });
            let repair = it.mirror.repair_part(*family, &part, table.expect("there"));
            prop_assert!(repair.is_none_or(|steps| steps.is_empty()));
        }
        let (mut next, reports) = Controller::new(std::mem::take(&mut it.kernel), it.options.clone());
        next.handle(it.events.clone(), Instant::now());
        prop_assert_eq!(reports.borrow().failures, 0);
        for family in &served {
            let table = next.kernel().read(*family).expect("in memory").expect("there");
            prop_assert_eq!(table.leftovers, []);
        }
        assert_same(next.kernel(), &it.fresh());
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
        assert_kept(&mut next);
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

    #[test]
    fn mending_what_was_touched_does_what_a_whole_comparison_would(
        options in any_options(),
        history in any_history(),
        damage in prop::collection::vec(any_damage(), 1..40),
    ) {
        let (mut controller, _) = Controller::new(FakeKernel::new(), options);
        controller.handle(empty_lists().into_iter().chain(history.into_iter().flatten()), Instant::now());
        for family in Family::ALL {
            let mut table = controller.kernel().read(family).expect("in memory").expect("there");
            let part = spoil(family, &mut table, &damage);
            let mirror = controller.mirror().expect("synced");
            let whole = mirror.rebase(family, Some(&table));
            // Nothing but what was touched is known.
            if !part.structure {
                table.chains.clear();
            }
            table.sets.retain(|set, _| part.sets.contains_key(&table.names.of(*set)));
            for (name, keys) in &part.sets {
                let elements = table.sets.get_mut(&name.set).expect("touched");
                if let Keys::These(keys) = keys {
                    *elements = elements.values().filter(|element| keys.contains(&element.key)).collect();
                }
            }
            let mended = mirror.repair_part(family, &part, table);
            let changes = |steps: Steps| steps.transactions().map(changes);
            prop_assert_eq!(mended.map(changes), Some(changes(whole)));
        }
    }
}

/// What somebody does to an element, or to a chain where there is no such element.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Nothing,
    Delete,
    Comment,
    Value,
    Add([u8; 40]),
    Rules,
    Chain,
}

fn any_damage() -> impl Strategy<Value = (prop::sample::Index, prop::sample::Index, Damage)> {
    let damage = prop_oneof![
        1 => Just(Damage::Nothing),
        3 => Just(Damage::Delete),
        1 => Just(Damage::Comment),
        2 => Just(Damage::Value),
        2 => proptest::array::uniform(0_u8..3).prop_map(Damage::Add),
        1 => Just(Damage::Rules),
        1 => Just(Damage::Chain),
    ];
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), damage)
}

/// Does damage to a table, and says where.
fn spoil(family: Family, table: &mut Table, damage: &[(prop::sample::Index, prop::sample::Index, Damage)]) -> Part {
    let mut part = Part::default();
    for (which_set, which, damage) in damage {
        let there: Vec<SetId> = table.sets.keys().copied().collect();
        let set = *which_set.get(&there);
        if set == SetId::Affinity {
            continue;
        }
        let elements = table.sets.get_mut(&set).expect("all are there");
        let all: Vec<Element> = elements.values().collect();
        let victim = (!all.is_empty()).then(|| which.get(&all).clone());
        let key = match (damage, victim) {
            (Damage::Rules, _) => {
                part.structure = true;
                table.chains.insert(ChainId::Dispatch, Vec::new());
                continue;
            }
            (Damage::Chain, _) => {
                part.structure = true;
                table.chains.insert("pick-77".parse().expect("ours"), Vec::new());
                continue;
            }
            (Damage::Add(bytes), _) => {
                let key = Bytes::from_slice(&bytes[..set.spec().key_len(family)]).expect("short");
                elements.insert(Element { key, end: None, value: Value::None, comment: None });
                key
            }
            (_, None) => continue,
            (damage, Some(victim)) => {
                let change = |element: Element| match damage {
                    Damage::Comment => Element { comment: Some("theirs".into()), ..element },
                    Damage::Value => Element { value: Value::Data(Bytes::new().u32_host(77)), ..element },
                    _ => element,
                };
                let keep = |element: &Element| !matches!(damage, Damage::Delete) || element.key != victim.key;
                let changed = |element: Element| if element.key == victim.key { change(element) } else { element };
                *elements = all.into_iter().filter(keep).map(changed).collect();
                victim.key
            }
        };
        match part.sets.entry(table.names.of(set)).or_insert_with(|| Keys::These(BTreeSet::new())) {
            keys if set.spec().interval => *keys = Keys::All,
            Keys::These(keys) => drop(keys.insert(key)),
            Keys::All => {}
        }
    }
    part
}

/// A transaction as what it does, in no order.
fn changes(transaction: &Transaction) -> BTreeSet<String> {
    let one = |(family, op): &(Family, Op)| match op {
        Op::AddElements(set, list) => list.iter().map(|e| format!("{family} add to {set:?} {e:?}")).collect(),
        Op::DeleteElements(set, list) => list.iter().map(|e| format!("{family} delete from {set:?} {e:?}")).collect(),
        op => vec![format!("{family} {op:?}")],
    };
    transaction.ops.iter().flat_map(one).collect()
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
