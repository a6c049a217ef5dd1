//! Defaults: what a zero or absent value of the file stands for.

use std::net::IpAddr;

use super::duration::GoDuration;
use super::kube_proxy::{self, KubeProxyConfiguration};
use crate::model::parse_ip;

/// Port of the health server.
pub(super) const HEALTHZ_PORT: u16 = 10256;
/// Port of the metrics server.
pub(super) const METRICS_PORT: u16 = 10249;
/// `minSyncPeriod` where none is set. kube-proxy waits that long; for Portway it means "no floor".
pub(super) const MIN_SYNC_PERIOD: GoDuration = GoDuration::from_secs(1);

const SYNC_PERIOD: GoDuration = GoDuration::from_secs(30);
const MASQUERADE_BIT: i32 = 14;

/// Fills in what is absent or zero. Addresses of servers get a port.
pub(super) fn apply(config: &mut KubeProxyConfiguration) {
    config.api_version = kube_proxy::API_VERSION.into();
    config.kind = kube_proxy::KIND.into();
    text(&mut config.bind_address, "0.0.0.0");
    let is_ipv6 = matches!(parse_ip(&config.bind_address), Ok(IpAddr::V6(_)));
    text(&mut config.healthz_bind_address, if is_ipv6 { "::" } else { "0.0.0.0" });
    text(&mut config.metrics_bind_address, if is_ipv6 { "::1" } else { "127.0.0.1" });
    config.healthz_bind_address = with_port(&config.healthz_bind_address, HEALTHZ_PORT);
    config.metrics_bind_address = with_port(&config.metrics_bind_address, METRICS_PORT);

    let client = &mut config.client_connection;
    text(&mut client.content_type, "application/vnd.kubernetes.protobuf");
    if client.qps == 0.0 {
        client.qps = 5.0;
    }
    if client.burst == 0 {
        client.burst = 10;
    }
    text(&mut config.logging.format, "text");
    duration(&mut config.logging.flush_frequency, GoDuration::from_secs(5));
    duration(&mut config.config_sync_period, GoDuration::from_secs(15 * 60));
    config.oom_score_adj.get_or_insert(-999);

    config.nftables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
    duration(&mut config.nftables.sync_period, SYNC_PERIOD);
    duration(&mut config.nftables.min_sync_period, MIN_SYNC_PERIOD);
    config.iptables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
    config.iptables.localhost_node_ports.get_or_insert(true);
    duration(&mut config.iptables.sync_period, SYNC_PERIOD);
    duration(&mut config.iptables.min_sync_period, MIN_SYNC_PERIOD);
    duration(&mut config.ipvs.sync_period, SYNC_PERIOD);

    let conntrack = &mut config.conntrack;
    conntrack.max_per_core.get_or_insert(32 * 1024);
    conntrack.min.get_or_insert(128 * 1024);
    conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_secs(24 * 3600));
    conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_secs(3600));
}

/// Adds the port to an address that has none. What is no address stays as it is, for validation to refuse.
pub(super) fn with_port(address: &str, port: u16) -> String {
    match parse_ip(address) {
        Ok(IpAddr::V4(_)) => format!("{address}:{port}"),
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        Err(_) => address.to_owned(),
    }
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn duration(field: &mut GoDuration, default: GoDuration) {
    if field.is_zero() {
        *field = default;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_default_only_where_it_should() {
        let mut config = KubeProxyConfiguration::default();
        config.conntrack.max_per_core = Some(0);
        config.conntrack.tcp_close_wait_timeout = Some(GoDuration::ZERO);
        config.oom_score_adj = Some(0);
        apply(&mut config);
        assert_eq!(config.conntrack.max_per_core, Some(0));
        assert_eq!(config.conntrack.min, Some(131_072));
        assert_eq!(config.conntrack.tcp_close_wait_timeout, Some(GoDuration::ZERO));
        assert_eq!(config.conntrack.tcp_established_timeout.map(|time| time.to_string()).as_deref(), Some("24h0m0s"));
        assert_eq!(config.oom_score_adj, Some(0));
        assert_eq!(config.ipvs.min_sync_period, GoDuration::ZERO);
        assert_eq!(config.nftables.sync_period.to_string(), "30s");
    }

    #[test]
    fn addresses_of_servers() {
        let addresses = |bind: &str, healthz: &str, metrics: &str| {
            let mut config = KubeProxyConfiguration {
                bind_address: bind.into(),
                healthz_bind_address: healthz.into(),
                metrics_bind_address: metrics.into(),
                ..KubeProxyConfiguration::default()
            };
            apply(&mut config);
            (config.healthz_bind_address, config.metrics_bind_address)
        };
        let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
        assert_eq!(addresses("", "", ""), pair("0.0.0.0:10256", "127.0.0.1:10249"));
        assert_eq!(addresses("::", "", ""), pair("[::]:10256", "[::1]:10249"));
        assert_eq!(addresses("fd00::1", "::1", "10.0.0.1:9"), pair("[::1]:10256", "10.0.0.1:9"));
        assert_eq!(addresses("", "[::1]", "x"), pair("[::1]", "x"));
    }
}
