//! `portway status`: how the daemon is.

use std::process::ExitCode;

use clap::Args;

use super::table::Row;
use super::view::{DaemonArgs, NOT_OK, ViewArgs};
use crate::admin::{KernelView, State, StatusRow};
use crate::model::Family;
use crate::netlink::NftKernel;

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// How to print.
    #[command(flatten)]
    pub view: ViewArgs,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    args.view.show(|| {
        let rows: Vec<StatusRow> = match args.daemon.client().get("/status") {
            Err(cause) if cause.is_absent() => {
                vec![StatusRow::new("daemon", State::Fail, cause.to_string()), in_kernel()]
            }
            result => result?,
        };
        // What users write into objects is no failure of the daemon: whoever may create Services would decide about it.
        let counts = |row: &&StatusRow| !matches!(row.subsystem.as_str(), "objects" | "settings");
        let all_ok = rows.iter().filter(counts).all(|row| row.state == State::Ok);
        Ok((rows, if all_ok { ExitCode::SUCCESS } else { NOT_OK.into() }))
    })
}

/// Without a daemon nothing keeps the tables right, but they stay in force.
fn in_kernel() -> StatusRow {
    let tables = NftKernel::open_to_read().and_then(|mut kernel| KernelView::read(&mut kernel));
    match tables {
        Ok(view) if view.families().next().is_some() => {
            let (frontends, tables) = (view.services().len(), view.families().map(Family::nft).collect::<Vec<_>>());
            let detail = format!("{frontends} frontends in force ({}), kept up to date by nobody", tables.join(", "));
            StatusRow::new("kernel", State::Warn, detail)
        }
        Ok(_) => StatusRow::new("kernel", State::Fail, "no table of Portway"),
        Err(cause) => StatusRow::new("kernel", State::Fail, cause.to_string()),
    }
}

impl Row for StatusRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["SUBSYSTEM", "STATE", "DETAIL"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.subsystem.clone(), self.state.to_string(), self.detail.clone()]
    }

    fn state(&self) -> Option<State> {
        Some(self.state)
    }
}
