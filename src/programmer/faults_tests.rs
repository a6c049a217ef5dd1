//! Whatever the kernel refuses, and whenever the process ends: the table is put right, piece by piece.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Options;
use crate::model::{EndpointSlice, Event, Family, Service, ServicePort, ServiceType};
use crate::plan::Sizing;
use crate::ruleset::{FakeKernel, Intercepted, Interceptor, Op};
use crate::testing::{self, added, added_slice, endpoint, ip, listed, service_port};

const V4: Family = Family::Ipv4;

/// A kernel that refuses some transactions.
#[derive(Debug, Default)]
struct Faulty {
    /// How many transactions come before the one that fails.
    fails_after: Option<usize>,
    /// That one takes effect all the same, and nobody learns of it.
    is_lost: bool,
    keeps_chains: bool,
    /// What the kernel in memory refused, and what replaced the table.
    wrong: Vec<String>,
}

impl Interceptor<FakeKernel> for Faulty {
    fn apply(&mut self, kernel: &mut FakeKernel, transaction: &Transaction) -> Result<(), KernelError> {
        let refused = |errno| KernelError::Refused {
            op: 0,
            element: None,
            object: "it".into(),
            reason: "it was told to".into(),
            errno,
        };
        if self.keeps_chains && transaction.ops.iter().any(|(_, op)| matches!(op, Op::DeleteChain(_))) {
            return Err(refused(libc::EBUSY));
        }
        let fails = self.fails_after == Some(0);
        self.fails_after = self.fails_after.and_then(|left| left.checked_sub(1));
        if fails && !self.is_lost {
            return Err(refused(libc::ENOMEM));
        }
        if transaction.ops.iter().any(|(_, op)| matches!(op, Op::DeleteTable)) {
            self.wrong.push("the table was replaced".to_owned());
        }
        let result = kernel.apply(transaction);
        if let Err(cause) = &result {
            self.wrong.push(cause.to_string());
        }
        let lost = || KernelError::Io { doing: "losing an answer", source: std::io::Error::other("lost") };
        if fails { result.and_then(|()| Err(lost())) } else { result }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Endpoints(u8, u8),
    Affinity(u8, Option<u32>),
    Grow(u8),
    DeleteChains,
    Compare,
    Restart,
    FailAfter(usize, bool),
    KeepChains(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u8..5, 0_u8..12).prop_map(|(service, count)| Step::Endpoints(service, count)),
        1 => (0_u8..5).prop_map(|service| Step::Endpoints(service, 40)),
        1 => (0_u8..5, any::<bool>()).prop_map(|(service, sticky)| Step::Affinity(service, sticky.then_some(60))),
        6 => (1_u8..6).prop_map(Step::Grow),
        3 => Just(Step::DeleteChains),
        1 => Just(Step::Compare),
        1 => Just(Step::Restart),
        2 => (0_usize..6, any::<bool>()).prop_map(|(after, lost)| Step::FailAfter(after, lost)),
        1 => any::<bool>().prop_map(Step::KeepChains),
    ]
}

fn service(n: u8, affinity: Option<u32>) -> Event {
    let plain = Service { affinity_seconds: affinity, ..testing::service(&format!("s{n}"), &format!("10.96.0.{n}")) };
    added(match n {
        0 => Service {
            service_type: ServiceType::LoadBalancer,
            external_policy_local: true,
            external_ips: vec![ip("10.77.0.1")],
            load_balancer_ips: vec![ip("10.78.0.1")],
            source_ranges: vec!["192.0.2.0/24".parse().expect("a range")],
            ports: vec![ServicePort { node_port: Some(30_080), ..service_port("", 80) }],
            ..plain
        },
        _ => plain,
    })
}

fn endpoints(n: u8, count: u8) -> Event {
    let node = |n| if n % 2 == 0 { "n1" } else { "n2" };
    let endpoints = (0..count).map(|at| endpoint([10, 1, n, at].into(), node(at))).collect();
    added_slice(EndpointSlice { endpoints, ..testing::slice(&format!("s{n}"), "", &["10.1.0.0"]) })
}

struct Play {
    programmer: Programmer<Intercepted<FakeKernel, Faulty>>,
    model: Model,
    options: Options,
}

impl Play {
    fn start(reset_for: Duration) -> Self {
        let sizing = Sizing { floor: 4, headroom: 2 };
        let options = Options { sizing, ..Options::new("n1") };
        let kernel = Intercepted { kernel: FakeKernel::new(), interceptor: Faulty::default() };
        let mut model = Model::default();
        let events = listed("n1").into_iter().chain((0..5).map(|n| service(n, None)));
        events.chain((0..5).map(|n| endpoints(n, n))).for_each(|event| model.apply(event));
        model.take_changes();
        Self { programmer: Programmer::new(kernel, reset_for), model, options }
    }

    fn sync(&mut self) {
        let (changes, settings) = (self.model.take_changes(), self.options.settings(&self.model));
        if self.programmer.knows(V4) {
            self.programmer.update(&settings, &self.model, &changes);
        } else {
            drop(self.programmer.rebuild(V4, settings, &self.model));
        }
    }

