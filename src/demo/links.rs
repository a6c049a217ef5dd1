//! Links, addresses and routes of a namespace, over rtnetlink.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netns::Namespace;

/// The name of the one link of a client or pod.
pub(super) const ETH0: &str = "eth0";

/// One thing to set up.
pub(super) enum LinkStep<'a> {
    /// Sets a link up.
    Up(&'a str),
    /// A veth pair: one end here, the other as [`ETH0`] in another namespace.
    Veth(&'a str, &'a Namespace),
    /// An address on a link.
    Address(&'a str, IpNet),
    /// A route to a network over a link, through a gateway or directly.
    Route(IpNet, &'a str, Option<IpAddr>),
}

/// Takes the steps in order, within a namespace.
pub(super) fn set_up(namespace: &Namespace, steps: &[LinkStep<'_>]) -> Result<()> {
    let all = || {
        // A netlink socket belongs to the namespace of the thread that opens it: so everything stays on this one.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _messages) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            for step in steps {
                take(&handle, step).await?;
            }
            Ok(())
        })
    };
    namespace.run(all).with_context(|| format!("cannot set up the network of {}", namespace.name()))
}

async fn take(handle: &Handle, step: &LinkStep<'_>) -> Result<()> {
    match step {
        LinkStep::Up(link) => {
            let message = LinkUnspec::new_with_index(index(link)?).up().build();
            handle.link().set(message).execute().await.with_context(|| format!("cannot set {link} up"))
        }
        LinkStep::Veth(name, other) => {
            let file = other.open()?;
            let peer = LinkUnspec::new_with_name(ETH0).setns_by_fd(file.as_raw_fd()).build();
            let pair = LinkVeth::new(name, ETH0).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up().build();
            handle.link().add(pair).execute().await.with_context(|| format!("cannot create the link {name}"))
        }
        LinkStep::Address(link, net) => {
            let request = handle.address().add(index(link)?, net.addr(), net.prefix_len());
            request.execute().await.with_context(|| format!("cannot add {net} to {link}"))
        }
        LinkStep::Route(to, link, gateway) => {
            let mut route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(to.addr(), to.prefix_len())?
                .output_interface(index(link)?);
            route = match gateway {
                Some(gateway) => route.gateway(*gateway)?,
                // Of this scope: else it could not lead to another route's gateway.
                None => route.scope(RouteScope::Link),
            };
            let request = handle.route().add(route.build());
            request.execute().await.with_context(|| format!("cannot add a route to {to}"))
        }
    }
}

fn index(link: &str) -> Result<u32> {
    if_nametoindex(link).with_context(|| format!("there is no link {link}"))
}

/// Writes network sysctls within a namespace; `/proc/sys/net` shows the calling thread's.
pub(super) fn sysctl(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<()> {
    namespace.run(|| {
        for (name, value) in settings {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })
}
