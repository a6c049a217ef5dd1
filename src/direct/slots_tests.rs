use std::time::Instant;

use super::*;
use crate::config::Options;
use crate::controller::Controller;
use crate::model::{EndpointSlice, Event, Service, ServiceOptions, ServiceType};
use crate::ruleset::FakeKernel;
use crate::testing::{self, added, added_slice, endpoint, ip, listed, service_port, slice_port};

const VIP: &str = "203.0.113.1";

fn service(name: &str, created: i64, balance: Balance) -> Event {
    added(Service {
        service_type: ServiceType::LoadBalancer,
        created: Some(created),
        load_balancer_ips: vec![ip(VIP)],
        ports: vec![service_port("web", 80)],
        annotated: Some(Box::new(ServiceOptions { balance, ..ServiceOptions::DEFAULT })),
        ..testing::service(name, if name == "old" { "10.96.0.1" } else { "10.96.0.2" })
    })
}

/// (address, node)
fn slice(service: &str, pods: &[(&str, &str)]) -> Event {
    added_slice(EndpointSlice {
        ports: vec![slice_port("web", 8080)],
        endpoints: pods.iter().map(|(address, node)| endpoint(ip(address), node)).collect(),
        ..testing::slice(service, "", &[])
    })
}

fn nodes(nodes: &[(&str, &str)]) -> Vec<Event> {
    let each = nodes.iter().map(|(name, address)| Event::NodeAddresses((*name).into(), vec![ip(address)]));
    [Event::ListStarted(Kind::NodeAddresses)]
        .into_iter()
        .chain(each)
        .chain([Event::ListDone(Kind::NodeAddresses)])
        .collect()
}

struct Loop {
    controller: Controller<FakeKernel>,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
}

impl Loop {
    fn start(events: Vec<Event>) -> Self {
        let (sender, wanted) = watch::channel(None);
        let options = Options { direct_return_devices: vec!["eth0".into()], ..Options::new("n1") };
        let (mut controller, _) = Controller::new(FakeKernel::new(), options);
        controller.observe(DirectObserver::new(sender));
        let mut this = Self { controller, wanted };
        this.sync(listed("n1").into_iter().chain(events).collect());
        this
    }

    fn sync(&mut self, events: Vec<Event>) {
        self.controller.handle(events, Instant::now());
    }

    /// Whether something was told since the last time, and of the one frontend: whose it is, how many slots lead to n2, n3, and
    /// nowhere.
    fn told(&mut self) -> (bool, Option<(String, [usize; 3])>) {
        let is_new = self.wanted.has_changed().expect("the loop lives");
        let wanted = self.wanted.borrow_and_update().clone().unwrap_or_default();
        assert!(wanted.frontends.len() <= 1, "{wanted:?}");
        let count =
            |frontend: &WantedFrontend, node| frontend.slots.iter().filter(|slot| slot.as_deref() == node).count();
        let flat = |frontend: &WantedFrontend| {
            let counts = [Some("n2"), Some("n3"), None].map(|node| count(frontend, node));
            (frontend.label.to_string(), counts)
        };
        (is_new, wanted.frontends.values().next().map(flat))
    }
}

#[test]
fn slots_lead_to_the_nodes_of_their_endpoints() {
    let pods = [("10.1.0.1", "n1"), ("10.1.0.2", "n2"), ("10.1.0.3", "n3"), ("10.1.0.4", "n3")];
    let known = nodes(&[("n2", "192.0.2.2"), ("n3", "192.0.2.3")]);
    let mut this = Loop::start([vec![service("old", 1, Balance::SourceIp), slice("old", &pods)], known].concat());
    let even = ("ns/old:web".to_owned(), [256, 512, 256]);
    assert_eq!(this.told(), (true, Some(even.clone())), "n1 is this node");
    this.sync(vec![service("old", 1, Balance::SourceIp)]);
    assert_eq!(this.told(), (false, Some(even.clone())));
    // A node gets another address; an endpoint goes; one without nodeName is nowhere.
    this.sync(nodes(&[("n2", "192.0.2.22"), ("n3", "192.0.2.3")]));
    assert_eq!(this.told(), (true, Some(even)));
    assert_eq!(this.wanted.borrow().as_ref().expect("told").nodes["n2"], [ip("192.0.2.22")]);
    this.sync(vec![slice("old", &pods[1..2])]);
    assert_eq!(this.told(), (true, Some(("ns/old:web".to_owned(), [1, 0, 0]))), "one is all there is");
    this.sync(vec![slice("old", &pods[..1])]);
    assert_eq!(this.told(), (true, None), "none elsewhere");
    this.sync(vec![slice("old", &pods)]);
    this.sync(vec![service("old", 1, Balance::Random)]);
    assert_eq!(this.told(), (true, None));
}

#[test]
fn nothing_is_told_before_nodes_are_known() {
    let mut this = Loop::start(vec![service("old", 1, Balance::SourceIp), slice("old", &[("10.1.0.2", "n2")])]);
    assert_eq!(this.told(), (false, None), "a table that is in force keeps its nodes");
    this.sync(nodes(&[("n2", "192.0.2.2")]));
    assert_eq!(this.told(), (true, Some(("ns/old:web".to_owned(), [1, 0, 0]))));
}

/// A frontend that goes from one Service to another that did not change, and is gone with that one.
#[test]
fn a_contested_frontend_is_its_owners() {
    let known = nodes(&[("n2", "192.0.2.2"), ("n3", "192.0.2.3")]);
    let of = |name| slice(name, &[if name == "old" { ("10.1.0.2", "n2") } else { ("10.1.0.3", "n3") }]);
    let services = [service("old", 1, Balance::SourceIp), service("young", 2, Balance::SourceIp)];
    let mut this = Loop::start([services.to_vec(), vec![of("old"), of("young")], known].concat());
    assert_eq!(this.told().1, Some(("ns/old:web".to_owned(), [1, 0, 0])));
    this.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "old"))]);
    assert_eq!(this.told(), (true, Some(("ns/young:web".to_owned(), [0, 1, 0]))));
    this.sync(vec![Event::ServiceDeleted(ObjectKey::new("ns", "young"))]);
    assert_eq!(this.told(), (true, None));
}
