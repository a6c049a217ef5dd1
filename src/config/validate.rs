//! What is allowed. All problems are found, not just the first.

use ipnet::IpNet;

use super::error::{ConfigError, InvalidField};
use super::kube_proxy::KubeProxyConfiguration;
use super::mode::Mode;
use super::node_ports::NodePortsOn;
use super::{gates, listen};
use crate::model::{Family, parse_cidr, parse_ip};

/// Interface names have at most 15 bytes (IFNAMSIZ).
const INTERFACE_NAME: usize = 15;

/// Checks a configuration whose defaults are filled in. Servers without an address are switched off by flags.
pub(super) fn check(config: &KubeProxyConfiguration) -> Result<(), ConfigError> {
    let mut problems = InvalidFields::default();
    problems.numbers(config);
    problems.periods(config);
    problems.addresses(config);
    problems.detection(config);
    problems.logging(config);
    for name in config.feature_gates.keys().filter(|name| !gates::is_name(name)) {
        problems.add("FeatureGates", name, "is not the name of a gate");
    }
    if problems.0.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { problems: problems.0 }) }
}

/// `1.36`.
fn is_minor_version(text: &str) -> bool {
    text.split_once('.').is_some_and(|(major, minor)| [major, minor].iter().all(|part| part.parse::<u16>().is_ok()))
}

#[derive(Default)]
struct InvalidFields(Vec<InvalidField>);

impl InvalidFields {
    fn add(&mut self, field: &str, value: &str, want: &str) {
        self.raw(field, format!("{value:?}"), want);
    }

    fn raw(&mut self, field: &str, value: String, want: &str) {
        let field = format!("KubeProxyConfiguration.{field}");
        self.0.push(InvalidField { field, value, want: want.into() });
    }

    fn range(&mut self, field: &str, value: i32, from: i32, to: i32) {
        if value < from || value > to {
            let want = match to {
                i32::MAX => format!("must be greater than or equal to {from}"),
                _ => format!("must be between {from} and {to}"),
            };
            self.raw(field, value.to_string(), &want);
        }
    }

    fn numbers(&mut self, config: &KubeProxyConfiguration) {
        self.range("NFTables.MasqueradeBit", config.nftables.masquerade_bit.unwrap_or(0), 0, 31);
        self.range("IPTables.MasqueradeBit", config.iptables.masquerade_bit.unwrap_or(0), 0, 31);
        self.range("OOMScoreAdj", config.oom_score_adj.unwrap_or(0), -1000, 1000);
        // kube-proxy allows its previous minor version only. Nothing is hidden here, and the files are of many versions.
        let version = &config.show_hidden_metrics_for_version;
        if !version.is_empty() && !is_minor_version(version) {
            self.add("ShowHiddenMetricsForVersion", version, "must be a minor version, as in 1.36");
        }
        self.range("ClientConnection.Burst", config.client_connection.burst, 0, i32::MAX);
        self.range("Conntrack.MaxPerCore", config.conntrack.max_per_core.unwrap_or(0), 0, i32::MAX);
        self.range("Conntrack.Min", config.conntrack.min.unwrap_or(0), 0, i32::MAX);
        let conntrack = &config.conntrack;
        for (field, time) in [
            ("TCPEstablishedTimeout", conntrack.tcp_established_timeout.unwrap_or_default()),
            ("TCPCloseWaitTimeout", conntrack.tcp_close_wait_timeout.unwrap_or_default()),
            ("UDPTimeout", conntrack.udp_timeout),
            ("UDPStreamTimeout", conntrack.udp_stream_timeout),
        ] {
            if time.is_negative() {
                self.add(&format!("Conntrack.{field}"), &time.to_string(), "must be greater than or equal to 0");
            }
        }
    }

