//! The file format of kube-proxy: `KubeProxyConfiguration`, version `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! A zero value means "default" except where `Option` tells "absent" from zero. [`super::defaults`] fills both in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::duration::GoDuration;

/// The `apiVersion` of [`KubeProxyConfiguration`].
pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The `kind` of [`KubeProxyConfiguration`].
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// All fields kube-proxy knows, those that mean nothing here too. `docs/configuration.md` says which act.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeProxyConfiguration {
    /// `kubeproxy.config.k8s.io/v1alpha1`.
    pub api_version: String,
    /// `KubeProxyConfiguration`.
    pub kind: String,
    /// Gates by name.
    pub feature_gates: BTreeMap<String, bool>,
    /// The way to the API server.
    pub client_connection: ClientConnection,
    /// What the log looks like.
    pub logging: Logging,
    /// The Node's name instead of the host's.
    pub hostname_override: String,
    /// The primary node IP instead of the Node's.
    pub bind_address: String,
    /// Where the health server listens.
    pub healthz_bind_address: String,
    /// Where the metrics server listens.
    pub metrics_bind_address: String,
    /// A server that cannot listen ends the process.
    pub bind_address_hard_fail: bool,
    /// Profiling at the metrics server.
    pub enable_profiling: bool,
    /// Show metrics hidden since this version.
    pub show_hidden_metrics_for_version: String,
    /// `iptables`, `ipvs`, `nftables` or empty.
    pub mode: String,
    /// Settings of mode iptables.
    pub iptables: Iptables,
    /// Settings of mode ipvs.
    pub ipvs: Ipvs,
    /// Settings of mode nftables.
    pub nftables: Nftables,
    /// Settings for Windows.
    pub winkernel: Winkernel,
    /// How pods are told from other clients.
    pub detect_local_mode: String,
    /// Names for the interface modes of that.
    pub detect_local: DetectLocalNames,
    /// The pods' ranges, comma-separated.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// Where NodePorts answer.
    pub node_port_addresses: Vec<String>,
    /// This process' OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// How often informers repeat themselves.
    pub config_sync_period: GoDuration,
    /// Of old files; ignored.
    pub port_range: String,
    /// For Windows; ignored.
    pub windows_run_as_service: bool,
}

/// `clientConnection`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientConnection {
    /// A kubeconfig file.
    pub kubeconfig: String,
    /// What to accept from the server.
    pub accept_content_types: String,
    /// What to send to the server.
    pub content_type: String,
    /// Requests per second; negative: no limit.
    #[serde(serialize_with = "short_float")]
    pub qps: f64,
    /// Requests at once.
    pub burst: i32,
}

/// `logging`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    /// How often buffered lines are written.
    #[serde(deserialize_with = "duration_or_nanos")]
    pub flush_frequency: GoDuration,
    /// 0 to 10.
    pub verbosity: u32,
    /// Verbosity per source file.
    pub vmodule: Vec<VmoduleItem>,
    /// Options of the formats.
    pub options: LoggingOptions,
}

/// An entry of `logging.vmodule`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmoduleItem {
    /// Source files.
    pub file_pattern: String,
    /// Their verbosity.
    pub verbosity: u32,
}

/// `logging.options`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingOptions {
    /// Of format text.
    pub text: StreamOptions,
    /// Of format json.
    pub json: StreamOptions,
}

/// `logging.options.text` and `.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StreamOptions {
    /// Information to stdout, errors to stderr.
    pub split_stream: bool,
    /// Bytes, as a quantity: `"0"`, `64Ki`, or a number.
    pub info_buffer_size: Quantity,
}

/// A quantity that is only handed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// `"64Ki"`.
    Text(String),
    /// `65536`.
    Number(serde_json::Number),
}

impl Default for Quantity {
    fn default() -> Self {
        Self::Text("0".into())
    }
}

impl Quantity {
    /// No buffer.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty() || text.trim_start_matches(['0', '.']).is_empty(),
            Self::Number(number) => number.as_f64() == Some(0.0),
        }
    }
}

/// `iptables`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Iptables {
    /// The mark's bit.
    pub masquerade_bit: Option<i32>,
    /// Masquerade everything.
    pub masquerade_all: bool,
    /// NodePorts on 127.0.0.1.
    pub localhost_node_ports: Option<bool>,
    /// See [`Nftables::sync_period`].
    pub sync_period: GoDuration,
    /// See [`Nftables::min_sync_period`].
    pub min_sync_period: GoDuration,
}

/// `ipvs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ipvs {
    /// See [`Nftables::sync_period`].
    pub sync_period: GoDuration,
    /// See [`Nftables::min_sync_period`].
    pub min_sync_period: GoDuration,
    /// The choice of endpoints.
    pub scheduler: String,
    /// Virtual servers that are somebody else's.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    /// No ARP answers from its interface.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    /// Of idle connections.
    pub tcp_timeout: GoDuration,
    /// After a FIN.
    pub tcp_fin_timeout: GoDuration,
    /// Of UDP.
    pub udp_timeout: GoDuration,
}

/// `nftables`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Nftables {
    /// The mark's bit; Portway sets no marks.
    pub masquerade_bit: Option<i32>,
    /// Masquerade everything sent to a ClusterIP.
    pub masquerade_all: bool,
    /// Half of the time after which an unserved request makes the node unhealthy.
    pub sync_period: GoDuration,
    /// The least time between two syncs.
    pub min_sync_period: GoDuration,
}

/// `winkernel`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Winkernel {
    /// The HNS network.
    pub network_name: String,
    /// The source address.
    pub source_vip: String,
    /// Direct server return.
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    /// The root endpoint.
    pub root_hns_endpoint_name: String,
    /// Health checks at the virtual address.
    pub forward_health_check_vip: bool,
}

/// `detectLocal`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DetectLocalNames {
    /// Mode BridgeInterface.
    pub bridge_interface: String,
    /// Mode InterfaceNamePrefix.
    pub interface_name_prefix: String,
}

/// `conntrack`. Zero means "leave the kernel's value alone".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Conntrack {
    /// Entries per CPU.
    pub max_per_core: Option<i32>,
    /// Entries at least.
    pub min: Option<i32>,
    /// Of established TCP connections.
    pub tcp_established_timeout: Option<GoDuration>,
    /// Of half-closed TCP connections.
    pub tcp_close_wait_timeout: Option<GoDuration>,
    /// Packets outside the window are not invalid.
    pub tcp_be_liberal: bool,
    /// Of UDP without an answer.
    pub udp_timeout: GoDuration,
    /// Of UDP with answers.
    pub udp_stream_timeout: GoDuration,
}

/// `5` instead of `5.0`, as Go writes it.
fn short_float<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// The one duration that may be a number.
fn duration_or_nanos<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<GoDuration, D::Error> {
    struct Either;

    impl serde::de::Visitor<'_> for Either {
        type Value = GoDuration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration as in 5s, or nanoseconds")
        }

        fn visit_i64<E: serde::de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
            Ok(GoDuration::from_nanos(nanos))
        }

        fn visit_u64<E: serde::de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
            i64::try_from(nanos).map(GoDuration::from_nanos).map_err(E::custom)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<GoDuration, E> {
            if text.is_empty() { Ok(GoDuration::ZERO) } else { text.parse().map_err(E::custom) }
        }
    }

    deserializer.deserialize_any(Either)
}
