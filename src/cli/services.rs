//! `portway services`: what Services answer on, and what happens there.

use std::process::ExitCode;

use clap::Args;

use super::filter::RowFilter;
use super::table::{self, Row, cell};
use super::view::{DaemonArgs, ViewArgs, daemon_or_kernel};
use crate::admin::{KernelView, ServiceRow};

/// Flags of `services`.
#[derive(Debug, Clone, Args)]
pub struct ServicesArgs {
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

pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    args.filter.check(&args.view)?;
    args.view.show(|| {
        let mut rows = daemon_or_kernel(&args.daemon.client(), "/services", KernelView::services)?;
        rows.retain(|row| args.filter.wants(&row.namespace, &row.name, [row.frontend.as_str()]));
        let code = args.filter.found(&rows);
        Ok((rows, code))
    })
}

impl Row for ServiceRow {
    fn header(wide: bool) -> Vec<&'static str> {
        let mut header = vec!["SERVICE", "TYPE", "FRONTEND", "POLICY", "ACTION", "CONNECTIONS", "BACKENDS"];
        if wide {
            header.extend(["LOCAL BACKENDS", "AFFINITY", "SOURCES", "OPTIONS"]);
        }
        header
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let mut action = match &self.owner {
            Some(owner) => format!("{} to {owner}", self.action),
            None => self.action.clone(),
        };
        if !self.unusable.is_empty() {
            action += "; see faults";
        }
        let mut cells = vec![
            service(&self.namespace, &self.name, &self.port),
            cell(&self.class),
            self.frontend.clone(),
            cell(&self.policy),
            action,
            self.connections.map_or("-".to_owned(), |count| count.to_string()),
            table::list(&self.backends, wide),
        ];
        if wide {
            cells.push(self.local_backends.as_ref().map_or("-".to_owned(), |list| table::list(list, true)));
            cells.push(self.affinity_seconds.map_or("-".to_owned(), |seconds| format!("{seconds}s")));
            cells.push(self.sources.as_ref().map_or("-".to_owned(), |list| table::list(list, true)));
            cells.push(if self.options.is_empty() { "-".to_owned() } else { self.options.join(" ") });
        }
        cells
    }
}

/// `namespace/name:port`.
pub(super) fn service(namespace: &str, name: &str, port: &str) -> String {
    if port.is_empty() { format!("{namespace}/{name}") } else { format!("{namespace}/{name}:{port}") }
}
