//! Lays flags over a configuration.

use super::duration::GoDuration;
use super::error::ConfigError;
use super::flags::{Flags, parse_bool};
use super::kube_proxy::{KubeProxyConfiguration, Quantity, VmoduleItem};
use super::{defaults, gates};

/// Without a configuration file: all flags, over the defaults. An address of a server that ends up empty switches the
/// server off.
pub(super) fn settings(config: &mut KubeProxyConfiguration, flags: &Flags) -> Result<(), ConfigError> {
    let text = |field: &mut String, name: &str| {
        if let Some(value) = flags.given(name) {
            value.clone_into(field);
        }
    };
    let bool = |field: &mut bool, name: &str| {
        if let Some(value) = flags.given(name).and_then(parse_bool) {
            *field = value;
        }
    };
    let duration = |field: &mut GoDuration, name| -> Result<(), ConfigError> {
        *field = flags.parsed(name)?.unwrap_or(*field);
        Ok(())
    };
    let int = |field: &mut Option<i32>, name| -> Result<(), ConfigError> {
        *field = flags.parsed(name)?.or(*field);
        Ok(())
    };
    let list = |field: &mut Vec<String>, name: &str| {
        if let Some(items) = flags.list(name) {
            *field = items;
        }
    };

    text(&mut config.client_connection.kubeconfig, "kubeconfig");
    text(&mut config.client_connection.content_type, "kube-api-content-type");
    config.client_connection.qps = flags.parsed("kube-api-qps")?.unwrap_or(config.client_connection.qps);
    config.client_connection.burst = flags.parsed("kube-api-burst")?.unwrap_or(config.client_connection.burst);
    text(&mut config.bind_address, "bind-address");
    config.healthz_bind_address = server(flags, "healthz-bind-address", "healthz-port")?;
    config.metrics_bind_address = server(flags, "metrics-bind-address", "metrics-port")?;
    bool(&mut config.bind_address_hard_fail, "bind-address-hard-fail");
    bool(&mut config.enable_profiling, "profiling");
    text(&mut config.show_hidden_metrics_for_version, "show-hidden-metrics-for-version");
    text(&mut config.mode, "proxy-mode");
    text(&mut config.detect_local_mode, "detect-local-mode");
    for name in ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] {
        if config.detect_local_mode.eq_ignore_ascii_case(name) {
            name.clone_into(&mut config.detect_local_mode);
        }
    }
    text(&mut config.cluster_cidr, "cluster-cidr");
    text(&mut config.detect_local.bridge_interface, "pod-bridge-interface");
    text(&mut config.detect_local.interface_name_prefix, "pod-interface-name-prefix");
    list(&mut config.node_port_addresses, "nodeport-addresses");
    int(&mut config.oom_score_adj, "oom-score-adj")?;
    duration(&mut config.config_sync_period, "config-sync-period")?;

    let conntrack = &mut config.conntrack;
    int(&mut conntrack.max_per_core, "conntrack-max-per-core")?;
    int(&mut conntrack.min, "conntrack-min")?;
    let established = flags.parsed("conntrack-tcp-timeout-established")?;
    conntrack.tcp_established_timeout = established.or(conntrack.tcp_established_timeout);
    let close_wait = flags.parsed("conntrack-tcp-timeout-close-wait")?;
    conntrack.tcp_close_wait_timeout = close_wait.or(conntrack.tcp_close_wait_timeout);
    bool(&mut conntrack.tcp_be_liberal, "conntrack-tcp-be-liberal");
    duration(&mut conntrack.udp_timeout, "conntrack-udp-timeout")?;
    duration(&mut conntrack.udp_stream_timeout, "conntrack-udp-timeout-stream")?;

    // In spite of their names these count in every mode but ipvs.
    duration(&mut config.nftables.sync_period, "iptables-sync-period")?;
    duration(&mut config.nftables.min_sync_period, "iptables-min-sync-period")?;
    duration(&mut config.iptables.sync_period, "iptables-sync-period")?;
    duration(&mut config.iptables.min_sync_period, "iptables-min-sync-period")?;
    duration(&mut config.ipvs.sync_period, "ipvs-sync-period")?;
    duration(&mut config.ipvs.min_sync_period, "ipvs-min-sync-period")?;
    bool(&mut config.nftables.masquerade_all, "masquerade-all");
    bool(&mut config.iptables.masquerade_all, "masquerade-all");

    int(&mut config.iptables.masquerade_bit, "iptables-masquerade-bit")?;
    if let Some(value) = flags.given("iptables-localhost-nodeports").and_then(parse_bool) {
        config.iptables.localhost_node_ports = Some(value);
    }
    text(&mut config.ipvs.scheduler, "ipvs-scheduler");
    list(&mut config.ipvs.exclude_cidrs, "ipvs-exclude-cidrs");
    bool(&mut config.ipvs.strict_arp, "ipvs-strict-arp");
    duration(&mut config.ipvs.tcp_timeout, "ipvs-tcp-timeout")?;
    duration(&mut config.ipvs.tcp_fin_timeout, "ipvs-tcpfin-timeout")?;
    duration(&mut config.ipvs.udp_timeout, "ipvs-udp-timeout")?;
    for item in flags.list("feature-gates").unwrap_or_default() {
        let (name, value) = gates::parse(&item)?;
        config.feature_gates.insert(name, value);
    }
    Ok(())
}

