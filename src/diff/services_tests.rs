use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;
use crate::config::Options;
use crate::diff::{Mirror, Steps, slots};
use crate::model::{Balance, Event, Family, Protocol, Service, ServiceOptions, ServicePort, ServiceType};
use crate::ruleset::{EndpointMap, FakeKernel, Kernel as _, Listing, Op, Pick, PickBy, SetId, Table, Transaction};
use crate::testing::{self, added, added_node, added_slice, all_listed, endpoint, ip, service_port};

const V4: Family = Family::Ipv4;
const KEY: FrontendKey =
    FrontendKey::Address { ip: IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)), protocol: Protocol::Tcp, port: 80 };

/// A model, a mirror and a kernel that follow events.
struct Loop {
    model: Model,
    mirror: Mirror,
    kernel: FakeKernel,
}

impl Loop {
    fn start(events: impl IntoIterator<Item = Event>) -> Self {
        let mut model = Model::default();
        let node = added_node(testing::node("here", &["10.51.0.1"]));
        events.into_iter().chain([node]).chain(all_listed()).for_each(|event| model.apply(event));
        model.take_changes();
        let (mirror, _) = Mirror::build(settings(&model), &model);
        let mut this = Self { model, mirror, kernel: FakeKernel::new() };
        let steps = this.mirror.rebase(V4, None);
        this.commit(steps);
        this
    }

