//! `portway faults`: what in objects is not as its author meant.

use std::process::ExitCode;

use clap::Args;

use super::filter::{NamespaceFilter, RowFilter};
use super::table::{Row, cell};
use super::view::{DaemonArgs, ViewArgs};
use crate::admin::FaultRow;

/// Flags of `faults`.
#[derive(Debug, Clone, Args)]
pub struct FaultsArgs {
    /// Of which namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceFilter,
    /// Only the object of this name: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// How to print.
    #[command(flatten)]
    pub view: ViewArgs,
}

pub(super) fn run(args: &FaultsArgs) -> anyhow::Result<ExitCode> {
    let filter = RowFilter { namespaces: args.namespaces.clone(), name: args.name.clone(), address: None };
    filter.check(&args.view)?;
    args.view.show(|| {
        let mut rows: Vec<FaultRow> = args.daemon.client().get("/faults")?;
        rows.retain(|row| filter.wants(&row.namespace, &row.name, []));
        if rows.is_empty() && args.view.watch.is_none() {
            // None is an answer.
            eprintln!("portway: no faults");
        }
        Ok((rows, ExitCode::SUCCESS))
    })
}

impl Row for FaultRow {
    fn header(wide: bool) -> Vec<&'static str> {
        let mut header = vec!["OBJECT", "REASON", "FIELD", "FAULT"];
        if wide {
            header.push("PLACE");
        }
        header
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let object = match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        };
        let object = if self.kind.is_empty() { self.place.clone().unwrap_or_default() } else { object };
        let mut cells = vec![cell(object.trim()), self.reason.clone(), cell(&self.field), self.message.clone()];
        if wide {
            cells.push(cell(self.place.as_deref().unwrap_or_default()));
        }
        cells
    }
}
