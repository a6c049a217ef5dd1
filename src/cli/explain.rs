//! `portway explain`: what happens with a new connection, and why.

mod direct;
mod live;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use self::direct::Direct;
use self::live::Live;
use super::args::ExplainArgs;
use super::render::{Compiled, compile, direct_table};
use super::view::{NOT_OK, Output, emit, print_whole};
use crate::admin::{ExplainRows, explain_rows};
use crate::diff::Mirror;
use crate::model::{Family, Protocol};
use crate::nftables::NftKernel;
use crate::plan::{NodePortAddresses, Target};
use crate::ruleset::{Kernel, Listing, TABLE_NAME};
use crate::trace::{End, Host, Packet, Request, Trace, trace_at_ingress};

/// What an echo request is called, in the place of a protocol.
const ECHO: &str = "icmp";

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (destination, request) = parse_destination(&args.connection.destination)?;
    if args.from.is_ipv4() != destination.is_ipv4() {
        bail!("--from {} and {destination} are not of the same family", args.from);
    }
    let mut packet = Packet {
        source: args.from,
        destination,
        request,
        source_port: args.connection.from_port,
        interface: args.connection.interface.clone(),
    };
    let family = Family::of(destination);
    let ((listing, host), mut live, direct) = match &args.manifests {
        Some(folder) => {
            let options = args.plan.options()?;
            let compiled = compile(folder, &options)?;
            let Compiled { model, mirror, problems, .. } = &compiled;
            let rows = match request {
                Request::Connect { protocol, port } => {
                    let target = Target { ip: destination, port };
                    explain_rows(model, mirror, problems, &HashMap::new(), target, protocol)
                }
                Request::Echo => ExplainRows::default(),
            };
            let direct = Direct { table: direct_table(model, mirror, &options), way_back: None };
            (of_manifests(mirror, family)?, Live { rows, ..Live::default() }, direct)
        }
        None => {
            let live = match request {
                Request::Connect { protocol, port } => {
                    live::ask(&args.daemon.client(), SocketAddr::new(destination, port), protocol)
                }
                Request::Echo => Live::default(),
            };
            (in_kernel(family)?, live, Direct::in_kernel(args.from)?)
        }
    };
    if args.manifests.is_none() {
        live.rows.notes.extend(no_route(&packet, &host)?);
    }
    live.notes.iter().for_each(|note| eprintln!("portway: {note}"));
    live.rows.notes.extend(direct.choose_interface(&mut packet, &host));
    let trace = trace_at_ingress(direct.ingress(), &listing, &host, &packet);
    emit(&match args.output {
        Output::Json | Output::Yaml => print_whole(&as_json(&packet, &trace, &live), args.output)?,
        Output::Table | Output::Wide => as_text(&packet, &host, &trace) + &live.text(),
    })?;
    let is_ours = !live.rows.services.is_empty() || trace.ends.iter().any(|(end, _)| !matches!(end, End::Untouched));
    if is_ours {
        return Ok(ExitCode::SUCCESS);
    }
    let at = match request {
        Request::Connect { port, .. } => SocketAddr::new(destination, port).to_string(),
        Request::Echo => destination.to_string(),
    };
    eprintln!("portway: no Service answers on {at}: Portway leaves such connections alone");
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

/// `10.96.0.10:53/udp`, `[fd00::1]:80`, `10.96.0.10/icmp`.
fn parse_destination(text: &str) -> anyhow::Result<(IpAddr, Request)> {
    if let Some((address, name)) = text.split_once('/')
        && name.eq_ignore_ascii_case(ECHO)
    {
        let address = address.trim_start_matches('[').trim_end_matches(']').parse();
        return Ok((address.with_context(|| format!("{text:?} is not ADDRESS/{ECHO}"))?, Request::Echo));
    }
    let (address, protocol) = match text.split_once('/') {
        Some((address, name)) => {
            let protocol =
                Protocol::parse(name).with_context(|| format!("{name:?} is none of tcp, udp, sctp, {ECHO}"))?;
            (address, protocol)
        }
        None => (text, Protocol::Tcp),
    };
    let address: SocketAddr = address
        .parse()
        .with_context(|| format!("{address:?} is not ADDRESS:PORT (IPv6 in brackets, as in [fd00::1]:80)"))?;
    Ok((address.ip(), Request::Connect { protocol, port: address.port() }))
}

fn as_text(packet: &Packet, host: &Host, trace: &Trace) -> String {
    let side = if host.is_local(packet.source) { " (this node)" } else { "" };
    let what = match packet.request {
        Request::Connect { protocol, port } => format!("{} {protocol}", SocketAddr::new(packet.destination, port)),
        Request::Echo => format!("{} {ECHO}", packet.destination),
    };
    let mut out = format!("{}{side} -> {what}\n\n", packet.source);
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
    let ip = |ip: IpAddr| ip.to_string();
    let end = |(end, share): &(End, f64)| match end {
        End::Translated { target, masquerade } => {
            json!({"verdict": "DNAT", "backend": target.to_string(), "masquerade": masquerade, "probability": share})
        }
        End::Answered => json!({"verdict": "ANSWER", "probability": share}),
        End::Reset => json!({"verdict": "RESET", "probability": share}),
        End::Rejected => json!({"verdict": "REJECT", "probability": share}),
        End::Dropped => json!({"verdict": "DROP", "probability": share}),
        End::HandedOn { node } => json!({"verdict": "FORWARD", "node": ip(*node), "probability": share}),
        End::Untouched => json!({"verdict": "ACCEPT", "probability": share}),
    };
    let steps = trace
        .steps
        .iter()
        .map(|step| json!({"chain": step.chain.to_string(), "rule": step.rule, "element": step.element}));
    let (protocol, port) = match packet.request {
        Request::Connect { protocol, port } => (protocol.to_string(), Some(port)),
        Request::Echo => (ECHO.to_owned(), None),
    };
    json!({
        "from": ip(packet.source),
        "to": ip(packet.destination),
        "protocol": protocol,
        "port": port,
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
        let parse = |text| {
            let (ip, request) = parse_destination(text).ok()?;
            Some(match request {
                Request::Connect { protocol, port } => format!("{} {protocol}", SocketAddr::new(ip, port)),
                Request::Echo => format!("{ip} {ECHO}"),
            })
        };
        assert_eq!(parse("10.96.0.10:53/udp").as_deref(), Some("10.96.0.10:53 UDP"));
        assert_eq!(parse("[fd00::1]:80").as_deref(), Some("[fd00::1]:80 TCP"));
        assert_eq!(parse("10.96.0.10/icmp").as_deref(), Some("10.96.0.10 icmp"));
        assert_eq!(parse("[fd00::1]/ICMP").as_deref(), Some("fd00::1 icmp"));
        for text in ["10.96.0.10", "fd00::1:80x", "10.96.0.10:53/icmp", ":80"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
