//! What is tried: from which pod, where to, and who must answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::objects::{self, Reached};
use crate::cli::probe::{Probe, Question};

/// So often a Service with several endpoints is asked where one answer would say little. By chance alone, of two endpoints
/// one answers all the time in one of half a million tests.
const TIMES: u32 = 20;

/// So often something is tried that is refused; see [`Probe`].
const REFUSALS: u32 = 4;

/// A node that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Station {
    /// Its number, as in the names of its pods.
    pub(super) at: usize,
    /// The Node's name.
    pub(super) node: String,
    /// Where NodePorts answer.
    pub(super) node_ips: Vec<IpAddr>,
    /// All addresses of the Node: by these its own connections come.
    pub(super) own_ips: Vec<IpAddr>,
    /// The server's addresses.
    pub(super) pod_ips: Vec<IpAddr>,
}

/// Something to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// What is tested.
    pub(super) kind: &'static str,
    /// `IPv4`, `IPv6`, or nothing.
    pub(super) family: &'static str,
    /// `TCP`, `UDP` or `DNS`.
    pub(super) protocol: &'static str,
    /// From where to where, for people.
    pub(super) way: String,
    /// The pod that asks.
    pub(super) pod: String,
    pub(super) question: Question,
    pub(super) times: u32,
    pub(super) wanted: Wanted,
}

impl Case {
    /// What a pod is to do; `id` stands for the case.
    pub(super) fn probe(&self, id: usize) -> Probe {
        let until_refused = self.wanted == Wanted::Refusal;
        Probe { id, question: self.question.clone(), times: self.times, until_refused }
    }
}

/// What must happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All answers are of these pods.
    From(BTreeSet<String>),
    /// The same, and they see one of these addresses.
    Seeing(BTreeSet<String>, BTreeSet<IpAddr>),
    /// All answers are of one pod.
    One,
    /// The answers are of several pods.
    Several,
    /// Somebody says that nobody listens, if not each time, and nobody answers.
    Refusal,
    /// No answer.
    Silence,
    /// All of these addresses, or those of one family, and no other.
    Addresses(BTreeSet<IpAddr>),
}

/// Who asks: the pod on the pod network, or the node itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Pod,
    Node,
}

impl Client {
    const BOTH: [Self; 2] = [Self::Pod, Self::Node];

    fn pod(self, at: usize) -> String {
        match self {
            Self::Pod => objects::server(at),
            Self::Node => objects::host(at),
        }
    }

    fn words(self, node: &str) -> String {
        match self {
            Self::Pod => format!("pod on {node}"),
            Self::Node => format!("node {node}"),
        }
    }
}

/// Everything for one family and protocol.
struct Planner<'a> {
    stations: &'a [Station],
    services: &'a BTreeMap<String, Reached>,
    is_ipv4: bool,
    protocol: &'static str,
    cases: Vec<Case>,
}

/// All cases. `domain` is what stands behind a Service's name: its namespace, and `svc`.
pub(super) fn plan(stations: &[Station], services: &BTreeMap<String, Reached>, domain: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for is_ipv4 in [true, false] {
        // Whoever has no pods of this family does without.
        let of_family: Vec<Station> =
            stations.iter().filter(|station| has(&station.pod_ips, is_ipv4)).cloned().collect();
        for protocol in ["TCP", "UDP"] {
            let mut planner = Planner { stations: &of_family, services, is_ipv4, protocol, cases: Vec::new() };
            planner.all();
            cases.append(&mut planner.cases);
        }
    }
    cases.extend(names(stations, services, domain));
    cases
}

fn has(ips: &[IpAddr], is_ipv4: bool) -> bool {
    ips.iter().any(|ip| ip.is_ipv4() == is_ipv4)
}