/// Where a server listens; empty: nowhere.
fn server(flags: &Flags, address: &'static str, port: &'static str) -> Result<String, ConfigError> {
    let default = if port == "healthz-port" { defaults::HEALTHZ_PORT } else { defaults::METRICS_PORT };
    let port: i64 = flags.parsed(port)?.unwrap_or(default.into());
    let address = flags.value(address);
    Ok(match u16::try_from(port) {
        _ if address.is_empty() => String::new(),
        Ok(0) => String::new(),
        Ok(port) => defaults::with_port(address, port),
        // For validation to refuse.
        Err(_) => format!("{address}:{port}"),
    })
}

/// What counts beside a configuration file, too: the node's name and the log.
pub(super) fn always(config: &mut KubeProxyConfiguration, flags: &Flags) -> Result<(), ConfigError> {
    if let Some(name) = flags.given("hostname-override").filter(|name| !name.is_empty()) {
        if name.trim().is_empty() {
            return Err(ConfigError::BlankName);
        }
        name.clone_into(&mut config.hostname_override);
    }
    let logging = &mut config.logging;
    if let Some(format) = flags.given("logging-format") {
        format.clone_into(&mut logging.format);
    }
    logging.verbosity = flags.parsed("v")?.unwrap_or(logging.verbosity);
    logging.flush_frequency = flags.parsed("log-flush-frequency")?.unwrap_or(logging.flush_frequency);
    for (stream, split, size) in [
        (&mut logging.options.text, "log-text-split-stream", "log-text-info-buffer-size"),
        (&mut logging.options.json, "log-json-split-stream", "log-json-info-buffer-size"),
    ] {
        stream.split_stream = flags.given(split).and_then(parse_bool).unwrap_or(stream.split_stream);
        if let Some(size) = flags.given(size) {
            stream.info_buffer_size = Quantity::Text(size.to_owned());
        }
    }
    let entries = flags.list("vmodule").unwrap_or_default();
    let entries: Result<Vec<VmoduleItem>, _> = entries.iter().map(|entry| vmodule(entry)).collect();
    // Those of the flags come first: the first that fits counts.
    logging.vmodule.splice(0..0, entries?);
    Ok(())
}

fn vmodule(entry: &str) -> Result<VmoduleItem, ConfigError> {
    let parsed = entry.split_once('=').and_then(|(pattern, level)| {
        let pattern = Some(pattern).filter(|pattern| !pattern.is_empty())?;
        Some(VmoduleItem { file_pattern: pattern.into(), verbosity: level.parse().ok()? })
    });
    parsed.ok_or_else(|| ConfigError::Flag {
        flag: "vmodule",
        value: entry.into(),
        cause: "want FILE=LEVEL, comma-separated".into(),
    })
}
