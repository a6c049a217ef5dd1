use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::config::Options;
use crate::diff::{ExistingLayout, Mirror};
use crate::model::{Event, Family, Model, ObjectKey};
use crate::plan::{Settings, Target};
use crate::ruleset::{ChainId, FakeKernel, Kernel as _, SetId, Transaction};
use crate::testing::{self, added, added_slice, all_listed, service};

const V4: Family = Family::Ipv4;
const FOR: Duration = Duration::from_secs(300);

/// A model, a mirror and a kernel that follow events.
struct Loop {
    model: Model,
    mirror: Mirror,
    kernel: FakeKernel,
    settings: Settings,
    now: Instant,
}

impl Loop {
    fn start(events: impl IntoIterator<Item = Event>) -> Self {
        let mut model = Model::default();
        model.watch_departures();
        events.into_iter().chain(all_listed()).for_each(|event| model.apply(event));
        model.take_changes();
        let settings = Options::new("n").settings(&model);
        let (mirror, _) = Mirror::build(settings.clone(), &model);
        let mut this = Self { model, mirror, kernel: FakeKernel::new(), settings, now: Instant::now() };
        let steps = this.mirror.rebase(V4, None);
        this.send(steps.transactions());
        this
    }

    fn send(&mut self, transactions: [&Transaction; 4]) {
        let of_family = |transaction: &&&Transaction| transaction.ops.iter().all(|(family, _)| *family == V4);
        for transaction in transactions.iter().filter(of_family) {
            self.kernel.apply(transaction).expect("applied");
        }
    }

    fn sync(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.model.apply(event));
        let changes = self.model.take_changes();
        self.mirror.note_gone(&self.model, &changes, FOR, self.now);
        for update in self.mirror.update(&self.settings, &self.model, &changes).families {
            self.send(update.steps.transactions());
        }
    }

    /// Ends, and starts anew on the same kernel.
    fn restart(&mut self) {
        let table = self.kernel.read(V4).expect("read").expect("a table");
        let existing = ExistingLayout::of(&table);
        self.mirror = Mirror::new(self.settings.clone());
        self.mirror.adopt_gone(&existing, &self.model, FOR, self.now);
        self.mirror.compile(V4, &self.model, Some(&existing));
        let steps = self.mirror.rebase(V4, Some(&table));
        self.send(steps.transactions());
    }

    /// What the kernel answers for; checks that the chains and the set are there exactly then, and all is as it should be.
    fn gone(&self) -> Vec<String> {
        let listing = self.kernel.listing(V4).expect("a table");
        let elements = listing.sets.get(&SetId::Gone.into());
        let chains = ChainId::RESETS.map(|chain| listing.rules(chain).map_or(0, <[_]>::len));
        assert_eq!(chains, [usize::from(elements.is_some()); 2]);
        let mut wanted = self.mirror.listing(V4).expect("served");
        let mut found = listing.clone();
        [&mut wanted, &mut found].into_iter().for_each(|listing| listing.chains.sort_by_key(|(chain, _)| *chain));
        assert_eq!(found, wanted);
        assert!(elements.is_none_or(|elements| !elements.is_empty()), "a set without a use");
        let target = |key| super::super::slots::target(key).expect("an endpoint").to_string();
        elements.into_iter().flat_map(|elements| elements.keys()).map(target).collect()
    }
}

fn slice(service: &str, addresses: &[&str]) -> Event {
    added_slice(testing::slice(service, "n", addresses))
}

const A: &str = "10.1.0.1";
const B: &str = "10.1.0.2";

#[test]
fn an_endpoint_that_left_all_slices_is_gone_for_a_while() {
    let mut it = Loop::start([added(service("a", "10.96.0.1")), slice("a", &[A, B])]);
    assert_eq!(it.gone(), [""; 0]);
    it.sync([slice("a", &[B])]);
    assert_eq!(it.gone(), ["10.1.0.1:8080"]);
    assert_eq!(it.mirror.forgets_at(), Some(it.now + FOR));
    it.now += FOR / 2;
    it.sync([Event::SliceDeleted(ObjectKey::new("ns", "a-ip"))]);
    assert_eq!(it.gone(), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    it.now += FOR / 2;
    it.sync([]);
    assert_eq!(it.gone(), ["10.1.0.2:8080"]);
    it.now += FOR;
    it.sync([]);
    assert_eq!((it.gone(), it.mirror.forgets_at()), (vec![], None));
}

#[test]
fn one_that_terminates_is_there_or_one_of_another_service_or_that_comes_back() {
    let mut it = Loop::start([added(service("a", "10.96.0.1")), added(service("b", "10.96.0.2")), slice("a", &[A])]);
    let mut ends = testing::slice("a", "n", &[A, B]);
    for endpoint in &mut ends.endpoints {
        (endpoint.ready, endpoint.terminating) = (false, true);
    }
    it.sync([added_slice(ends)]);
    assert_eq!(it.gone(), [""; 0], "terminating");
    it.sync([slice("b", &[A]), slice("a", &[])]);
    assert_eq!(it.gone(), ["10.1.0.2:8080"], "the other one is an endpoint elsewhere");
    it.sync([slice("b", &[A, B])]);
    assert_eq!(it.gone(), [""; 0], "back");
    it.sync([Event::ServiceDeleted(ObjectKey::new("ns", "b")), Event::SliceDeleted(ObjectKey::new("ns", "b-ip"))]);
    assert_eq!(it.gone(), [""; 0], "a Service that is deleted resets nothing");
}

#[test]
fn a_restart_goes_on_with_those_that_are_not_back() {
    let mut it = Loop::start([added(service("a", "10.96.0.1")), slice("a", &[A, B])]);
    it.sync([slice("a", &[])]);
    it.model.apply(slice("a", &[B]));
    it.restart();
    assert_eq!(it.gone(), ["10.1.0.1:8080"]);
    it.now += FOR;
    it.sync([]);
    assert_eq!(it.gone(), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn any_history_leaves_those_that_went_and_are_not_back(
        steps in proptest::collection::vec(
            (0_usize..3, proptest::collection::btree_set(1_u8..6, 0..4), 0_u64..200, 0_u8..10), 1..15)
    ) {
        let name = |n: usize| ["a", "b", "c"][n];
        let mut it = Loop::start((0..3).map(|n| added(service(name(n), &format!("10.96.0.{}", n + 1)))));
        let mut there: [BTreeSet<u8>; 3] = Default::default();
        let mut gone: HashMap<u8, Instant> = HashMap::new();
        for (which, endpoints, seconds, restart) in steps {
            it.now += Duration::from_secs(seconds);
            gone.retain(|_, until| *until > it.now);
            let before = std::mem::replace(&mut there[which], endpoints.clone());
            let left = before.difference(&endpoints).filter(|n| !there.iter().any(|all| all.contains(*n)));
            let now = it.now;
            gone.extend(left.map(|n| (*n, now + FOR)));
            gone.retain(|n, _| !endpoints.contains(n));
            let addresses: Vec<String> = endpoints.iter().map(|n| format!("10.1.0.{n}")).collect();
            it.sync([slice(name(which), &addresses.iter().map(String::as_str).collect::<Vec<_>>())]);
            if restart == 0 {
                it.restart();
                gone.values_mut().for_each(|until| *until = now + FOR);
            }
            let mut wanted: Vec<u8> = gone.keys().copied().collect();
            wanted.sort_unstable();
            let wanted: Vec<String> =
                wanted.into_iter().map(|n| Target { ip: [10, 1, 0, n].into(), port: 8080 }.to_string()).collect();
            prop_assert_eq!(it.gone(), wanted);
        }
    }
}