    fn grow(&mut self) {
        if self.programmer.growing().any(|family| family == V4) {
            drop(self.programmer.grow(V4));
        }
    }

    /// Until nothing is left to be done.
    fn finish(&mut self) {
        self.grow_up();
        self.delete_chains();
    }

    fn delete_chains(&mut self) {
        let later = Instant::now() + Duration::from_secs(1);
        self.programmer.delete_chains(later);
        assert_eq!(self.programmer.deletes_at(), None);
    }

    fn grow_up(&mut self) {
        while self.programmer.growing().any(|family| family == V4) {
            self.programmer.grow(V4).expect("nothing fails any more");
        }
    }

    fn table(&mut self) -> Table {
        self.programmer.kernel.kernel.read(V4).expect("in memory").expect("there")
    }

    /// Another process takes over.
    fn restart(&mut self) {
        let kernel = std::mem::take(&mut self.programmer.kernel.kernel);
        let interceptor = std::mem::take(&mut self.programmer.kernel.interceptor);
        self.programmer = Programmer::new(Intercepted { kernel, interceptor }, self.programmer.reset_for);
        self.sync();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Endpoints(service, count) => self.model.apply(endpoints(service, count)),
            Step::Affinity(n, seconds) => self.model.apply(service(n, seconds)),
            Step::Grow(times) => return (0..times).for_each(|_| self.grow()),
            Step::DeleteChains => return self.delete_chains(),
            Step::Compare if self.programmer.knows(V4) => {
                drop(self.programmer.compare(V4, None));
                return;
            }
            Step::Compare => {}
            Step::Restart => return self.restart(),
            Step::FailAfter(count, is_lost) => {
                let it = &mut self.programmer.kernel.interceptor;
                (it.fails_after, it.is_lost) = (Some(count), is_lost);
                return;
            }
            Step::KeepChains(keeps) => {
                self.programmer.kernel.interceptor.keeps_chains = keeps;
                return;
            }
        }
        self.sync();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_the_table_is_put_right(steps in proptest::collection::vec(any_step(), 1..40), resets in any::<bool>()) {
        let mut play = Play::start(Duration::from_secs(u64::from(resets) * 3600));
        play.sync();
        prop_assert!(play.programmer.knows(V4));
        for step in steps {
            play.take(step.clone());
            let wrong = &play.programmer.kernel.interceptor.wrong;
            prop_assert!(wrong.is_empty(), "{step:?}: {wrong:?}");
        }
        let it = &mut play.programmer.kernel.interceptor;
        (it.fails_after, it.keeps_chains) = (None, false);
        play.sync();
        play.grow_up();
        play.model.apply(endpoints(4, 13));
        play.sync();
        play.finish();
        let table = play.table();
        let mirror = play.programmer.mirror().expect("known");
        prop_assert_eq!((&table.foreign[..], &table.leftovers[..]), (&[][..], &[][..]));
        prop_assert!(mirror.rebase(V4, Some(&table)).is_empty());
        // Maps whose successors were given up get larger ones.
        play.restart();
        let table = play.table();
        play.restart();
        let again = play.table();
        prop_assert!(table.sets == again.sets && table.chains == again.chains, "nothing has changed");
        let wrong = &play.programmer.kernel.interceptor.wrong;
        prop_assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_map_whose_deletion_was_refused_is_deleted_all_the_same() {
    for after in 0..30 {
        let mut play = Play::start(Duration::ZERO);
        play.sync();
        play.take(Step::Endpoints(0, 3));
        play.take(Step::FailAfter(after, false));
        for _ in 0..40 {
            play.grow();
        }
        play.programmer.kernel.interceptor.fails_after = None;
        if !play.programmer.knows(V4) {
            play.sync();
        }
        play.grow_up();
        assert_eq!(play.table().leftovers, [], "change {after} failed");
    }
}

/// Another program deletes the table; what Portway then finds out.
fn lose_table(play: &mut Play) -> (Sent, bool) {
    let gone = Transaction { ops: vec![(V4, Op::DeleteTable)] };
    play.programmer.kernel.kernel.apply(&gone).expect("deleted");
    play.programmer.compare(V4, None).expect("it is loaded again")
}

#[test]
fn a_table_that_vanishes_while_a_map_grows_is_loaded_at_once() {
    for steps in 0..20 {
        let mut play = Play::start(Duration::ZERO);
        play.sync();
        play.take(Step::Endpoints(4, 13));
        (0..steps).for_each(|_| play.grow());
        let (sent, whole) = lose_table(&mut play);
        assert!(sent.loaded && whole && play.programmer.knows(V4), "after {steps} steps");
        play.finish();
    }
}

#[test]
fn chains_that_went_with_their_table_are_not_deleted_again() {
    let mut play = Play::start(Duration::ZERO);
    play.sync();
    play.take(Step::Endpoints(4, 13));
    play.finish();
    play.take(Step::Endpoints(4, 4));
    assert!(play.programmer.deletes_at().is_some());
    lose_table(&mut play);
    assert_eq!(play.programmer.deletes_at(), None);
    let mirror = play.programmer.mirror().expect("known");
    assert!(mirror.deletions(V4).is_empty());
}
