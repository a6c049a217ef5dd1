//! What the daemon and the kernel know of a destination, beside the rules.

use std::net::SocketAddr;

use serde::Serialize;

use crate::admin::{Client, ExplainRows};
use crate::cli::table::{self, Row};
use crate::conntrack::{FlowEntry, KernelTable};
use crate::model::Protocol;
use crate::plan::Target;

/// As much of a long list as is shown.
const FLOWS_SHOWN: usize = 20;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Who claims the frontend, and its candidates.
    pub(super) rows: ExplainRows,
    /// Flows the kernel remembers: a known flow is not decided anew.
    pub(super) flows: Vec<FlowRow>,
    /// What could not be asked.
    pub(super) notes: Vec<String>,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FlowRow {
    /// The client.
    from: String,
    /// What it asked for.
    to: String,
    /// Who answers.
    backend: String,
}

/// Asks both.
pub(super) fn ask(client: &Client, at: SocketAddr, protocol: Protocol) -> Live {
    let mut live = Live::default();
    match client.get(&format!("/explain?to={at}/{protocol}")) {
        Ok(rows) => live.rows = rows,
        Err(cause) if cause.is_absent() => {
            live.notes.push(format!("from the kernel alone, so candidates are not known; {cause}"));
        }
        Err(cause) => live.notes.push(cause.to_string()),
    }
    match flows(at, protocol) {
        Ok(flows) => live.flows = flows,
        Err(cause) => live.notes.push(format!("cannot read the kernel's table of flows: {cause}")),
    }
    live
}

fn flows(at: SocketAddr, protocol: Protocol) -> std::io::Result<Vec<FlowRow>> {
    let destination = Target { ip: at.ip(), port: at.port() };
    let found = KernelTable::open()?.flows_to(protocol, destination)?;
    let row = |entry: &FlowEntry| FlowRow {
        from: entry.source.to_string(),
        to: entry.destination.to_string(),
        backend: entry.answers_from.to_string(),
    };
    Ok(found.iter().map(row).collect())
}

impl Live {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let colours = table::has_colours();
        if !self.rows.services.is_empty() {
            out += &format!("\nServices that claim it\n{}", indented(&table::text(&self.rows.services, true, colours)));
        }
        if !self.rows.candidates.is_empty() {
            out += &format!("\ncandidates\n{}", indented(&table::text(&self.rows.candidates, true, colours)));
        }
        if !self.rows.notes.is_empty() {
            let notes: String = self.rows.notes.iter().map(|note| format!("  {note}\n")).collect();
            out += &format!("\nnotes\n{notes}");
        }
        if !self.flows.is_empty() {
            let shown = &self.flows[..self.flows.len().min(FLOWS_SHOWN)];
            out +=
                &format!("\nflows the kernel remembers (conntrack)\n{}", indented(&table::text(shown, false, colours)));
            match self.flows.len() - shown.len() {
                0 => {}
                more => out += &format!("  and {more} more\n"),
            }
        }
        out
    }
}

impl Row for FlowRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["FROM", "TO", "BACKEND"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.from.clone(), self.to.clone(), self.backend.clone()]
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
