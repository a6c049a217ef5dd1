//! `portway status`: how the daemon is.

use std::process::ExitCode;

use clap::Args;

use super::table::Row;
use super::view::{DaemonArgs, NOT_OK, ViewArgs};
use crate::admin::{ClientError, State, StatusRow};

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
            Err(cause @ ClientError::Down { .. }) => vec![StatusRow::new("daemon", State::Fail, cause.to_string())],
            result => result?,
        };
        let all_ok = rows.iter().all(|row| row.state == State::Ok);
        Ok((rows, if all_ok { ExitCode::SUCCESS } else { NOT_OK.into() }))
    })
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