    fn periods(&mut self, config: &KubeProxyConfiguration) {
        let Some(mode) = Mode::parse(&config.mode) else {
            return self.add("Mode", &config.mode, "must be iptables, ipvs, nftables or blank");
        };
        let section = mode.section(config);
        let (sync, min) = (section.sync_period, section.min_sync_period);
        let is_positive = |time: super::GoDuration| !time.is_negative() && !time.is_zero();
        if !is_positive(config.config_sync_period) {
            self.add("ConfigSyncPeriod", &config.config_sync_period.to_string(), "must be greater than 0");
        }
        if !is_positive(sync) {
            self.add("SyncPeriod", &sync.to_string(), "must be greater than 0");
        }
        if min.is_negative() {
            self.add("MinSyncPeriod", &min.to_string(), "must be greater than or equal to 0");
        }
        if min > sync {
            let want = format!("must be greater than or equal to MinSyncPeriod: {min}");
            self.add("SyncPeriod", &sync.to_string(), &want);
        }
    }

    fn addresses(&mut self, config: &KubeProxyConfiguration) {
        if parse_ip(&config.bind_address).is_err() {
            self.add("BindAddress", &config.bind_address, "not a valid textual representation of an IP address");
        }
        for (field, address) in
            [("HealthzBindAddress", &config.healthz_bind_address), ("MetricsBindAddress", &config.metrics_bind_address)]
        {
            if !address.is_empty()
                && let Err(want) = listen::parse(address)
            {
                self.add(field, address, &want);
            }
        }
        if let Err(index) = NodePortsOn::parse(&config.node_port_addresses) {
            let want = "must be a CIDR (as in 10.0.0.0/8) or one of the keywords primary, localhost, all";
            self.add(&format!("NodePortAddresses[{index}]"), &config.node_port_addresses[index], want);
        }
    }

    fn detection(&mut self, config: &KubeProxyConfiguration) {
        let names = &config.detect_local;
        match config.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => self.cluster_cidr(&config.cluster_cidr),
            "NodeCIDR" => {}
            "BridgeInterface" => self.interface("DetectLocal.BridgeInterface", &names.bridge_interface),
            "InterfaceNamePrefix" => {
                self.interface("DetectLocal.InterfaceNamePrefix", &names.interface_name_prefix);
            }
            other => self.add(
                "DetectLocalMode",
                other,
                "must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or blank",
            ),
        }
    }

    fn interface(&mut self, field: &str, name: &str) {
        if name.is_empty() {
            self.add(field, name, "must not be empty in this detectLocalMode");
        } else if name.len() > INTERFACE_NAME {
            self.add(field, name, "is longer than the name of an interface can be (15 bytes)");
        }
    }

    fn cluster_cidr(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let nets: Vec<Result<IpNet, _>> = text.split(',').map(parse_cidr).collect();
        if nets.iter().any(Result::is_err) {
            let want = "must be a valid CIDR, or two separated by a comma (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
            return self.add("ClusterCIDR", text, want);
        }
        let families: Vec<Family> = nets.iter().flatten().map(Family::of_net).collect();
        match families.as_slice() {
            [_] => {}
            [one, two] if one != two => {}
            [_, _] => self.add("ClusterCIDR", text, "two CIDRs must be of different families"),
            _ => self.add("ClusterCIDR", text, "only one CIDR, or one of each family, is allowed"),
        }
    }

    fn logging(&mut self, config: &KubeProxyConfiguration) {
        let logging = &config.logging;
        if !["text", "json"].contains(&logging.format.as_str()) {
            self.add("Logging.Format", &logging.format, "must be text or json");
        }
        if gates::is_on(&config.feature_gates, gates::LOGGING_ALPHA) {
            return;
        }
        for (field, stream) in [("Text", &logging.options.text), ("JSON", &logging.options.json)] {
            if stream.split_stream {
                let want = "needs the feature gate LoggingAlphaOptions";
                self.raw(&format!("Logging.Options.{field}.SplitStream"), "true".into(), want);
            }
            if !stream.info_buffer_size.is_zero() {
                let value = serde_json::to_string(&stream.info_buffer_size).unwrap_or_default();
                let want = "needs the feature gate LoggingAlphaOptions";
                self.raw(&format!("Logging.Options.{field}.InfoBufferSize"), value, want);
            }
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
