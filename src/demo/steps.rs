//! The steps before anything changes: a Service appears, requests are spread, and pods see who asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http::{self, HttpAnswer, HttpConnection};
use super::manifests::{self, DemoFolder, DemoService};
use super::netns::Namespace;
use super::screen::{Screen, millis};
use super::stats::Tally;
use super::stop::StopSignal;
use super::wiring::{Portway, TimedChange};
use super::world::{CLIENT_IPS, GATEWAYS, NODE_IPS, World, pod_ips, pod_name};

/// The ClusterIPs of the Service `web`.
pub(super) const WEB_IPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa))];
/// Its external IP.
const WEB_EXTERNAL: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10))];
/// Its NodePort.
const WEB_NODE_PORT: u16 = 30080;
/// A second Service, with policy Local.
const LOCAL_IPS: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20))];
const LOCAL_NODE_PORT: u16 = 30081;
/// How long to wait for an answer that is not expected.
const NO_ANSWER: Duration = Duration::from_millis(200);

/// The Service everything is about.
pub(super) const WEB: DemoService<'static> = DemoService {
    name: "web",
    cluster_ips: &WEB_IPS,
    external_ips: &WEB_EXTERNAL,
    node_port: Some(WEB_NODE_PORT),
    local: false,
};
const LOCAL: DemoService<'static> = DemoService {
    name: "web-local",
    cluster_ips: &LOCAL_IPS,
    external_ips: &[],
    node_port: Some(LOCAL_NODE_PORT),
    local: true,
};

/// Everything a step works with, and what has come out so far.
pub(super) struct Story<'a> {
    /// Client, node and pods.
    pub world: &'a World,
    /// The manifests.
    pub folder: &'a DemoFolder,
    /// Where it is told.
    pub screen: Screen,
    /// Whether to end early.
    pub stop: &'a StopSignal,
    /// Requests for each row of a table.
    pub requests: usize,
    /// Requests that were answered, in all.
    pub answered: usize,
    /// The changes of the Service's endpoints.
    pub changes: Vec<TimedChange>,
    /// What went wrong.
    pub complaints: Vec<String>,
}

