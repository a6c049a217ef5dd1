use std::net::UdpSocket as Plain;

use super::super::budget::Budget;
use super::super::pump::Pipes;
use super::super::stats::Stats;
use super::super::wanted::LocalTarget;
use super::*;
use crate::events;
use crate::model::ObjectKey;

const TIMES: IdleTimes = IdleTimes {
    idle: Duration::from_secs(1),
    stream: Duration::from_secs(4),
    stream_after: Duration::from_millis(100),
};

/// A port with one endpoint and one client; all on this host.
struct Scene {
    stats: Arc<Stats>,
    endpoint: Plain,
    client: Plain,
}

impl Scene {
    fn new() -> Self {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = Plain::bind(here).expect("a port");
        let address = endpoint.local_addr().expect("an address");
        let targets = [Target { ip: address.ip(), port: address.port() }].into();
        let wanted = LocalTarget { service: ObjectKey::new("ns", "a"), targets, affinity: None };
        let (stats, budget) = (Arc::new(Stats::new(&Family::ALL)), Budget::new(100));
        let (pipes, (events, _)) = (Pipes::new(budget.clone()), events::queue());
        let shared = RelayContext { budget, pipes, stats: stats.clone(), events, idle_times: TIMES };
        let port = UdpPort::open(here, Choice::new(&wanted), Arc::new(shared)).expect("a port");
        let client = Plain::bind(here).expect("a port");
        client.connect(port.socket.local_addr().expect("an address")).expect("connected");
        for socket in [&endpoint, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        }
        tokio::spawn(port.serve());
        Self { stats, endpoint, client }
    }

    /// A packet to the endpoint, and maybe an answer.
    fn ask(&self, answer: bool) {
        self.client.send(b"question").expect("sent");
        let (_, relay) = self.endpoint.recv_from(&mut [0; 16]).expect("a packet");
        if answer {
            self.endpoint.send_to(b"answer", relay).expect("sent");
            self.client.recv(&mut [0; 16]).expect("an answer");
        }
    }

    fn flows(&self) -> u64 {
        self.stats.open(Protocol::Udp)
    }

    /// How long the flow lasts from now on.
    fn lasts(&self) -> Duration {
        let start = Instant::now();
        while self.flows() > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "it never ends");
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}

/// Sockets of this test wait in the thread that calls them, the relay on others.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_without_answers_ends_soon() {
    let scene = Scene::new();
    scene.ask(false);
    std::thread::sleep(Duration::from_millis(500));
    scene.ask(false);
    let lasted = scene.lasts();
    assert!(lasted > Duration::from_millis(900) && lasted < TIMES.stream, "its time begins anew: {lasted:?}");
    scene.ask(false);
    assert_eq!(scene.flows(), 1, "the next packet begins another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_of_both_sides_lasts_longer() {
    let scene = Scene::new();
    scene.ask(true);
    std::thread::sleep(Duration::from_millis(150));
    scene.ask(true);
    let lasted = scene.lasts();
    assert!(lasted > Duration::from_millis(3900), "{lasted:?}");
}