impl Planner<'_> {
    fn all(&mut self) {
        let stations = self.stations;
        for from in stations {
            for client in Client::BOTH {
                let kind = if client == Client::Pod { "pod to ClusterIP" } else { "node to ClusterIP" };
                for to in stations {
                    let is_itself = client == Client::Pod && to.at == from.at;
                    let kind = if is_itself { "pod to itself by a ClusterIP" } else { kind };
                    let wanted = Wanted::From([objects::server(to.at)].into());
                    self.cluster_ip(
                        kind,
                        client,
                        from,
                        &objects::to_node(to.at),
                        &format!("to {}", to.node),
                        1,
                        wanted,
                    );
                }
                self.policies(client, from);
            }
            self.several(from);
            self.node_ports(from);
        }
    }

    /// What does not depend on the pair of nodes.
    fn policies(&mut self, client: Client, from: &Station) {
        let own = Wanted::From([objects::server(from.at)].into());
        self.cluster_ip("internalTrafficPolicy Local", client, from, objects::LOCAL, "to itself", 1, own);
        if from.at != 0 && self.stations.iter().any(|station| station.at == 0) {
            let kind = "internalTrafficPolicy Local, no endpoint here";
            self.cluster_ip(kind, client, from, objects::FIRST_LOCAL, "to nobody", 1, Wanted::Silence);
        }
        self.cluster_ip("no endpoints: refused", client, from, objects::EMPTY, "to nobody", REFUSALS, Wanted::Refusal);
    }

    fn several(&mut self, from: &Station) {
        self.cluster_ip("session affinity", Client::Pod, from, objects::STICKY, "to one", TIMES / 2, Wanted::One);
        if self.stations.len() > 1 {
            let kind = "several endpoints take turns";
            self.cluster_ip(kind, Client::Pod, from, objects::ALL, "to several", TIMES, Wanted::Several);
        }
    }

    fn node_ports(&mut self, from: &Station) {
        let servers: BTreeSet<String> = self.stations.iter().map(|station| objects::server(station.at)).collect();
        for to in self.stations {
            for client in Client::BOTH {
                let kind = if client == Client::Pod { "pod to NodePort" } else { "node to NodePort" };
                self.node_port(kind, client, from, to, objects::NODE_PORT, Wanted::From(servers.clone()));
            }
            // A node's own connections count as inside, whatever the policy.
            if to.at == from.at {
                continue;
            }
            let own = from.own_ips.iter().copied().filter(|ip| ip.is_ipv4() == self.is_ipv4).collect();
            let wanted = Wanted::Seeing([objects::server(to.at)].into(), own);
            let kind = "externalTrafficPolicy Local, client's address kept";
            self.node_port(kind, Client::Node, from, to, objects::NODE_PORT_LOCAL, wanted);
            if to.at != 0 && self.stations.iter().any(|station| station.at == 0) {
                let kind = "externalTrafficPolicy Local, no endpoint there";
                self.node_port(kind, Client::Node, from, to, objects::FIRST_LOCAL, Wanted::Silence);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a line of the plan is a line of the code")]
    fn cluster_ip(
        &mut self,
        kind: &'static str,
        client: Client,
        from: &Station,
        service: &str,
        to: &str,
        times: u32,
        wanted: Wanted,
    ) {
        let ips = self.services.get(service).map(|reached| reached.cluster_ips.as_slice()).unwrap_or_default();
        let Some(ip) = ips.iter().copied().find(|ip| ip.is_ipv4() == self.is_ipv4) else { return };
        let address = SocketAddr::new(ip, objects::service_port());
        self.add(kind, client, from, to, address, times, wanted);
    }

    fn node_port(
        &mut self,
        kind: &'static str,
        client: Client,
        from: &Station,
        to: &Station,
        service: &str,
        wanted: Wanted,
    ) {
        let port = self.services.get(service).and_then(|reached| reached.node_ports.get(self.protocol));
        let ip = to.node_ips.iter().copied().find(|ip| ip.is_ipv4() == self.is_ipv4);
        let (Some(port), Some(ip)) = (port, ip) else { return };
        self.add(kind, client, from, &format!("by {}", to.node), SocketAddr::new(ip, *port), 1, wanted);
    }

    #[expect(clippy::too_many_arguments, reason = "as above")]
    fn add(
        &mut self,
        kind: &'static str,
        client: Client,
        from: &Station,
        to: &str,
        address: SocketAddr,
        times: u32,
        wanted: Wanted,
    ) {
        self.cases.push(Case {
            kind,
            family: if self.is_ipv4 { "IPv4" } else { "IPv6" },
            protocol: self.protocol,
            way: format!("{} {to} ({address})", client.words(&from.node)),
            pod: client.pod(from.at),
            question: if self.protocol == "TCP" { Question::Tcp(address) } else { Question::Udp(address) },
            times,
            wanted,
        });
    }
}

/// The name of a Service, asked by every pod and node.
fn names(stations: &[Station], services: &BTreeMap<String, Reached>, domain: &str) -> Vec<Case> {
    let ips = services.get(objects::ALL).map(|reached| reached.cluster_ips.clone()).unwrap_or_default();
    let name = format!("{}.{domain}", objects::ALL);
    let clients = stations.iter().flat_map(|station| Client::BOTH.map(|client| (client, station)));
    let case = |(client, station): (Client, &Station)| Case {
        kind: "DNS name of a Service",
        family: "",
        protocol: "DNS",
        way: format!("{} asks for {name}", client.words(&station.node)),
        pod: client.pod(station.at),
        question: Question::Name(name.clone()),
        times: 1,
        wanted: Wanted::Addresses(ips.iter().copied().collect()),
    };
    clients.map(case).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Nodes `a`, `b`, ... of both families.
    pub(in crate::cli::cluster::connectivity) fn stations(number: u8) -> Vec<Station> {
        let station = |at: u8| {
            let ips = |net: u8| {
                vec![IpAddr::from([10, net, 0, at + 1]), format!("fd00:{net}::{}", at + 1).parse().expect("an address")]
            };
            let node = char::from(b'a' + at).to_string();
            Station { at: at.into(), node, node_ips: ips(0), own_ips: ips(0), pod_ips: ips(1) }
        };
        (0..number).map(station).collect()
    }

    /// Services as an API server would make them for so many nodes.
    pub(in crate::cli::cluster::connectivity) fn services(nodes: usize) -> BTreeMap<String, Reached> {
        let plain = [objects::ALL, objects::LOCAL, objects::STICKY, objects::EMPTY].map(str::to_owned);
        let ported = [objects::NODE_PORT, objects::NODE_PORT_LOCAL, objects::FIRST_LOCAL].map(str::to_owned);
        let names = plain.into_iter().chain((0..nodes).map(objects::to_node)).map(|name| (name, false));
        let names = names.chain(ported.into_iter().map(|name| (name, true)));
        names
            .zip(1..)
            .map(|((name, is_ported), number): (_, u8)| {
                let cluster_ips =
                    vec![IpAddr::from([10, 96, 0, number]), format!("fd00:96::{number}").parse().expect("an address")];
                let ports = ["TCP", "UDP"].map(|protocol| (protocol.to_owned(), 30000 + u16::from(number)));
                (name, Reached { cluster_ips, node_ports: if is_ported { ports.into() } else { BTreeMap::new() } })
            })
            .collect()
    }

    fn number(cases: &[Case], kind: &str) -> usize {
        cases.iter().filter(|case| case.kind == kind).count()
    }

    #[test]
    fn each_node_is_tried_from_each_node() {
        let cases = plan(&stations(3), &services(3), "n.svc");
        // Two families, two protocols.
        assert_eq!(number(&cases, "pod to ClusterIP"), 4 * 3 * 2);
        assert_eq!(number(&cases, "pod to itself by a ClusterIP"), 4 * 3);
        assert_eq!(number(&cases, "node to ClusterIP"), 4 * 3 * 3);
        assert_eq!(number(&cases, "node to NodePort"), 4 * 3 * 3);
        assert_eq!(number(&cases, "externalTrafficPolicy Local, client's address kept"), 4 * 3 * 2);
        // Only the first has an endpoint.
        assert_eq!(number(&cases, "externalTrafficPolicy Local, no endpoint there"), 4 * (1 + 1 + 2));
        assert_eq!(number(&cases, "internalTrafficPolicy Local, no endpoint here"), 4 * 2 * 2);
        assert_eq!(number(&cases, "no endpoints: refused"), 4 * 3 * 2);
        assert_eq!(number(&cases, "DNS name of a Service"), 3 * 2);
        let ways: BTreeSet<(&str, &str, &str, &str)> =
            cases.iter().map(|case| (case.kind, case.family, case.protocol, case.way.as_str())).collect();
        assert_eq!(ways.len(), cases.len(), "each has a name of its own");
    }

    #[test]
    fn one_family_and_one_node_are_enough() {
        let mut one = stations(1);
        one[0].pod_ips.truncate(1);
        let cases = plan(&one, &services(1), "n.svc");
        assert!(cases.iter().all(|case| case.family != "IPv6"));
        assert_eq!(number(&cases, "pod to itself by a ClusterIP"), 2);
        assert_eq!(number(&cases, "several endpoints take turns"), 0);
        assert_eq!(number(&cases, "externalTrafficPolicy Local, client's address kept"), 0);
    }

    /// The first node's pods did not come up: nobody may expect the endpoint there.
    #[test]
    fn without_the_first_node_its_service_is_left_out() {
        let cases = plan(&stations(3)[1..], &services(3), "n.svc");
        assert!(number(&cases, "pod to ClusterIP") > 0);
        assert_eq!(number(&cases, "internalTrafficPolicy Local, no endpoint here"), 0);
        assert_eq!(number(&cases, "externalTrafficPolicy Local, no endpoint there"), 0);
    }
}