impl Story<'_> {
    /// Writes the first manifests, shows that nothing answers yet, and starts Portway with `start`.
    pub(super) fn first_service(&mut self, start: impl FnOnce() -> Result<Portway>) -> Result<Portway> {
        self.screen.heading("1. A Service with three endpoints");
        self.screen.row("Service web", "ClusterIPs 10.96.0.10 and fd00:10:96::a");
        self.screen.row("also reached by", "NodePort 30080 and the external IP 203.0.113.10");
        self.screen.row("endpoints", "pod-1, pod-2 and pod-3, in EndpointSlices of both families");
        self.folder.put("cluster.yaml", &manifests::cluster())?;
        self.folder.put("web.yaml", &manifests::service(&WEB))?;
        self.folder.put("web-endpoints.yaml", &manifests::slices(&WEB, &[1, 2, 3]))?;
        let local = format!("{}{}", manifests::service(&LOCAL), manifests::slices(&LOCAL, &[1, 2, 3]));
        self.folder.put("web-local.yaml", &local)?;
        let before = self.world.client.run(|| Ok(http::connects(web(0), NO_ANSWER)))?;
        match before {
            Ok(()) => self.complain("10.96.0.10 answers before Portway has started".to_owned()),
            Err(cause) => self.screen.row("before Portway: 10.96.0.10", &format!("no answer ({})", cause.kind())),
        }
        let started = Instant::now();
        let mut portway = start()?;
        let change = portway.committed(started).context("after the start")?;
        let (added, total) = (change.report.added, millis(change.total));
        self.screen
            .row("Portway starts", &format!("{added} elements in the kernel after {total}, from an empty table"));
        Ok(portway)
    }

    /// Sends requests to every kind of address and shows who answers.
    pub(super) fn spread(&mut self) -> Result<()> {
        self.screen.heading("2. Every address of the Service spreads new connections evenly");
        let pods = names(&[1, 2, 3]);
        self.screen.bar_heads(&format!("{} requests each to", self.requests), &pods);
        let targets = [
            (format!("ClusterIP   {}", web(0)), web(0)),
            (format!("ClusterIP   {}", web(1)), web(1)),
            (format!("NodePort    {WEB_NODE_PORT} over IPv4"), SocketAddr::new(NODE_IPS[0], WEB_NODE_PORT)),
            (format!("NodePort    {WEB_NODE_PORT} over IPv6"), SocketAddr::new(NODE_IPS[1], WEB_NODE_PORT)),
            (format!("external IP {}:80", WEB_EXTERNAL[0]), SocketAddr::new(WEB_EXTERNAL[0], 80)),
        ];
        for (label, address) in targets {
            let tally = self.requests_to(address, &pods)?;
            self.screen.bars(&label, &tally, &pods);
        }
        Ok(())
    }

    /// Many requests from the client to one address, of which each of the pods should get its share.
    pub(super) fn requests_to(&mut self, address: SocketAddr, pods: &[String]) -> Result<Tally> {
        let mut tally = Tally::default();
        self.world.client.run(|| {
            for _ in 0..self.requests {
                self.stop.check()?;
                tally.count(http::get(address));
                // One that is not answered takes seconds: a few are enough to know.
                if let (3.., Some(first)) = (tally.failed, &tally.first_failure) {
                    bail!("requests to {address} fail: {first}");
                }
            }
            Ok(())
        })?;
        self.answered += tally.requests() - tally.failed;
        if let Some(complaint) = tally.complaint(pods) {
            self.complain(format!("{address}: {complaint}"));
        }
        Ok(tally)
    }

    /// Shows which source address the pods see.
    pub(super) fn sources(&mut self) -> Result<()> {
        self.screen.heading("3. Pods see who asks, except where answers would not find back");
        let world = self.world;
        let node_port = SocketAddr::new(NODE_IPS[0], LOCAL_NODE_PORT);
        let any: fn(&HttpAnswer) -> bool = |_| true;
        let itself: fn(&HttpAnswer) -> bool = |answer| answer.pod == pod_name(1);
        let other: fn(&HttpAnswer) -> bool = |answer| answer.pod != pod_name(1);
        let cases = [
            ("client to ClusterIP", &world.client, web(0), any, GATEWAYS[0], "the node: masqueraded"),
            ("client to IPv6 ClusterIP", &world.client, web(1), any, GATEWAYS[1], "the node: masqueraded"),
            ("client to NodePort, Local", &world.client, node_port, any, CLIENT_IPS[0], "the client itself"),
            ("pod-4 to ClusterIP", &world.pods[3], web(0), any, pod_ips(4)[0], "the pod itself"),
            ("pod-1 to ClusterIP, others", &world.pods[0], web(0), other, pod_ips(1)[0], "the pod itself"),
            ("pod-1 to ClusterIP, itself", &world.pods[0], web(0), itself, GATEWAYS[0], "the node: hairpin"),
            ("node to ClusterIP", &world.node, web(0), any, GATEWAYS[0], "the node"),
        ];
        for (label, from, to, wanted, expected, meaning) in cases {
            let answer = self.ask_until(from, to, wanted).with_context(|| label.to_owned())?;
            let saw = answer.saw.to_string();
            let text = format!("{} saw {saw:<19} {}", answer.pod, self.screen.faint(meaning));
            self.screen.row(label, &text);
            if answer.saw != expected {
                self.complain(format!("{label}: {} saw {saw} instead of {expected}", answer.pod));
            }
        }
        Ok(())
    }

    /// Asks until an answer is as wanted: which endpoint gets a connection is chance.
    fn ask_until(&mut self, from: &Namespace, to: SocketAddr, wanted: fn(&HttpAnswer) -> bool) -> Result<HttpAnswer> {
        from.run(|| {
            for _ in 0..200 {
                self.stop.check()?;
                let answer = http::get(to)?;
                self.answered += 1;
                if wanted(&answer) {
                    return Ok(answer);
                }
            }
            bail!("none of 200 requests got to the wanted pod")
        })
    }

    /// A connection that stays open through all that follows.
    pub(super) fn keep_connection(&self) -> Result<HttpConnection> {
        self.world.client.run(|| HttpConnection::open(web(0)).context("cannot open a connection to keep"))
    }

    /// Notes that something is wrong, and goes on.
    pub(super) fn complain(&mut self, complaint: String) {
        self.screen.line(&format!("   !! {complaint}"));
        self.complaints.push(complaint);
    }
}

/// The Service's ClusterIP, by family.
pub(super) fn web(family: usize) -> SocketAddr {
    SocketAddr::new(WEB_IPS[family], 80)
}

/// Names of pods by number.
pub(super) fn names(pods: &[usize]) -> Vec<String> {
    pods.iter().map(|pod| pod_name(*pod)).collect()
}
