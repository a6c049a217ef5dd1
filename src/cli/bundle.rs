//! `portway bundle`: all that a bug report needs, in one file. docs/commands.md lists the contents.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::archive::{Archive, report_missing};
use super::check;
use super::view::{DaemonArgs, Output, print};
use crate::admin::Client;
use crate::model::Family;
use crate::nftables::{DirectKernel, FastKernel, KernelOptions, NftKernel};
use crate::render;
use crate::ruleset::Kernel as _;

/// Settings that traffic to Services depends on, as files below `/proc/sys/net`.
const SYSCTLS: [&str; 19] = [
    "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-iptables",
    "core/rmem_max",
    "core/wmem_max",
    "ipv4/conf/all/route_localnet",
    "ipv4/conf/all/rp_filter",
    "ipv4/ip_forward",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv6/conf/all/disable_ipv6",
    "ipv6/conf/all/forwarding",
    "netfilter/nf_conntrack_buckets",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_tcp_timeout_close_wait",
    "netfilter/nf_conntrack_tcp_timeout_established",
    "netfilter/nf_conntrack_udp_timeout",
    "netfilter/nf_conntrack_udp_timeout_stream",
];
/// What the daemon is asked for, and the file it gets into.
const VIEWS: [(&str, &str); 8] = [
    ("/status", "status.json"),
    ("/services", "services.json"),
    ("/endpoints", "endpoints.json"),
    ("/faults", "faults.json"),
    ("/diff", "diff.json"),
    ("/configuration", "configuration.json"),
    ("/metrics", "metrics.txt"),
    ("/problems", "problems.json"),
];

/// Flags of `bundle`.
#[derive(Debug, Clone, Args)]
pub struct BundleArgs {
    /// The file to write, which must not exist; `-`: standard output; default: portway-bundle-TIME.tar.gz
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

pub(super) fn run(args: &BundleArgs) -> anyhow::Result<ExitCode> {
    let mut archive = Archive::create(args.file.as_deref())?;
    let (files, missing) = contents(&args.daemon.client());
    for (name, text) in files {
        archive.add(&name, text.as_bytes())?;
    }
    archive.finish()?;
    Ok(report_missing(&missing))
}

/// Files by name, and what cannot be had, a line each, as in `missing.txt`.
fn contents(client: &Client) -> (Vec<(String, String)>, String) {
    let mut files = Vec::new();
    let mut missing = String::new();
    let mut add = |name: &str, text: anyhow::Result<String>| match text {
        Ok(text) => files.push((name.to_owned(), text)),
        Err(cause) => missing += &format!("{name}: {cause:#}\n"),
    };
    add("version.txt", Ok(version()));
    let mut absent = None;
    for (path, name) in VIEWS {
        // Once is enough to find out that nobody answers.
        let answer = match &absent {
            Some(cause) => Err(anyhow::anyhow!("{cause}")),
            None => client.text(path).map(indented).map_err(|cause| {
                absent = cause.is_absent().then(|| cause.to_string());
                cause.into()
            }),
        };
        add(name, answer);
    }
    for family in Family::ALL {
        add(&format!("table-{}.nft", family.nft()), table(family));
    }
    // Only where direct return is on there is one.
    match direct_table() {
        Ok(None) => {}
        found => add("table-netdev.nft", found.map(Option::unwrap_or_default)),
    }
    match fast_table() {
        Ok(None) => {}
        found => add("table-inet.nft", found.map(Option::unwrap_or_default)),
    }
    add("check.json", print(&check::rows(), Output::Json));
    add("sysctl.txt", Ok(sysctls()));
    if !missing.is_empty() {
        files.push(("missing.txt".to_owned(), missing.clone()));
    }
    (files, missing)
}

fn version() -> String {
    let kernel = nix::sys::utsname::uname().map(|name| {
        [name.sysname(), name.release(), name.version(), name.machine()].map(|part| part.to_string_lossy()).join(" ")
    });
    format!("portway {}\n{}\n", env!("CARGO_PKG_VERSION"), kernel.unwrap_or_default())
}

/// What the kernel holds, as nft writes it.
fn table(family: Family) -> anyhow::Result<String> {
    let table = NftKernel::open_to_read()?.read(family)?.context("there is no table of Portway")?;
    let (listing, unknown) = table.listing(family);
    let unknown: String = unknown.iter().map(|object| format!("# not as Portway makes it: {object}\n")).collect();
    Ok(unknown + &render::table(&listing))
}

/// The same of direct return; `None` where there is no such table.
fn direct_table() -> anyhow::Result<Option<String>> {
    let found = DirectKernel::open(KernelOptions::new(false))?.read()?;
    let odd = found.oddities().into_iter().map(|object| format!("# not as Portway makes it: {object}\n"));
    Ok(found.is_there.then(|| odd.collect::<String>() + &render::direct_table(&found.table)))
}

/// The same of the fast path.
fn fast_table() -> anyhow::Result<Option<String>> {
    let found = FastKernel::open(KernelOptions::new(false))?.read()?;
    let odd = if found.is_sound { "" } else { "# not as Portway makes it\n" };
    Ok(found.is_there.then(|| odd.to_owned() + &render::fast_table(&found.devices)))
}

fn sysctls() -> String {
    let line = |name: &&str| {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{name}"));
        let value = value.map_or_else(|cause| format!("({cause})"), |value| value.trim().to_owned());
        format!("net.{} = {value}\n", name.replace('/', "."))
    };
    SYSCTLS.iter().map(line).collect()
}

/// JSON for people; anything else as it is.
fn indented(text: String) -> String {
    let value = serde_json::from_str::<serde_json::Value>(&text);
    value.map_or(text, |value| format!("{value:#}\n"))
}
