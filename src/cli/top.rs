//! `portway top`: new connections per second, by Service. Reads the counters in the kernel and needs no daemon.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::filter::{NamespaceFilter, RowFilter};
use super::table::Row;
use super::view::{DaemonArgs, Output, clear, emit, interval, pause, print};
use crate::model::Family;
use crate::nftables::{ElementCount, NftKernel};
use crate::ruleset::{Bytes, SetId};

/// Flags of `top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Seconds to count
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = pause)]
    pub interval: f64,
    /// Print once and exit
    #[arg(long)]
    pub once: bool,
    /// The most lines to show; 0: all
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub lines: usize,
    /// Of which namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceFilter,
    /// Accepted as by other commands; the daemon is not asked.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// A line: one port of a Service, all its frontends together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TopRow {
    /// `namespace/name:port`.
    service: String,
    /// New connections per second.
    per_second: f64,
    /// New connections since the kernel has the elements.
    connections: u64,
}

/// Counters by element.
type ElementCounts = BTreeMap<(Family, SetId, Bytes), ElementCount>;

pub(super) fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let mut kernel = NftKernel::open_to_read()?;
    let (mut before, mut since) = (read(&mut kernel)?, Instant::now());
    loop {
        sleep(interval(args.interval));
        let (now, at) = (read(&mut kernel)?, Instant::now());
        let seconds = at.duration_since(since).as_secs_f64();
        let mut rows = rates(&before, &now, seconds);
        rows.retain(|row| args.namespaces.wants(row.service.split('/').next().unwrap_or_default()));
        let total: f64 = rows.iter().map(|row| row.per_second).sum();
        if args.lines > 0 {
            rows.truncate(args.lines);
        }
        let text = print(&rows, args.output)?;
        emit(&match args.output {
            Output::Json | Output::Yaml => text,
            _ if args.once => text,
            _ => format!("{}{total:.1} new connections/s in the last {seconds:.1} s\n\n{text}", clear()),
        })?;
        if args.once {
            let filter = RowFilter { namespaces: args.namespaces.clone(), ..RowFilter::default() };
            return Ok(filter.found(&rows));
        }
        (before, since) = (now, at);
    }
}

fn read(kernel: &mut NftKernel) -> anyhow::Result<ElementCounts> {
    let mut all = ElementCounts::new();
    let mut has_table = false;
    for family in Family::ALL {
        if kernel.owner(family)?.is_none() {
            continue;
        }
        has_table = true;
        for map in [SetId::Services, SetId::Nodeports] {
            let counters = kernel.counters(family, map).context("cannot read the counters")?;
            all.extend(counters.into_iter().map(|(key, counted)| ((family, map, key), counted)));
        }
    }
    anyhow::ensure!(has_table, "there is no table of Portway in the kernel: does Portway run here?");
    Ok(all)
}

/// The busiest first.
fn rates(before: &ElementCounts, now: &ElementCounts, seconds: f64) -> Vec<TopRow> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (key, counted) in now {
        // An element that was replaced counts from zero again.
        let old = before.get(key).map_or(0, |old| old.packets).min(counted.packets);
        let (new, total) = sums.entry(&counted.comment).or_default();
        *new += counted.packets - old;
        *total += counted.packets;
    }
    let row = |(service, (new, connections)): (&str, (u64, u64))| TopRow {
        service: service.to_owned(),
        per_second: new as f64 / seconds.max(f64::EPSILON),
        connections,
    };
    let mut rows: Vec<TopRow> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.connections.cmp(&a.connections)));
    rows
}

impl Row for TopRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["SERVICE", "CONNECTIONS/S", "CONNECTIONS"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.service.clone(), format!("{:.1}", self.per_second), self.connections.to_string()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_services_and_survive_a_replaced_element() {
        let counters = |list: &[(u16, &str, u64)]| -> ElementCounts {
            let one = |(port, comment, packets): &(u16, &str, u64)| {
                let counted = ElementCount { packets: *packets, comment: (*comment).to_owned() };
                ((Family::Ipv4, SetId::Services, Bytes::new().u16(*port)), counted)
            };
            list.iter().map(one).collect()
        };
        let before = counters(&[(1, "a/x", 10), (2, "a/x", 5), (3, "a/y", 100)]);
        let now = counters(&[(1, "a/x", 14), (2, "a/x", 11), (3, "a/y", 2), (4, "a/z", 1)]);
        let rows = rates(&before, &now, 2.0);
        let found: Vec<_> = rows.iter().map(|row| (row.service.as_str(), row.per_second, row.connections)).collect();
        assert_eq!(found, [("a/x", 5.0, 25), ("a/z", 0.5, 1), ("a/y", 0.0, 2)]);
    }
}
