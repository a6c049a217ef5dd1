use std::time::Instant;

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{Event, Model, Service};
use crate::plan::Sizing;
use crate::ruleset::{Bytes, ChainId, Element, FakeKernel, Intercepted, Interceptor, Op, SetId, Transaction, Value};
use crate::testing::{added, added_slice, listed, service, slice};

const V4: Family = Family::Ipv4;

/// A kernel that refuses what a test says.
#[derive(Debug, Default)]
struct Strict {
    /// Refuses to delete chains.
    keeps_chains: bool,
    /// The most elements in one transaction.
    most: Option<usize>,
    reads: usize,
    largest: usize,
    /// Maps deleted, and how many of them still had elements.
    deleted_sets: [usize; 2],
    /// Of each transaction: whether it makes hooks, and to which sets it adds elements.
    seen: Vec<(bool, Vec<SetId>)>,
}

fn refused(errno: i32) -> KernelError {
    KernelError::Refused { op: 0, element: None, object: "it".into(), reason: "it was told to".into(), errno }
}

impl Interceptor<FakeKernel> for Strict {
    fn apply(&mut self, kernel: &mut FakeKernel, transaction: &Transaction) -> Result<(), KernelError> {
        let (added, _) = transaction.element_counts();
        if self.keeps_chains && transaction.ops.iter().any(|(_, op)| matches!(op, Op::DeleteChain(_))) {
            return Err(refused(libc::EBUSY));
        }
        if self.most.is_some_and(|most| added > most) {
            return Err(refused(libc::EMSGSIZE));
        }
        self.largest = self.largest.max(added);
        for (family, op) in &transaction.ops {
            let Op::DeleteSet(name) = op else { continue };
            let there = kernel.listing(*family).and_then(|table| table.sets.get(name)).map_or(0, |set| set.len());
            let going = transaction.ops.iter().map(|(of, op)| match op {
                Op::DeleteElements(set, list) if (of, set) == (family, name) => list.len(),
                _ => 0,
            });
            self.deleted_sets[0] += 1;
            self.deleted_sets[1] += usize::from(there > going.sum());
        }
        let hooks = transaction.ops.iter().any(|(_, op)| matches!(op, Op::AddChain(chain) if chain.is_base()));
        let sets = transaction.ops.iter().filter_map(|(_, op)| match op {
            Op::AddElements(set, _) => Some(set.set),
            _ => None,
        });
        self.seen.push((hooks, sets.collect()));
        kernel.apply(transaction)
    }

    fn read(&mut self, kernel: &mut FakeKernel, family: Family) -> Result<Option<Table>, KernelError> {
        self.reads += 1;
        kernel.read(family)
    }
}