    /// Commits what events change, and tells what that was.
    fn sync(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Op> {
        events.into_iter().for_each(|event| self.model.apply(event));
        let (changes, settings) = (self.model.take_changes(), settings(&self.model));
        let updates = self.mirror.update(&settings, &self.model, &changes).families;
        updates.into_iter().filter(|update| update.family == V4).flat_map(|update| self.commit(update.steps)).collect()
    }

    /// Another process starts when these events have happened.
    fn restart(&mut self, missed: impl IntoIterator<Item = Event>) -> Vec<Op> {
        missed.into_iter().for_each(|event| self.model.apply(event));
        let table = self.table();
        self.mirror = Mirror::new(settings(&self.model));
        self.mirror.compile(V4, &self.model, Some(&ExistingLayout::of(&table)));
        let steps = self.mirror.rebase(V4, Some(&table));
        self.commit(steps)
    }

    fn commit(&mut self, steps: Steps) -> Vec<Op> {
        let transactions = steps.transactions();
        for transaction in transactions {
            self.kernel.apply(transaction).expect("applied");
        }
        transactions.into_iter().flat_map(|t| t.ops.iter().map(|(_, op)| op.clone())).collect()
    }

    fn table(&mut self) -> Table {
        self.kernel.read(V4).expect("in memory").expect("there")
    }

    /// How many slots the chains have that frontends are led to, by map.
    fn counts(&mut self) -> BTreeSet<(EndpointMap, u32)> {
        let verdicts = self.table().sets.into_iter().filter(|(set, _)| set.leads_to_chains());
        let picks = verdicts.flat_map(|(_, elements)| elements.values().collect::<Vec<_>>());
        picks.filter_map(|element| pick_of(element.value)).map(|pick| (pick.map, pick.count)).collect()
    }
}

fn pick_of(value: Value) -> Option<Pick> {
    match value {
        Value::Verdict(Verdict::Goto(ChainId::Pick(pick))) => Some(pick),
        _ => None,
    }
}

fn settings(model: &Model) -> Settings {
    Options::new("here").settings(model)
}

/// A Service with all kinds of frontends, and so many endpoints, half of them here.
fn shop(endpoints: u8, affinity: Option<u32>) -> [Event; 2] {
    let service = Service {
        service_type: ServiceType::LoadBalancer,
        external_policy_local: true,
        affinity_seconds: affinity,
        external_ips: vec![ip("10.77.0.1")],
        load_balancer_ips: vec![ip("10.78.0.1")],
        source_ranges: vec!["192.0.2.0/24".parse().expect("a range")],
        ports: vec![ServicePort { node_port: Some(30_080), ..service_port("", 80) }],
        ..testing::service("shop", "10.96.0.1")
    };
    [added(service), slice(endpoints)]
}

fn slice(endpoints: u8) -> Event {
    let node = |n| if n % 2 == 0 { "here" } else { "there" };
    let endpoints = (0..endpoints).map(|n| endpoint([10, 1, 0, n].into(), node(n))).collect();
    added_slice(crate::model::EndpointSlice { endpoints, ..testing::slice("shop", "", &["10.1.0.0"]) })
}

/// Whether the kernel validates the whole table because of this.
fn is_dear(ops: &[Op]) -> bool {
    ops.iter().any(|op| match op {
        Op::AddElements(name, _) | Op::DeleteElements(name, _) => name.set.leads_to_chains(),
        _ => true,
    })
}

#[test]
fn one_or_two_endpoints_fewer_or_more_again_keep_all_verdicts() {
    for affinity in [None, Some(60)] {
        let mut it = Loop::start(shop(8, affinity));
        let counts = |it: &mut Loop| it.counts().into_iter().map(|(_, count)| count).collect::<BTreeSet<_>>();
        assert_eq!(counts(&mut it), BTreeSet::from([8, 4]), "eight, of which four are here");
        for endpoints in [7, 6, 8, 6, 7, 8] {
            let ops = it.sync([slice(endpoints)]);
            assert!(!ops.is_empty() && !is_dear(&ops), "{endpoints} endpoints: {ops:#?}");
            assert_eq!(counts(&mut it), BTreeSet::from([8, 4]));
        }
        // The local ones, three now, would do with their chain for another one; all together do not.
        assert!(is_dear(&it.sync([slice(5)])));
        assert_eq!(counts(&mut it), BTreeSet::from([5, 4]));
        assert!(is_dear(&it.sync([slice(9)])), "more than ever");
        assert_eq!(counts(&mut it), BTreeSet::from([9, 5]));
    }
}

#[test]
fn none_left_is_no_number_of_endpoints() {
    let mut it = Loop::start(shop(2, None));
    assert!(!is_dear(&it.sync([slice(2)])));
    let refused = it.sync([slice(0)]);
    assert!(is_dear(&refused) && it.counts().is_empty(), "{refused:#?}");
    it.sync([slice(1)]);
    assert!(it.counts().iter().all(|(_, count)| *count == 1));
}

#[test]
fn a_restart_keeps_the_chains_in_which_endpoints_are_missing() {
    for affinity in [None, Some(60)] {
        let mut it = Loop::start(shop(8, affinity));
        it.sync([slice(6)]);
        let before = it.counts();
        assert_eq!(it.restart([]), [], "nothing has changed");
        assert_eq!(it.counts(), before);
        let ops = it.restart([slice(7)]);
        assert!(!ops.is_empty() && !is_dear(&ops), "{ops:#?}");
        assert_eq!(it.counts(), before);
        assert!(is_dear(&it.restart([slice(4)])));
        assert!(it.counts() != before);
    }
}

#[test]
fn slots_of_a_hash_are_as_many_as_there_are() {
    let hashing = |endpoints: u8| {
        let [_, slice] = shop(endpoints, None);
        let options = ServiceOptions { balance: Balance::SourceIp, ..ServiceOptions::DEFAULT };
        let service = Service { annotated: Some(options.into()), ..testing::service("shop", "10.96.0.1") };
        [added(service), slice]
    };
    let mut it = Loop::start(hashing(3));
    assert_eq!(it.counts(), BTreeSet::from([(EndpointMap::Address, 1024)]));
    it.sync([slice(2)]);
    assert_eq!(it.counts(), BTreeSet::from([(EndpointMap::Address, 1024)]));
    it.sync([slice(1)]);
    assert_eq!(it.counts(), BTreeSet::from([(EndpointMap::Address, 1)]));
    let pick = |by| Pick { map: EndpointMap::Address, by, count: 5 };
    let spare = |by| [2, 3, 4, 5, 6].map(|endpoints| slots::spare(pick(by), endpoints));
    assert_eq!(spare(PickBy::Sticky), [None, Some(2), Some(1), Some(0), None]);
    assert_eq!(spare(PickBy::SourceIpPort), [None, None, None, Some(0), None]);
}

#[test]
fn the_slots_of_a_frontend_have_no_gap() {
    let mut it = Loop::start(shop(6, None));
    for endpoints in [5, 4, 6, 4, 5, 2, 7] {
        it.sync([slice(endpoints)]);
        let table = it.table();
        let slots = slots::ExistingSlots(&table).get(EndpointMap::Address, &KEY.bytes());
        assert_eq!(
            (slots.len(), table.sets[&SetId::Endpoints].slots(&KEY.bytes()).count()),
            (endpoints.into(), endpoints.into())
        );
    }
}

/// As versions before wrote chains: one try, at random.
fn with_one_try(table: &Listing) -> Vec<Op> {
    let mut ops = Vec::new();
    for (chain, rules) in &table.chains {
        let ChainId::Pick(Pick { by: PickBy::Random | PickBy::Sticky, .. }) = chain else { continue };
        ops.push(Op::FlushChain(*chain));
        let first = rules.len() - 1 - rules.iter().filter(|rule| is_a_try(rule)).count();
        let kept = rules.iter().enumerate().filter(|(at, rule)| *at <= first || !is_a_try(rule));
        ops.extend(kept.map(|(_, rule)| Op::AddRule(*chain, rule.clone())));
    }
    ops
}

fn is_a_try(rule: &crate::ruleset::Rule) -> bool {
    use crate::ruleset::{Field, Term};
    let [Term::Translate { key, .. }] = rule.as_slice() else { return false };
    key.iter().any(|field| matches!(field, Field::RandomSlot(_)))
}

#[test]
fn chains_of_the_version_before_get_their_rules_in_one_transaction() {
    for affinity in [None, Some(60)] {
        let mut it = Loop::start(shop(8, affinity));
        let wanted = it.table().chains;
        let ops = with_one_try(it.kernel.listing(V4).expect("there"));
        assert!(!ops.is_empty());
        it.kernel.apply(&Transaction { ops: ops.into_iter().map(|op| (V4, op)).collect() }).expect("applied");
        assert!(it.table().chains != wanted, "the test is blind");
        let ops = it.restart([]);
        let picks = |op: &Op| matches!(op, Op::FlushChain(ChainId::Pick(_)) | Op::AddRule(ChainId::Pick(_), _));
        assert!(!ops.is_empty() && ops.iter().all(picks), "{ops:#?}");
        assert_eq!(it.table().chains, wanted);
    }
}

#[test]
fn in_a_large_map_a_chain_that_is_there_will_do() {
    let many = |n: u8| {
        let endpoints = (0..1_000_u16).map(|e| endpoint([10, 2, (e >> 8) as u8, e as u8].into(), "there")).collect();
        let name = format!("many-{n}");
        let slice = crate::model::EndpointSlice { endpoints, ..testing::slice(&name, "", &["10.2.0.0"]) };
        [added(testing::service(&name, &format!("10.97.0.{n}"))), added_slice(slice)]
    };
    let of = |name: &str, ip: &str, endpoints: u8| {
        let endpoints = (0..endpoints).map(|n| endpoint([10, 1, 0, n].into(), "there")).collect();
        let slice = crate::model::EndpointSlice { endpoints, ..testing::slice(name, "", &["10.1.0.0"]) };
        [added(testing::service(name, ip)), added_slice(slice)]
    };
    let makes_chains = |ops: &[Op]| ops.iter().any(|op| matches!(op, Op::AddChain(_)));
    for (number, is_made) in [(40, true), (60, false)] {
        let mut this =
            Loop::start((0..number).flat_map(many).chain(of("a", "10.96.0.1", 8)).chain(of("b", "10.96.0.2", 5)));
        let picks = this.counts();
        assert_eq!(picks, [5, 8, 1_000].map(|count| (EndpointMap::Address, count)).into(), "a load has exact ones");
        assert_eq!(makes_chains(&this.sync(of("a", "10.96.0.1", 4))), is_made, "one of 8 fits 6 to 8 endpoints");
        assert_eq!(makes_chains(&this.sync(of("c", "10.96.0.3", 3))), is_made, "one of 5 fits 3 endpoints");
        assert!(makes_chains(&this.sync(of("c", "10.96.0.3", 6))), "none fits");
    }
}
