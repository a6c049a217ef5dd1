//! `portway diff`: what would make the kernel's tables equal to the desired ones.

use std::process::ExitCode;

use clap::Args;

use super::table::Row;
use super::view::{DaemonArgs, NOT_OK, Output, emit, print};
use crate::admin::DiffRow;

/// Flags of `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Output format; `table` means nft commands
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

pub(super) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<DiffRow> = args.daemon.client().get("/diff")?;
    emit(&match args.output {
        // Just the commands, and nothing when there are none.
        Output::Table | Output::Wide => rows.iter().map(|row| format!("{}\n", row.command)).collect(),
        other => print(&rows, other)?,
    })?;
    Ok(if rows.is_empty() { ExitCode::SUCCESS } else { NOT_OK.into() })
}

impl Row for DiffRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["COMMAND"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.command.clone()]
    }
}
