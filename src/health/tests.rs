use std::time::Instant;

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{Node, ServiceCidr};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added_node, all_listed};

const SYNC_PERIOD: Duration = Duration::from_millis(20);

fn node(deleting: bool) -> Event {
    added_node(Node { deleting, ..testing::node("n1", &[]) })
}

fn start() -> (Arc<Health>, Controller<FakeKernel>) {
    let health = Health::new(SYNC_PERIOD, Family::ALL);
    let (mut controller, _) = Controller::new(FakeKernel::new(), Options::new("n1"));
    controller.observe(HealthObserver::new(health.clone()));
    (health, controller)
}

fn wait_too_long() {
    std::thread::sleep(SYNC_PERIOD * 3);
}

#[test]
fn the_node_decides_about_healthz_only() {
    let (health, mut controller) = start();
    assert!(!health.healthz().ok && health.livez().ok && !health.is_ready(), "no Node yet");
    controller.handle([node(false)].into_iter().chain(all_listed()), Instant::now());
    assert!(health.healthz().ok && health.is_ready());
    controller.handle([node(true)], Instant::now());
    assert!(!health.healthz().ok && health.livez().ok);
    controller.handle([Event::NodeDeleted, node(false)], Instant::now());
    assert!(health.healthz().ok);
}

#[test]
fn a_refused_sync_is_forgiven_for_a_while() {
    let (health, mut controller) = start();
    controller.handle([node(false)].into_iter().chain(all_listed()), Instant::now());
    wait_too_long();
    assert!(health.is_healthy(), "nobody waits");
    controller.kernel().refuse = true;
    let cidr = ServiceCidr { name: "a".into(), cidrs: vec!["10.96.0.0/16".parse().expect("a range")] };
    controller.handle([Event::ServiceCidr(cidr)], Instant::now());
    assert!(health.is_healthy(), "not yet");
    wait_too_long();
    assert!(!health.is_healthy() && !health.livez().ok && !health.healthz().ok);
    controller.kernel().refuse = false;
    std::thread::sleep(Duration::from_millis(100));
    controller.handle([], Instant::now());
    assert!(health.is_healthy());
}

#[test]
fn while_another_has_the_tables_it_is_not_ready_but_well() {
    let (health, mut controller) = start();
    controller.kernel().taken = true;
    controller.handle([node(false)].into_iter().chain(all_listed()), Instant::now());
    wait_too_long();
    assert!(!health.is_ready() && health.livez().ok && health.healthz().ok);
    controller.kernel().taken = false;
    std::thread::sleep(Duration::from_millis(250));
    controller.handle([], Instant::now());
    assert!(health.is_ready());
}

#[test]
fn a_table_that_cannot_be_repaired_is_not_healthy() {
    let (health, mut controller) = start();
    controller.handle([node(false)].into_iter().chain(all_listed()), Instant::now());
    controller.verify();
    wait_too_long();
    assert!(health.is_healthy(), "nothing to repair");
    let table = controller.kernel().listing_mut(Family::Ipv4).expect("a table");
    table.chains.last_mut().expect("a chain").1.clear();
    controller.kernel().refuse = true;
    controller.verify();
    wait_too_long();
    assert!(!health.healthz().ok, "packets may go astray");
}