fn endpoints(service: &str, count: usize) -> Event {
    let addresses: Vec<String> = (1..=count).map(|n| format!("10.1.{}.{}", n / 200, n % 200)).collect();
    added_slice(slice(service, "n2", &addresses.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn in_force(controller: &mut Controller<Intercepted<FakeKernel, Strict>>) -> bool {
    let wanted = controller.mirror().expect("a sync").listing(V4).expect("served");
    let held = controller.kernel().kernel.listing(V4).expect("a table");
    let chains = |listing: &crate::ruleset::Listing| {
        listing
            .chains
            .iter()
            .map(|(chain, rules)| (*chain, rules.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    held.sets == wanted.sets && chains(held) == chains(&wanted)
}

#[test]
fn a_chain_that_cannot_be_deleted_does_not_cost_the_table() {
    let sizing = Sizing { floor: 8, headroom: 2 };
    let options = Options { sizing, ..Options::new("n1") };
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Strict::default() };
    let (mut controller, reports) = Controller::new(kernel, options);
    let services = [added(service("a", "10.96.0.1")), added(service("b", "10.96.0.2"))];
    let events = listed("n1").into_iter().chain(services).chain([endpoints("a", 3), endpoints("b", 2)]);
    controller.handle(events, Instant::now());
    let reads = controller.kernel().interceptor.reads;

    // Nobody has three endpoints any more, but the chain stays. Then the map of endpoints gets a successor.
    controller.kernel().interceptor.keeps_chains = true;
    controller.handle([endpoints("a", 2)], Instant::now());
    controller.handle([endpoints("b", 20)], Instant::now());
    controller.handle([endpoints("b", 60)], Instant::now());
    assert_eq!(
        (controller.kernel().interceptor.reads, reports.borrow().failures),
        (reads, 0),
        "nothing was read again"
    );

    // Wanted again, and again not.
    controller.handle([endpoints("a", 3)], Instant::now());
    controller.handle([endpoints("a", 2)], Instant::now());
    assert!(!in_force(&mut controller), "chains too many");
    controller.kernel().interceptor.keeps_chains = false;
    controller.handle([endpoints("a", 4)], Instant::now());
    assert!(in_force(&mut controller), "deleted at last");
    assert_eq!((controller.kernel().interceptor.reads, reports.borrow().failures), (reads, 0));
}

/// Services with so many endpoints each.
struct Cluster {
    programmer: Programmer<FakeKernel>,
    model: Model,
    options: Options,
}

impl Cluster {
    fn with(counts: &[usize]) -> Self {
        let (mut model, options) = (Model::default(), Options::new("n1"));
        let name = |n: usize| (format!("s{n}"), format!("10.96.{}.{}", n / 200, n % 200));
        let services = (0..counts.len()).map(name).map(|(name, ip)| added(service(&name, &ip)));
        listed("n1").into_iter().chain(services).for_each(|event| model.apply(event));
        let mut this = Self { programmer: Programmer::new(FakeKernel::new(), Duration::ZERO), model, options };
        this.model.take_changes();
        this.set(counts);
        this.programmer.rebuild(V4, this.options.settings(&this.model), &this.model).expect("a table");
        this.model.take_changes();
        this
    }

    fn set(&mut self, counts: &[usize]) {
        counts.iter().enumerate().for_each(|(n, count)| self.model.apply(endpoints(&format!("s{n}"), *count)));
    }

    fn update(&mut self, counts: &[usize]) {
        self.set(counts);
        let changes = self.model.take_changes();
        for (family, result) in self.programmer.update(&self.options.settings(&self.model), &self.model, &changes) {
            result.unwrap_or_else(|failure| panic!("{family}: {failure:?}"));
        }
    }

    /// The chains that pick endpoints, with how many rules each has.
    fn picks(&mut self) -> BTreeMap<String, usize> {
        let table = self.programmer.kernel.read(V4).expect("in memory").expect("there");
        let picks = table.chains.iter().filter(|(chain, _)| matches!(chain, ChainId::Pick(_)));
        picks.map(|(chain, rules)| (chain.to_string(), rules.len())).collect()
    }
}

#[test]
fn chains_that_nobody_uses_are_deleted_when_it_is_quiet() {
    let mut cluster = Cluster::with(&[9, 3]);
    let both = cluster.picks();
    assert_eq!(both.len(), 2, "{both:?}");
    cluster.update(&[3, 3]);
    assert_eq!(cluster.picks(), both, "with its rules: a packet may be on its way there");
    let at = cluster.programmer.deletes_at().expect("later");
    assert!(at > Instant::now() && cluster.programmer.delete_chains(Instant::now()).is_empty());

    // Each change puts it off, and takes back what it needs.
    cluster.update(&[4, 3]);
    assert!(cluster.programmer.deletes_at().expect("later") > at);
    cluster.update(&[9, 3]);
    assert_eq!(cluster.picks().len(), 3, "that of four endpoints is to go now");
    let later = cluster.programmer.deletes_at().expect("later");
    assert!(cluster.programmer.delete_chains(later).iter().all(|(_, result)| matches!(result, Ok(None))));
    assert_eq!((cluster.picks(), cluster.programmer.deletes_at()), (both, None));
    let mirror = cluster.programmer.mirror().expect("known").clone();
    let table = cluster.programmer.kernel.read(V4).expect("in memory");
    assert!(mirror.rebase(V4, table.as_ref()).is_empty());
}

#[test]
fn a_comparison_takes_chains_that_are_to_go_for_no_difference() {
    let mut cluster = Cluster::with(&[9, 3]);
    cluster.update(&[3, 3]);
    let (sent, _) = cluster.programmer.compare(V4, None).expect("read");
    assert!(sent.is_nothing(), "{sent:?}");
    assert_eq!((cluster.picks().len(), cluster.programmer.deletes_at()), (1, None));
}

#[test]
fn not_more_chains_than_a_few_are_left_for_later() {
    let counts: Vec<usize> = (10..160).collect();
    let mut cluster = Cluster::with(&counts);
    cluster.update(&vec![2; counts.len()]);
    assert_eq!((cluster.picks().len(), cluster.programmer.deletes_at()), (1, None));
}

#[test]
fn slices_are_as_small_as_the_kernel_wants_them() {
    let kernel =
        Intercepted { kernel: FakeKernel::new(), interceptor: Strict { most: Some(100), ..Strict::default() } };
    let (mut controller, reports) = Controller::new(kernel, Options::new("n1"));
    let events = listed("n1").into_iter().chain([added(service("a", "10.96.0.1")), endpoints("a", 5_000)]);
    controller.handle(events, Instant::now());
    assert_eq!((reports.borrow().syncs, reports.borrow().failures), (1, 0));
    assert!(in_force(&mut controller));
    let largest = controller.kernel().interceptor.largest;
    assert!((50..=100).contains(&largest), "{largest}");
}

#[test]
fn a_table_that_was_deleted_is_made_in_slices_too_where_the_kernel_wants_them() {
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Strict::default() };
    let (mut controller, reports) = Controller::new(kernel, Options::new("n1"));
    let services = (0..300).map(|n| added(service(&format!("s{n}"), &format!("10.96.{}.{}", n / 200, n % 200 + 1))));
    controller.handle(listed("n1").into_iter().chain(services), Instant::now());
    controller.kernel().interceptor.most = Some(100);
    let gone = Transaction { ops: vec![(V4, Op::DeleteTable)] };
    controller.kernel().kernel.apply(&gone).expect("deleted");
    controller.verify();
    assert!(in_force(&mut controller));
    assert_eq!((reports.borrow().syncs, reports.borrow().failures), (1, 0));
}

/// A table that others delete is in force again before its endpoints are there, of which there may be very many. What is for
/// connections that have an endpoint comes in between: none of them is without it.
#[test]
fn a_table_that_was_deleted_gets_its_hooks_before_its_endpoints() {
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Strict::default() };
    let (mut controller, _) = Controller::new(kernel, Options::new("n1"));
    let services = [added(service("a", "10.96.0.1")), added(service("b", "10.96.0.2"))];
    let events = listed("n1").into_iter().chain(services).chain([endpoints("a", 9_000), endpoints("b", 9_000)]);
    controller.handle(events, Instant::now());
    let hooks_of = |seen: &[(bool, Vec<SetId>)]| seen.iter().position(|(hooks, _)| *hooks).expect("hooks");
    let first = std::mem::take(&mut controller.kernel().interceptor.seen);
    assert!(first[hooks_of(&first)..].iter().all(|(_, sets)| sets.is_empty()), "no packet saw it before");

    let gone = Transaction { ops: vec![(V4, Op::DeleteTable)] };
    controller.kernel().kernel.apply(&gone).expect("deleted");
    controller.verify();
    assert!(in_force(&mut controller));
    let again = std::mem::take(&mut controller.kernel().interceptor.seen);
    assert_eq!(again[0], (true, vec![SetId::Services]), "in force with the first transaction");
    let after = &again[1..];
    let sets_of = |seen: &[(bool, Vec<SetId>)]| seen.iter().flat_map(|(_, sets)| sets.clone()).collect::<Vec<_>>();
    let slice_of = |set| after.iter().position(|(_, sets)| sets.contains(&set)).expect("added");
    let endpoints = slice_of(SetId::Endpoints);
    assert!(after.len() > endpoints + 1, "in slices");
    let late = sets_of(&after[endpoints + 1..]);
    assert!(late.iter().all(|set| *set == SetId::Endpoints), "{late:?}");
    assert!(slice_of(SetId::ClusterIps) <= endpoints);
}

#[test]
fn a_table_that_only_we_can_change_is_read_while_lists_are_on_their_way_and_once() {
    let options = Options::new("n1");
    let events: Vec<Event> =
        listed("n1").into_iter().chain([added(service("a", "10.96.0.1")), endpoints("a", 3)]).collect();
    for (guarded, taken, ahead) in [(true, false, 2), (false, false, 0), (true, true, 0)] {
        let (mut controller, _) = Controller::new(FakeKernel::new(), options.clone());
        controller.handle(events.clone(), Instant::now());
        let mut kernel = std::mem::take(controller.kernel());
        (kernel.guarded, kernel.taken) = (guarded, taken);
        let kernel = Intercepted { kernel, interceptor: Strict::default() };
        let (mut programmer, mut model) = (Programmer::new(kernel, Duration::ZERO), Model::default());
        programmer.read_ahead();
        assert_eq!(programmer.kernel().interceptor.reads, ahead, "guarded {guarded}, taken {taken}");
        events.iter().cloned().for_each(|event| model.apply(event));
        let mut rebuild = || {
            let sent = programmer.rebuild(V4, options.settings(&model), &model).expect("readable");
            assert!(sent.is_nothing(), "nothing has changed");
            programmer.kernel().interceptor.reads
        };
        assert_eq!([rebuild(), rebuild()], if ahead > 0 { [2, 3] } else { [1, 2] });
    }
}

#[test]
fn what_was_read_ahead_is_read_again_when_somebody_else_can_change_it() {
    let (mut controller, _) = Controller::new(FakeKernel::new(), Options::new("n1"));
    controller.handle(listed("n1"), Instant::now());
    let mut programmer = Programmer::new(std::mem::take(controller.kernel()), Duration::ZERO);
    programmer.kernel().guarded = true;
    programmer.read_ahead();
    programmer.kernel().guarded = false;
    programmer.kernel().apply(&Transaction { ops: vec![(V4, Op::DeleteTable)] }).expect("deleted");
    assert!(programmer.table_of(V4).expect("readable").is_none());
}

/// The kernel frees the elements of a map that is deleted all at once, and changes wait. But they may only go when no packet
/// looks them up any more: the kernel in memory refuses to delete them before.
#[test]
fn maps_that_were_replaced_are_emptied_before_they_are_deleted() {
    let options = Options { sizing: Sizing { floor: 8, headroom: 2 }, ..Options::new("n1") };
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Strict::default() };
    let (mut controller, reports) = Controller::new(kernel, options);
    let services = (0..9).map(|n| added(service(&format!("s{n}"), &format!("10.96.0.{n}"))));
    controller.handle(listed("n1").into_iter().chain(services), Instant::now());
    for n in 0..9 {
        // The first fills a map without a size; what comes then is never more than the map has room for.
        controller.handle([endpoints(&format!("s{n}"), if n == 0 { 60 } else { 30 })], Instant::now());
    }
    assert!(in_force(&mut controller));
    assert_eq!(reports.borrow().failures, 0);
    let [deleted, full] = controller.kernel().interceptor.deleted_sets;
    assert!(deleted >= 3, "the map of endpoints has grown several times, but {deleted} maps were deleted");
    assert_eq!(full, 0, "maps that still had elements");
}

/// A kernel in which packets write a record anew behind its deletion, so many times.
#[derive(Debug, Default)]
struct Renewing {
    times: usize,
    deletions: usize,
}

impl Interceptor<FakeKernel> for Renewing {
    fn forget(
        &mut self,
        kernel: &mut FakeKernel,
        family: Family,
        set: SetId,
        elements: &[Element],
    ) -> Result<(), KernelError> {
        kernel.forget(family, set, elements)?;
        self.deletions += 1;
        if self.times == 0 {
            return Ok(());
        }
        self.times -= 1;
        kernel.apply(&Transaction { ops: vec![(family, Op::AddElements(set.into(), elements.to_vec()))] })
    }
}

#[test]
fn records_that_packets_write_anew_while_they_are_deleted_go_too() {
    let options = Options::new("n1");
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Renewing { times: 2, deletions: 0 } };
    let (mut programmer, mut model) = (Programmer::new(kernel, Duration::ZERO), Model::default());
    let sticky = Service { affinity_seconds: Some(60), ..service("a", "10.96.0.1") };
    listed("n1").into_iter().chain([added(sticky), endpoints("a", 2)]).for_each(|event| model.apply(event));
    model.take_changes();
    programmer.rebuild(V4, options.settings(&model), &model).expect("loaded");

    let records = |programmer: &mut Programmer<Intercepted<FakeKernel, Renewing>>| {
        programmer.kernel().read_set(V4, SetId::Affinity.into()).expect("in memory").values().count()
    };
    let ids = programmer.kernel().read_set(V4, SetId::AffinityIds.into()).expect("in memory");
    let id = ids.values().find_map(|element| match element.value {
        Value::Data(id) => id.u32_host_at(0),
        _ => None,
    });
    let all = programmer.kernel().read_set(V4, SetId::Endpoints.into()).expect("in memory");
    let record = |n: u8, endpoint: Element| Element {
        key: Bytes::default().ip([192, 0, 2, n].into()).u8(17).u32_host(id.expect("an ID")),
        ..endpoint
    };
    let each = all.values().enumerate().map(|(n, endpoint)| record(u8::try_from(n).expect("few"), endpoint)).collect();
    let write = Transaction { ops: vec![(V4, Op::AddElements(SetId::Affinity.into(), each))] };
    programmer.kernel().apply(&write).expect("written");
    assert_eq!((records(&mut programmer), programmer.looks_again_at()), (2, None));

    model.apply(endpoints("a", 1));
    let changes = model.take_changes();
    programmer.update(&options.settings(&model), &model, &changes);
    assert_eq!(records(&mut programmer), 2, "a packet has written it anew");
    assert!(programmer.look_again(Instant::now()).is_empty(), "not yet");
    for left in [2, 1, 1] {
        let at = programmer.looks_again_at().expect("until none was found");
        assert!(programmer.look_again(at).into_iter().all(|(_, result)| result.is_ok()));
        assert_eq!(records(&mut programmer), left);
    }
    assert_eq!((programmer.looks_again_at(), programmer.kernel().interceptor.deletions), (None, 3));
}

/// The keys that go into a set and out of it, in their order.
#[derive(Debug, Default)]
struct Order([Vec<Bytes>; 2]);

impl Interceptor<FakeKernel> for Order {
    fn apply(&mut self, kernel: &mut FakeKernel, transaction: &Transaction) -> Result<(), KernelError> {
        for (_, op) in &transaction.ops {
            let (at, set, elements) = match op {
                Op::AddElements(set, elements) => (0, set, elements),
                Op::DeleteElements(set, elements) => (1, set, elements),
                _ => continue,
            };
            if set.set == SetId::AllowedSources {
                self.0[at].extend(elements.iter().map(|element| element.key));
            }
        }
        kernel.apply(transaction)
    }
}

/// The kernel looks for an element of source ranges from the oldest one on: thousands of them that go the other way round
/// take minutes, in which nobody else can change any table of the network namespace.
#[test]
fn source_ranges_go_in_the_order_in_which_they_came() {
    let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Order::default() };
    let (mut controller, _) = Controller::new(kernel, Options::new("n1"));
    let nets = (0..20).map(|n| format!("192.0.2.{}/32", n * 2 + 1).parse().expect("a network"));
    let ports = (0..10).map(|n| crate::testing::service_port(&format!("p{n}"), 80 + n));
    let guarded = Service {
        ports: ports.collect(),
        source_ranges: nets.collect(),
        load_balancer_ips: vec!["198.51.100.7".parse().expect("an address")],
        service_type: crate::model::ServiceType::LoadBalancer,
        ..service("a", "10.96.0.1")
    };
    let key = guarded.key.clone();
    controller.handle(listed("n1").into_iter().chain([added(guarded)]), Instant::now());
    controller.handle([Event::ServiceDeleted(key)], Instant::now());
    let [came, went] = &controller.kernel().interceptor.0;
    assert_eq!((came.len(), came), (200, went));
}
