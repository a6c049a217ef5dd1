//! Changes without end, and who may answer meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::probes::Probes;
use super::services::{PODS, Pod, Service};
use super::testbed::Testbed;
use support::api_double::Backup;
use support::netns::output_of;
use support::scenes::number;

/// Groups of Services: one of each kind. The first is never touched.
const GROUPS: u8 = 4;
/// Services without clients that come and go.
const PASSERS_BY: std::ops::Range<u8> = GROUPS..GROUPS + 4;

/// Numbers that look like chance and can be had again (xorshift64).
pub(crate) struct Chance(u64);

impl Chance {
    /// `PORTWAY_SEED` chooses others.
    pub(crate) fn new() -> Self {
        let seed = number("PORTWAY_SEED", 1);
        println!("PORTWAY_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below a limit.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Waits up to so many milliseconds.
    pub(crate) fn doze(&mut self, milliseconds: usize) {
        std::thread::sleep(Duration::from_micros(self.below(milliseconds * 1000 + 1) as u64));
    }
}

/// What is there, and those who ask for it.
pub(crate) struct Churn {
    pub(crate) chance: Chance,
    pub(crate) probes: Probes,
    endpoints: BTreeMap<Service, Vec<Pod>>,
    /// Changed since all was known to be in force.
    touched: BTreeSet<Service>,
    passing: BTreeSet<Service>,
    /// Changes made.
    pub(crate) changes: usize,
}

/// What the API server and we knew at a time.
pub(crate) struct Memory {
    backup: Backup,
    endpoints: BTreeMap<Service, Vec<Pod>>,
    passing: BTreeSet<Service>,
}

impl Churn {
    /// Creates the Services, starts the program, waits until all is in force, and only then starts clients.
    pub(crate) fn start(testbed: &mut Testbed) -> Self {
        let services: Vec<(Service, Vec<Pod>)> =
            (0..GROUPS).flat_map(Service::group).map(|service| (service, PODS.to_vec())).collect();
        for (service, pods) in &services {
            testbed.double.put(service.object());
            testbed.double.put(service.slice(pods));
        }
        testbed.start();
        testbed.wait_until_settled();
        let probes = Probes::start(&testbed.client, &services);
        let (touched, passing) = (BTreeSet::new(), BTreeSet::new());
        Self { chance: Chance::new(), probes, endpoints: services.into_iter().collect(), touched, passing, changes: 0 }
    }

    /// Changes something.
    pub(crate) fn change(&mut self, testbed: &Testbed) {
        self.changes += 1;
        if self.chance.below(4) == 0 {
            return self.pass(testbed);
        }
        let group = 1 + self.chance.below(usize::from(GROUPS) - 1) as u8;
        let kinds: Vec<Service> = Service::group(group).collect();
        let service = kinds[self.chance.below(kinds.len())];
        // One that is local always: nobody is to be left without.
        let first = self.chance.below(3);
        let others = self.chance.below(1 << PODS.len());
        let pods = PODS.into_iter().enumerate().filter(|(n, _)| *n == first || others >> n & 1 == 1);
        let pods: Vec<Pod> = pods.map(|(_, pod)| pod).collect();
        self.set(service, pods);
        testbed.double.put(service.slice(&self.endpoints[&service]));
    }

    fn set(&mut self, service: Service, pods: Vec<Pod>) {
        self.probes.widen(service, &pods);
        self.endpoints.insert(service, pods);
        self.touched.insert(service);
    }

    /// A Service comes or goes that nobody asks.
    fn pass(&mut self, testbed: &Testbed) {
        let group = PASSERS_BY.start + self.chance.below(PASSERS_BY.len()) as u8;
        let kinds: Vec<Service> = Service::group(group).collect();
        let service = kinds[self.chance.below(kinds.len())];
        if self.passing.remove(&service) {
            testbed.double.delete("services", "testbed", &service.name());
            testbed.double.delete("endpointslices", "testbed", &format!("{}-1", service.name()));
        } else {
            testbed.double.put(service.object());
            testbed.double.put(service.slice(&PODS[..1 + self.chance.below(PODS.len())]));
            self.passing.insert(service);
        }
    }

    /// Remembers all there is.
    pub(crate) fn remember(&self, testbed: &Testbed) -> Memory {
        let (endpoints, passing) = (self.endpoints.clone(), self.passing.clone());
        Memory { backup: testbed.double.backup(), endpoints, passing }
    }

    /// The API server's storage is that of an earlier time.
    pub(crate) fn restore(&mut self, testbed: &Testbed, memory: Memory) {
        for (service, pods) in memory.endpoints {
            if self.endpoints[&service] != pods {
                self.set(service, pods);
            }
        }
        self.passing = memory.passing;
        testbed.double.restore(memory.backup);
    }

    /// Waits until the kernel is as desired; from then on only who is an endpoint now may answer.
    pub(crate) fn settle(&mut self, testbed: &mut Testbed) -> Duration {
        let start = Instant::now();
        testbed.wait_until_settled();
        let touched = std::mem::take(&mut self.touched);
        let udp: Vec<Service> = touched.iter().copied().filter(|service| service.kind.is_udp()).collect();
        if !udp.is_empty() {
            testbed.wait("no flow goes to an endpoint of before", |_| {
                let flows = ["ipv4", "ipv6"].map(|family| output_of("conntrack", &["-L", "-f", family, "-p", "udp"]));
                let stale = flows.iter().flat_map(|list| list.lines()).find(|flow| self.is_stale(&udp, flow));
                stale.map_or(Ok(()), |flow| Err(flow.to_owned()))
            });
        }
        for service in touched {
            self.probes.narrow(service, &self.endpoints[&service]);
        }
        start.elapsed()
    }

    /// Whether a line of `conntrack -L` leads from one of these Services to a pod that is no endpoint.
    fn is_stale(&self, services: &[Service], flow: &str) -> bool {
        let value = |name: &str, nth: usize| {
            let mut words = flow.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            words.nth(nth)
        };
        let asked = |service: &&Service| {
            let address = service.address();
            value("dst", 0).and_then(|ip| ip.parse().ok()) == Some(address.ip())
                && value("dport", 0) == Some(address.port().to_string().as_str())
        };
        let pod: Option<IpAddr> = value("src", 1).and_then(|ip| ip.parse().ok());
        let service = services.iter().find(asked);
        service.zip(pod).is_some_and(|(service, pod)| !service.answers(&self.endpoints[service]).contains(&pod))
    }
}
