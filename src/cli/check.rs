//! `portway check`: whether this node is ready for Portway, and what to do where it is not. Needs no daemon.

mod direct;
mod fast;
mod host;
mod kernel;
mod routes;
mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::args::PlanArgs;
use super::table::{Row, cell};
use super::view::{DaemonArgs, NOT_OK, Output, emit, print};
use crate::admin::State;
use crate::host::sysctl::Roots;

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// A configuration file to check; without it, and without flags of `run`, the daemon's own is checked
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Flags of `run` to look at.
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// A line: one thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckRow {
    /// How it is. What fails keeps Portway from working.
    pub(super) state: State,
    /// What was looked at.
    pub(super) what: String,
    /// What was found.
    pub(super) detail: String,
    /// What to do; empty when nothing is to be done.
    pub(super) remedy: String,
}

impl CheckRow {
    pub(super) fn ok(what: &str, detail: impl Into<String>) -> Self {
        Self { state: State::Ok, what: what.to_owned(), detail: detail.into(), remedy: String::new() }
    }

    pub(super) fn warn(what: &str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { state: State::Warn, remedy: remedy.to_owned(), ..Self::ok(what, detail) }
    }

    pub(super) fn fail(what: &str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { state: State::Fail, remedy: remedy.to_owned(), ..Self::ok(what, detail) }
    }
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut rows = rows();
    rows.extend(settings::rows(args)?);
    emit(&print(&rows, args.output)?)?;
    let fails = rows.iter().any(|row| row.state == State::Fail);
    Ok(if fails { NOT_OK.into() } else { ExitCode::SUCCESS })
}

/// All that can be looked at.
pub(super) fn rows() -> Vec<CheckRow> {
    let mut rows = kernel::rows();
    rows.extend(host::rows(&Roots::default()));
    rows.extend(routes::rows());
    rows
}

impl Row for CheckRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["STATE", "WHAT", "DETAIL", "REMEDY"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.state.to_string(), self.what.clone(), cell(&self.detail), self.remedy.clone()]
    }

    fn state(&self) -> Option<State> {
        Some(self.state)
    }
}
