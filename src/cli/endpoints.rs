//! `portway endpoints`: where Services lead, and why not elsewhere.

use std::process::ExitCode;

use clap::Args;

use super::filter::RowFilter;
use super::services::service;
use super::table::{self, Row, cell};
use super::view::{DaemonArgs, ViewArgs, daemon_or_kernel};
use crate::admin::{EndpointRow, KernelView};

/// Flags of `endpoints`.
#[derive(Debug, Clone, Args)]
pub struct EndpointsArgs {
    /// Which ones.
    #[command(flatten)]
    pub filter: RowFilter,
    /// Whom to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// How to print.
    #[command(flatten)]
    pub view: ViewArgs,
}

pub(super) fn run(args: &EndpointsArgs) -> anyhow::Result<ExitCode> {
    args.filter.check(&args.view)?;
    args.view.show(|| {
        let mut rows = daemon_or_kernel(&args.daemon.client(), "/endpoints", KernelView::endpoints)?;
        rows.retain(|row| args.filter.wants(&row.namespace, &row.name, [row.endpoint.as_str()]));
        let code = args.filter.found(&rows);
        Ok((rows, code))
    })
}

impl Row for EndpointRow {
    fn header(wide: bool) -> Vec<&'static str> {
        let mut header = vec!["SERVICE", "ENDPOINT", "LOCAL", "USED", "WHY"];
        if wide {
            header.extend(["CONDITIONS", "ZONES", "NODES"]);
        }
        header
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let local = match self.local {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let mut cells = vec![
            service(&self.namespace, &self.name, &self.port),
            cell(&self.endpoint),
            cell(local),
            table::list(&self.used, true),
            self.reason.clone(),
        ];
        if wide {
            cells.extend([&self.conditions, &self.zone_hints, &self.node_hints].map(|list| table::list(list, true)));
        }
        cells
    }
}
