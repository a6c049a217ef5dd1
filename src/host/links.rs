//! This host's interfaces and its way to other nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::AbortHandle;

use super::{HostError, leads_on};

/// Changes of interfaces and routes come in bursts.
const SETTLE: Duration = Duration::from_millis(200);

/// How packets to an address leave this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The index of the interface.
    pub device: u32,
    /// The router in between; `None` where the address is on the interface's own layer-2 network.
    pub gateway: Option<IpAddr>,
}

/// The kernel's `rp_filter` of an interface, below `/proc`: 1 drops IPv4 packets from senders that are not answered by this very
/// interface. `None` where there is none.
pub fn rp_filter(proc: &Path, device: &str) -> Option<u8> {
    let read = |of: &str| -> Option<u8> {
        let text = std::fs::read_to_string(proc.join("sys/net/ipv4/conf").join(of).join("rp_filter")).ok()?;
        text.trim().parse().ok()
    };
    // The larger one counts.
    read("all").max(read(device))
}

/// A connection that says when interfaces, addresses and routes change.
pub struct Links {
    handle: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: AbortHandle,
}

impl Links {
    /// Connects in the network namespace of the calling thread.
    pub fn open() -> Result<Self, HostError> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
        let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
        let (connection, handle, changes) = rtnetlink::new_multicast_connection(&groups)?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, changes, task })
    }

    /// The interfaces that are up: names by index.
    pub async fn devices(&self) -> Result<BTreeMap<u32, Arc<str>>, HostError> {
        let mut listed = self.handle.link().get().execute();
        let mut devices = BTreeMap::new();
        while let Some(link) = listed.try_next().await? {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            });
            if let Some(name) = name.filter(|_| link.header.flags.contains(LinkFlags::Up)) {
                devices.insert(link.header.index, name.into());
            }
        }
        Ok(devices)
    }

    /// The way to an address; `None` when there is none, or it is this host's own.
    pub async fn way_to(&self, ip: IpAddr) -> Result<Option<Way>, HostError> {
        let message = match ip {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        match self.handle.route().get(message).execute().try_next().await {
            Ok(route) => Ok(route.as_ref().and_then(way)),
            // No route, or one that says so.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for a change; an error when no more will be told.
    pub async fn changed(&mut self) -> Result<(), HostError> {
        self.changes.next().await.map(drop).ok_or(HostError::Ended)
    }

    /// Waits until a burst of changes should be over, and forgets what is told meanwhile.
    pub async fn settle(&mut self) {
        tokio::time::sleep(SETTLE).await;
        while futures::FutureExt::now_or_never(self.changes.next()).flatten().is_some() {}
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn way(route: &RouteMessage) -> Option<Way> {
    if !leads_on(route) || route.header.kind == RouteType::Local {
        return None;
    }
    let device = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(device) => Some(*device),
        _ => None,
    })?;
    let gateway = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(_) => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    });
    Some(Way { device, gateway })
}

fn address(address: &rtnetlink::packet_route::route::RouteAddress) -> Option<IpAddr> {
    use rtnetlink::packet_route::route::RouteAddress::{Inet, Inet6};
    match address {
        Inet(ip) => Some((*ip).into()),
        Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
