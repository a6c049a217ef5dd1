//! `portway services`: what Services answer on, and what happens there.

use std::process::ExitCode;

use clap::Args;

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

/// Which rows to show.
#[derive(Debug, Clone, Default, Args)]
pub struct RowFilter {
    /// Only Services of this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only this Service: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only what has this address: 10.96.0.1, or 10.96.0.1:443
    #[arg(short, long, value_name = "IP[:PORT]")]
    pub address: Option<String>,
}

impl RowFilter {
    /// Whether a row is wanted. `addresses` are `10.96.0.1:443/TCP`-like.
    pub(super) fn wants<'a>(&self, namespace: &str, name: &str, addresses: impl IntoIterator<Item = &'a str>) -> bool {
        let named = self.name.as_ref().is_none_or(|wanted| match wanted.split_once('/') {
            Some((in_namespace, wanted)) => in_namespace == namespace && wanted == name,
            None => wanted == name,
        });
        let in_namespace = self.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
        let is_at = |wanted: &str, address: &str| {
            let address = address.split('/').next().unwrap_or_default();
            let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
            [address, ip, ip.trim_matches(['[', ']'])].contains(&wanted)
        };
        let mut addresses = addresses.into_iter();
        named && in_namespace && self.address.as_ref().is_none_or(|wanted| addresses.any(|at| is_at(wanted, at)))
    }
}

pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    args.view.show(|| {
        let mut rows = daemon_or_kernel(&args.daemon.client(), "/services", KernelView::services)?;
        rows.retain(|row| args.filter.wants(&row.namespace, &row.name, [row.frontend.as_str()]));
        Ok((rows, ExitCode::SUCCESS))
    })
}

impl Row for ServiceRow {
    fn header(wide: bool) -> Vec<&'static str> {
        let mut header = vec!["SERVICE", "TYPE", "FRONTEND", "POLICY", "ACTION", "CONNECTIONS", "BACKENDS"];
        if wide {
            header.extend(["LOCAL BACKENDS", "AFFINITY", "SOURCES"]);
        }
        header
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let action = match &self.owner {
            Some(owner) => format!("{} to {owner}", self.action),
            None => self.action.clone(),
        };
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
        }
        cells
    }
}

/// `namespace/name:port`.
pub(super) fn service(namespace: &str, name: &str, port: &str) -> String {
    if port.is_empty() { format!("{namespace}/{name}") } else { format!("{namespace}/{name}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let wants = |filter: &RowFilter| filter.wants("shop", "till", ["10.96.0.5:80/TCP", "[fd00::5]:80/TCP"]);
        let filter = |namespace: Option<&str>, name: Option<&str>, address: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            RowFilter { namespace: owned(namespace), name: owned(name), address: owned(address) }
        };
        assert!(wants(&RowFilter::default()));
        assert!(wants(&filter(Some("shop"), Some("till"), None)) && !wants(&filter(Some("bank"), None, None)));
        assert!(wants(&filter(None, Some("shop/till"), None)) && !wants(&filter(None, Some("bank/till"), None)));
        for address in ["10.96.0.5", "10.96.0.5:80", "fd00::5", "[fd00::5]:80"] {
            assert!(wants(&filter(None, None, Some(address))), "{address}");
        }
        for address in ["10.96.0", "10.96.0.5:8", "fd00::"] {
            assert!(!wants(&filter(None, None, Some(address))), "{address}");
        }
    }
}
