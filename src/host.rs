//! This host: its name, IP families and interface addresses. [`sysctl`] has kernel settings, [`listening`] the ports on
//! which somebody listens, [`memory`] the heap of this process.

pub mod links;
pub mod listening;
pub mod memory;
pub mod sysctl;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tracing::warn;

use crate::model::{Event, Family};

/// Changes of addresses come in bursts.
const SETTLE: Duration = Duration::from_millis(20);
/// Before trying again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The kernel's host name, trimmed and lower-cased as kube-proxy does (specification 2.2).
pub fn name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    Some(name.trim().to_lowercase()).filter(|name| !name.is_empty())
}

/// The families this host has (specification 2.5): IPv4 always, IPv6 unless it is switched off.
pub fn families() -> Vec<Family> {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let ipv6 = Path::new("/proc/net/if_inet6").exists() && disabled.is_ok_and(|text| text.trim() != "1");
    if ipv6 { Family::ALL.to_vec() } else { vec![Family::Ipv4] }
}

/// The addresses by which this host reaches others, those of its default routes: at most one of each family, IPv4 first.
pub fn primary_ips() -> Vec<IpAddr> {
    // Addresses for documentation: no host has them. Connecting asks for the route and sends nothing.
    let far: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    far.into_iter().filter_map(source_towards).collect()
}

fn source_towards(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    let is_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!ip.is_loopback() && !ip.is_unspecified() && !is_local).then_some(ip)
}

/// How full connection tracking is in this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// Flows it holds.
    pub count: u64,
    /// Flows it can hold.
    pub max: u64,
}

impl Flows {
    /// What the kernel says; `None` where connection tracking is not active.
    pub fn read(roots: &sysctl::Roots) -> Option<Self> {
        let read = |name: &str| {
            let path = roots.proc.join("sys/net/netfilter").join(name);
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some(Self { count: read("nf_conntrack_count")?, max: read("nf_conntrack_max")? })
    }

    /// Few are left: soon new connections are dropped.
    pub fn is_nearly_full(self) -> bool {
        self.count >= self.max / 10 * 9
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} flows ({} %)", self.count, self.max, self.count * 100 / self.max.max(1))
    }
}

/// Sends the addresses of this host's interfaces now and whenever they change, until the receiver is gone.
pub async fn watch_addresses(sender: mpsc::Sender<Vec<Event>>) {
    while !sender.is_closed() {
        if let Err(cause) = follow(&sender).await {
            warn!(%cause, "cannot read this host's addresses; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The addresses of this host's interfaces.
pub async fn addresses() -> Result<BTreeSet<IpAddr>, HostError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let result = list(&handle).await;
    task.abort();
    result
}

/// Why the host's addresses are not known.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No route netlink socket.
    #[error("cannot open a route netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel did not list addresses.
    #[error("cannot list addresses: {0}")]
    List(#[from] rtnetlink::Error),
    /// The subscription ended.
    #[error("the subscription to address changes ended")]
    Ended,
}

async fn follow(sender: &mpsc::Sender<Vec<Event>>) -> Result<(), HostError> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Link];
    let (connection, handle, mut changes) = rtnetlink::new_multicast_connection(&groups)?;
    let task = tokio::spawn(connection);
    let mut known = None;
    let result = loop {
        let listed = match list(&handle).await {
            Ok(listed) => listed,
            Err(cause) => break Err(cause),
        };
        if known.as_ref() != Some(&listed) {
            known = Some(listed.clone());
            if sender.send(vec![Event::LocalAddresses(listed)]).await.is_err() {
                break Ok(());
            }
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { break Err(HostError::Ended) },
            () = sender.closed() => break Ok(()),
        }
        tokio::time::sleep(SETTLE).await;
        while futures::FutureExt::now_or_never(changes.next()).flatten().is_some() {}
    };
    task.abort();
    result
}

/// Whether this host's own connections to an address get as far as our rules: without a route they end before.
pub async fn has_route_to(ip: IpAddr) -> Result<bool, HostError> {
    let message = match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
    };
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let found = handle.route().get(message).execute().try_next().await;
    task.abort();
    match found {
        Ok(route) => Ok(route.is_some_and(|route| leads_on(&route))),
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(
                error.raw_code().abs(),
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the main table of a family has a default route.
pub async fn has_default_route(family: Family) -> Result<bool, HostError> {
    let message = match family {
        Family::Ipv4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        Family::Ipv6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let routes: Result<Vec<RouteMessage>, _> = handle.route().get(message).execute().try_collect().await;
    task.abort();
    let is_default = |route: &RouteMessage| {
        route.header.destination_prefix_length == 0
            && route.header.table == RouteHeader::RT_TABLE_MAIN
            && leads_on(route)
    };
    Ok(routes?.iter().any(is_default))
}

/// Routes can also say that there is no way.
fn leads_on(route: &RouteMessage) -> bool {
    !matches!(route.header.kind, RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit)
}

async fn list(handle: &Handle) -> Result<BTreeSet<IpAddr>, HostError> {
    let mut listed = handle.address().get().execute();
    let mut addresses = BTreeSet::new();
    while let Some(message) = listed.try_next().await? {
        // On point-to-point links `Address` is the peer's; `Local` is always ours.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        addresses.extend(local.or(address));
    }
    Ok(addresses)
}
