//! Which rows the commands that list something show.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::Args;

use super::view::{NOT_OK, ViewArgs};

/// Which namespaces to show.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceFilter {
    /// Only this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// All namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// Which rows to show.
#[derive(Debug, Clone, Default, Args)]
pub struct RowFilter {
    /// Of which namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceFilter,
    /// Only this one: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only lines with this address: 10.96.0.1, 10.96.0.1:443, or *:30080 for a NodePort
    #[arg(short, long, value_name = "IP[:PORT]", value_parser = address)]
    pub address: Option<String>,
}

/// `10.96.0.1`, `10.96.0.1:443`, `fd00::1`, `[fd00::1]`, `[fd00::1]:443`, `*:30080`, as rows have it.
fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let port = text.strip_prefix("*:").and_then(|port| port.parse::<u16>().ok());
    port.map(|port| format!("*:{port}")).ok_or_else(|| "want IP or IP:PORT, or *:PORT for a NodePort".to_owned())
}

impl NamespaceFilter {
    /// Whether rows of this namespace are wanted.
    pub(super) fn wants(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }
}

impl RowFilter {
    /// Refuses `-w 5`: the 5 would be a name.
    pub(super) fn check(&self, view: &ViewArgs) -> anyhow::Result<()> {
        let number = self.name.as_deref().filter(|name| view.watch.is_some() && name.parse::<f64>().is_ok());
        let Some(number) = number else { return Ok(()) };
        anyhow::bail!("{number} would be a name: to look every {number} seconds write -w={number}")
    }

    /// The exit code for these rows. That there is nothing of what was asked for is said.
    pub(super) fn found<R>(&self, rows: &[R]) -> ExitCode {
        let parts = [
            self.name.as_ref().map(|name| format!("name {name}")),
            self.namespaces.namespace.as_ref().map(|namespace| format!("namespace {namespace}")),
            self.address.as_ref().map(|address| format!("address {address}")),
        ];
        let asked: Vec<String> = parts.into_iter().flatten().collect();
        if asked.is_empty() || !rows.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("portway: nothing found with {}", asked.join(", "));
        NOT_OK.into()
    }

    /// Whether a row is wanted. `addresses` are `10.96.0.1:443/TCP`-like.
    pub(super) fn wants<'a>(&self, namespace: &str, name: &str, addresses: impl IntoIterator<Item = &'a str>) -> bool {
        let named = self.name.as_ref().is_none_or(|wanted| match wanted.split_once('/') {
            Some((in_namespace, wanted)) => in_namespace == namespace && wanted == name,
            None => wanted == name,
        });
        let in_namespace = self.namespaces.wants(namespace);
        let is_at = |wanted: &str, address: &str| {
            let address = address.split('/').next().unwrap_or_default();
            let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
            [address, ip, ip.trim_matches(['[', ']'])].contains(&wanted)
        };
        let mut addresses = addresses.into_iter();
        named && in_namespace && self.address.as_ref().is_none_or(|wanted| addresses.any(|at| is_at(wanted, at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let wants = |filter: &RowFilter| filter.wants("shop", "till", ["10.96.0.5:80/TCP", "[fd00::5]:80/TCP"]);
        let filter = |namespace: Option<&str>, name: Option<&str>, address: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let namespaces = NamespaceFilter { namespace: owned(namespace), all_namespaces: false };
            RowFilter { namespaces, name: owned(name), address: owned(address) }
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

    #[test]
    fn addresses_are_addresses() {
        for (text, meant) in [
            ("10.96.0.1", "10.96.0.1"),
            ("10.96.0.1:443", "10.96.0.1:443"),
            ("FD00:0::1", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::01]:443", "[fd00::1]:443"),
            ("*:30080", "*:30080"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(meant), "{text}");
        }
        for text in ["300.1.1.1", "10.96.0", "10.96.0.1:", "10.96.0.1:99999", "web", "", "*", "*:x"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
