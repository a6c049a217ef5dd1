//! `portway explain`: what happens with a new connection, and why.

mod live;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use self::live::Live;
use super::args::ExplainArgs;
use super::render::{Compiled, compile};
use super::view::{NOT_OK, Output, emit, print_whole};
use crate::admin::explain_rows;
use crate::diff::Mirror;
use crate::model::{Family, Protocol};
use crate::nftables::NftKernel;
use crate::plan::{NodePortAddresses, Target};
use crate::ruleset::{Kernel, Listing, TABLE_NAME};
use crate::trace::{End, Host, Packet, Trace, trace};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (destination, protocol) = parse_destination(&args.destination)?;
    if args.from.is_ipv4() != destination.is_ipv4() {
        bail!("--from {} and {destination} are not of the same family", args.from);
    }
    let packet = Packet {
        source: args.from,
        destination: destination.ip(),
        protocol,
        port: destination.port(),
        source_port: args.from_port,
        interface: args.interface.clone(),
    };
    let family = Family::of(destination.ip());
    let ((listing, host), mut live) = match &args.manifests {
        Some(folder) => {
            let compiled = compile(folder, &args.plan.options()?)?;
            let target = Target { ip: destination.ip(), port: destination.port() };
            let Compiled { model, mirror, problems, .. } = &compiled;
            let rows = explain_rows(model, mirror, problems, &HashMap::new(), target, protocol);
            (of_manifests(mirror, family)?, Live { rows, ..Live::default() })
        }
        None => (in_kernel(family)?, live::ask(&args.daemon.client(), destination, protocol)),
    };
    if args.manifests.is_none() {
        live.rows.notes.extend(no_route(&packet, &host)?);
    }
    live.notes.iter().for_each(|note| eprintln!("portway: {note}"));
    let trace = trace(&listing, &host, &packet);
    emit(&match args.output {
        Output::Json | Output::Yaml => print_whole(&as_json(&packet, &trace, &live), args.output)?,
        Output::Table | Output::Wide => as_text(&packet, &host, &trace) + &live.text(),
    })?;
    let is_ours = !live.rows.services.is_empty() || trace.ends.iter().any(|(end, _)| !matches!(end, End::Untouched));
    if is_ours {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("portway: no Service answers on {destination}: Portway leaves such connections alone");
    Ok(NOT_OK.into())
}

/// Why a connection of this host itself does not get as far as the rules.
fn no_route(packet: &Packet, host: &Host) -> anyhow::Result<Option<String>> {
    if !host.is_local(packet.source) || host.is_local(packet.destination) {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let to = packet.destination;
    Ok((!runtime.block_on(crate::host::has_route_to(to))?).then(|| {
        format!(
            "this node has no route to {to}, so its own connections there fail before any rule is asked: add a default \
             route, or one for the Services' range"
        )
    }))
}

/// The table manifests compile to, and the host it is for.
fn of_manifests(mirror: &Mirror, family: Family) -> anyhow::Result<(Listing, Host)> {
    let listing = mirror.listing(family).context("this family is not served")?;
    let settings = mirror.settings().family(family).context("this family is not served")?;
    let mut host = Host { addresses: settings.node_ip.into_iter().collect() };
    if let NodePortAddresses::Listed(ips) = &settings.node_ports {
        host.addresses.extend(ips);
    }
    Ok((listing, host))
}

fn in_kernel(family: Family) -> anyhow::Result<(Listing, Host)> {
    let mut kernel = NftKernel::open_to_read().context("cannot talk to nf_tables")?;
    let table = kernel.read(family).context("cannot read the table")?;
    let table =
        table.with_context(|| format!("there is no table {} {TABLE_NAME}: is Portway running here?", family.nft()))?;
    let (listing, unknown) = table.listing(family);
    for object in unknown {
        eprintln!("portway: {object} is not as Portway makes it; what follows leaves it out");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(crate::host::addresses())?;
    Ok((listing, Host { addresses }))
}

/// `10.96.0.10:53/udp`, `[fd00::1]:80`.
fn parse_destination(text: &str) -> anyhow::Result<(SocketAddr, Protocol)> {
    let (address, protocol) = match text.split_once('/') {
        Some((address, name)) => {
            let protocol = Protocol::parse(name).with_context(|| format!("{name:?} is none of tcp, udp, sctp"))?;
            (address, protocol)
        }
        None => (text, Protocol::Tcp),
    };
    let address = address
        .parse()
        .with_context(|| format!("{address:?} is not ADDRESS:PORT (IPv6 in brackets, as in [fd00::1]:80)"))?;
    Ok((address, protocol))
}

fn as_text(packet: &Packet, host: &Host, trace: &Trace) -> String {
    let at = SocketAddr::new(packet.destination, packet.port);
    let side = if host.is_local(packet.source) { " (this node)" } else { "" };
    let mut out = format!("{}{side} -> {at} {}\n\n", packet.source, packet.protocol);
    for (end, share) in &trace.ends {
        out.push_str(&format!("  {:>5.1} %  {end}\n", share * 100.0));
    }
    out.push_str("\ndecided by\n");
    for step in &trace.steps {
        out.push_str(&format!("  {step}\n"));
    }
    if trace.steps.is_empty() {
        out.push_str("  no rule: the packet is none of the proxy's business\n");
    }
    out
}

fn as_json(packet: &Packet, trace: &Trace, live: &Live) -> serde_json::Value {
    let end = |(end, share): &(End, f64)| match end {
        End::Translated { target, masquerade } => {
            json!({"verdict": "DNAT", "backend": target.to_string(), "masquerade": masquerade, "probability": share})
        }
        End::Rejected => json!({"verdict": "REJECT", "probability": share}),
        End::Dropped => json!({"verdict": "DROP", "probability": share}),
        End::Untouched => json!({"verdict": "ACCEPT", "probability": share}),
    };
    let steps = trace
        .steps
        .iter()
        .map(|step| json!({"chain": step.chain.to_string(), "rule": step.rule, "element": step.element}));
    let ip = |ip: IpAddr| ip.to_string();
    json!({
        "from": ip(packet.source),
        "to": ip(packet.destination),
        "protocol": packet.protocol.to_string(),
        "port": packet.port,
        "outcomes": trace.ends.iter().map(end).collect::<Vec<_>>(),
        "path": steps.collect::<Vec<_>>(),
        "services": live.rows.services,
        "candidates": live.rows.candidates,
        "notes": live.rows.notes,
        "flows": live.flows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let parse = |text| parse_destination(text).map(|(at, protocol)| format!("{at} {protocol}")).ok();
        assert_eq!(parse("10.96.0.10:53/udp").as_deref(), Some("10.96.0.10:53 UDP"));
        assert_eq!(parse("[fd00::1]:80").as_deref(), Some("[fd00::1]:80 TCP"));
        for text in ["10.96.0.10", "fd00::1:80x", "10.96.0.10:53/icmp", ":80"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
