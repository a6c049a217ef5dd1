//! The small world the demonstration plays in: a client, a node and pods, each in a network namespace of its own.
//!
//! Pods hang on the node by a veth each and are routed, not bridged: so answers between two pods pass the node's
//! connection tracking too, without `br_netfilter`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::http::{self, HttpServer, POD_PORT};
use super::links::{ETH0, LinkStep, set_up, sysctl};
use super::netns::Namespace;
use super::stop::StopSignal;

/// How many pods there are; which of them are endpoints of a Service is up to the manifests.
pub(super) const PODS: usize = 5;
/// The node's name in the manifests.
pub(super) const NODE: &str = "demo-node";

/// Addresses of the node as the client sees it, in both families.
pub(super) const NODE_IPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 50, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x50, 0, 0, 0, 1))];
/// Addresses of the client.
pub(super) const CLIENT_IPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 50, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x50, 0, 0, 0, 2))];
/// The node's addresses towards its pods.
pub(super) const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1))];
/// Where ClusterIPs come from.
pub(super) const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// Where pod addresses come from.
pub(super) const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// Routed to the node from outside, as a load balancer or a router would.
const EXTERNAL_NET: &str = "203.0.113.0/24";

/// The addresses of pod `number`, counted from 1.
pub(super) fn pod_ips(number: usize) -> [IpAddr; 2] {
    let host = 10 + u8::try_from(number).unwrap_or(u8::MAX);
    let low = u16::from(host - 10) + 0x10;
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, host)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, low))]
}

/// The name a pod answers with.
pub(super) fn pod_name(number: usize) -> String {
    format!("pod-{number}")
}

/// All namespaces, and the servers in them. Everything goes when it is dropped.
pub(super) struct World {
    // Servers first: fields are dropped in order.
    _servers: Vec<HttpServer>,
    /// The outside.
    pub client: Namespace,
    /// Where Portway runs.
    pub node: Namespace,
    /// `pods[0]` is `pod-1`.
    pub pods: Vec<Namespace>,
}

impl World {
    /// Builds it, and proves that the node reaches every pod directly.
    pub(super) fn build(stop: &StopSignal) -> Result<Self> {
        let client = create("client")?;
        let node = create("node")?;
        let on = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
        sysctl(&node, &on)?;
        let pods = (1..=PODS).map(|number| create(&pod_name(number))).collect::<Result<Vec<_>>>()?;
        connect_client(&node, &client)?;
        let mut servers = Vec::new();
        for (number, pod) in (1..).zip(&pods) {
            stop.check()?;
            connect_pod(&node, pod, number)?;
            servers.push(HttpServer::start(pod, &pod_name(number))?);
        }
        let world = Self { _servers: servers, client, node, pods };
        world.check()?;
        Ok(world)
    }

    fn check(&self) -> Result<()> {
        self.node.run(|| {
            for number in 1..=PODS {
                for ip in pod_ips(number) {
                    http::get(SocketAddr::new(ip, POD_PORT))
                        .with_context(|| format!("the node does not reach {} at {ip}", pod_name(number)))?;
                }
            }
            Ok(())
        })
    }
}

/// A namespace with both families ready for use: addresses are not probed for duplicates, nor routers waited for.
fn create(suffix: &str) -> Result<Namespace> {
    let namespace = Namespace::create(suffix)?;
    let settings = [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ];
    sysctl(&namespace, &settings)?;
    set_up(&namespace, &[LinkStep::Up("lo")])?;
    Ok(namespace)
}

fn connect_client(node: &Namespace, client: &Namespace) -> Result<()> {
    let link = "client";
    set_up(
        node,
        &[
            LinkStep::Veth(link, client),
            LinkStep::Address(link, net(NODE_IPS[0], 24)?),
            LinkStep::Address(link, net(NODE_IPS[1], 64)?),
            // A node knows a way to everywhere: else its own requests to a ClusterIP would end before they are translated.
            LinkStep::Route(everywhere(false)?, link, Some(CLIENT_IPS[0])),
            LinkStep::Route(everywhere(true)?, link, Some(CLIENT_IPS[1])),
        ],
    )?;
    let [v4, v6] = NODE_IPS.map(Some);
    set_up(
        client,
        &[
            LinkStep::Up(ETH0),
            LinkStep::Address(ETH0, net(CLIENT_IPS[0], 24)?),
            LinkStep::Address(ETH0, net(CLIENT_IPS[1], 64)?),
            LinkStep::Route(SERVICE_CIDRS[0].parse()?, ETH0, v4),
            LinkStep::Route(SERVICE_CIDRS[1].parse()?, ETH0, v6),
            LinkStep::Route(EXTERNAL_NET.parse()?, ETH0, v4),
        ],
    )
}

fn connect_pod(node: &Namespace, pod: &Namespace, number: usize) -> Result<()> {
    let link = pod_name(number);
    let mut at_node = vec![LinkStep::Veth(&link, pod)];
    let mut at_pod = vec![LinkStep::Up(ETH0)];
    for (ip, gateway) in pod_ips(number).into_iter().zip(GATEWAYS) {
        at_node.push(LinkStep::Address(&link, gateway.into()));
        at_node.push(LinkStep::Route(ip.into(), &link, None));
        at_pod.push(LinkStep::Address(ETH0, ip.into()));
        at_pod.push(LinkStep::Route(gateway.into(), ETH0, None));
        at_pod.push(LinkStep::Route(everywhere(ip.is_ipv6())?, ETH0, Some(gateway)));
    }
    set_up(node, &at_node)?;
    set_up(pod, &at_pod)
}

fn everywhere(v6: bool) -> Result<IpNet> {
    net(if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
}

fn net(ip: IpAddr, prefix: u8) -> Result<IpNet> {
    Ok(IpNet::new(ip, prefix)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_an_address_of_each_family_within_the_pod_ranges() {
        let ranges = POD_CIDRS.map(|range| range.parse::<IpNet>().unwrap());
        for number in 1..=PODS {
            for (ip, range) in pod_ips(number).iter().zip(&ranges) {
                assert!(range.contains(ip), "{ip} in {range}");
            }
        }
        assert_eq!(pod_ips(2).map(|ip| ip.to_string()), ["10.244.1.12", "fd00:10:244:1::12"]);
    }
}
