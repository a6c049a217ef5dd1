//! Whether direct return can work here, where it is configured. The ordinary path serves what it cannot, so nothing here fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::CheckRow;
use crate::admin::{State, StatusReport, StatusRow};
use crate::host::links::{Links, rp_filter};
use crate::host::sysctl::Roots;
use crate::nftables::{DirectKernel, KernelOptions};

const WHAT: &str = "direct return";
const ORDINARY: &str = "connections take the ordinary path";

/// With the interfaces of a configuration.
pub(super) fn of_configuration(configured: &[Arc<str>]) -> Vec<CheckRow> {
    if configured.is_empty() {
        return Vec::new();
    }
    let mut rows = host(configured);
    let detail = "not known here whether the ways to other nodes have gateways";
    rows.push(CheckRow::ok(
        &format!("{WHAT}, other nodes"),
        format!("{detail}: the daemon says it, in `portway status`"),
    ));
    rows
}

/// With those of the daemon, and with what it knows of other nodes.
pub(super) fn of_daemon(report: &StatusReport) -> Vec<CheckRow> {
    let Some(row) = report.subsystems.iter().find(|row| row.subsystem == "direct-return") else { return Vec::new() };
    let mut rows = host(&texts(row, "configured").into_iter().map(Arc::from).collect::<Vec<_>>());
    let what = format!("{WHAT}, other nodes");
    let troubles = texts(row, "troubles");
    let nodes = troubles.iter().filter(|trouble| trouble.contains("endpoints on"));
    rows.extend(nodes.map(|trouble| {
        CheckRow::warn(
            &what,
            trouble,
            "direct return needs one layer-2 network: no router between the nodes' InternalIPs",
        )
    }));
    if rows.iter().all(|row| row.what != what) {
        rows.push(match row.state {
            State::Ok => CheckRow::ok(&what, &row.detail),
            _ => CheckRow::warn(&what, &row.detail, "see `portway status`"),
        });
    }
    rows
}

fn texts(row: &StatusRow, field: &str) -> Vec<String> {
    let list = row.fields.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Interfaces, kernel, and settings of this host.
fn host(configured: &[Arc<str>]) -> Vec<CheckRow> {
    let present = match present() {
        Ok(present) => present,
        Err(cause) => return vec![CheckRow::warn(WHAT, cause.to_string(), "run as root")],
    };
    let mut rows: Vec<CheckRow> = configured.iter().map(|name| device(name, &present)).collect();
    let first = present.iter().find(|(_, name)| configured.contains(name));
    rows.extend(first.map(|(index, name)| kernel(*index, name)));
    rows.extend(configured.iter().map(|name| reverse_path(&Roots::default().proc, name)));
    rows
}

fn present() -> anyhow::Result<BTreeMap<u32, Arc<str>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { Links::open()?.devices().await })?)
}

fn device(name: &Arc<str>, present: &BTreeMap<u32, Arc<str>>) -> CheckRow {
    let what = format!("{WHAT}, {name}");
    match present.values().any(|there| there == name) {
        true => CheckRow::ok(&what, "up"),
        false => CheckRow::warn(
            &what,
            format!("not there, or down: {ORDINARY}"),
            "name the interface that has the node's InternalIP in --direct-return-devices",
        ),
    }
}

fn kernel(index: u32, name: &str) -> CheckRow {
    let what = format!("{WHAT}, kernel");
    let trial = DirectKernel::open(KernelOptions::new(false)).and_then(|mut kernel| kernel.trial((index, name)));
    match trial {
        Ok(()) => CheckRow::ok(&what, "can hand packets on"),
        Err(cause) => CheckRow::warn(
            &what,
            format!("{cause}: {ORDINARY}"),
            "needs nf_tables_netdev, nft_fwd_netdev and nft_hash: load these modules, or take a kernel that has them",
        ),
    }
}

/// Packets of clients come from the node that hands them on, so the way back may leave by another interface.
fn reverse_path(proc: &Path, name: &str) -> CheckRow {
    let what = format!("{WHAT}, rp_filter of {name}");
    match rp_filter(proc, name) {
        Some(1) => CheckRow::warn(
            &what,
            "1: strict; clients that are reached through another interface take the ordinary path on this node, and their \
             packets are dropped here when another node hands them on",
            &format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, and all.rp_filter not above"),
        ),
        Some(value) => CheckRow::ok(&what, format!("{value}: not strict")),
        None => CheckRow::ok(&what, "not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_rp_filter_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let set = |of: &str, value: &str| {
            let path = folder.path().join("sys/net/ipv4/conf").join(of);
            std::fs::create_dir_all(&path).expect("a folder");
            std::fs::write(path.join("rp_filter"), value).expect("a file");
        };
        let state = || reverse_path(folder.path(), "eth0").state;
        assert_eq!(state(), State::Ok);
        for (all, own, expected) in
            [("0", "0", State::Ok), ("1", "0", State::Warn), ("0", "1", State::Warn), ("1", "2", State::Ok)]
        {
            set("all", all);
            set("eth0", own);
            assert_eq!(state(), expected, "all {all}, eth0 {own}");
        }
    }

    #[test]
    fn what_the_daemon_says_of_other_nodes_is_told() {
        let row = |state, troubles: &[&str]| {
            let fields = serde_json::json!({"configured": ["no-such-one"], "troubles": troubles});
            let row = StatusRow::new("direct-return", state, "2 frontends to 1 node on eth0").with(fields);
            of_daemon(&StatusReport::new(vec![row]))
        };
        let nodes = |rows: Vec<CheckRow>| {
            let of_nodes = rows.into_iter().filter(|row| row.what.ends_with("other nodes"));
            of_nodes.map(|row| (row.state, row.detail)).collect::<Vec<_>>()
        };
        assert_eq!(nodes(row(State::Ok, &[])), [(State::Ok, "2 frontends to 1 node on eth0".to_owned())]);
        let gateway = "IPv4 connections to endpoints on n2 take the ordinary path: the route has a gateway";
        assert_eq!(nodes(row(State::Warn, &[gateway])), [(State::Warn, gateway.to_owned())]);
        assert_eq!(of_daemon(&StatusReport::new(Vec::new())), []);
        let device = row(State::Warn, &[]).into_iter().find(|row| row.what == "direct return, no-such-one");
        assert_eq!(device.map(|row| row.state), Some(State::Warn));
    }
}
