//! The configuration in effect: file or flags, defaults, checks; in the shape the rest of the program wants.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::document::{self, PortwayConfiguration};
use super::error::ConfigError;
use super::flags::{Flags, parse_bool};
use super::kube_proxy::KubeProxyConfiguration;
use super::mode::Mode;
use super::note::Note;
use super::values::{device_patterns, devices, node_name, proxy_name, reset_for};
use super::{DetectLocal, GoDuration, NodePortsOn, Options, defaults, gates, listen, notes, overlay, validate};
use crate::model::{parse_cidr, parse_ip};
use crate::plan::ListeningSocket;
use crate::yaml;

/// What the process is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve.
    Run,
    /// `--init-only`: what needs full privileges, then exit.
    Init,
    /// `--cleanup`: delete the tables, then exit.
    Cleanup,
    /// `--write-config-to`: write the effective configuration, then exit.
    WriteConfig(PathBuf),
}

/// The file a configuration came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was in it.
    pub text: String,
}

/// The way to the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientSettings {
    /// A kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The server's URL, over the kubeconfig's.
    pub master: Option<String>,
    /// Requests per second; `None`: no limit.
    pub qps: Option<f64>,
    /// Requests at once.
    pub burst: u32,
}

/// Connection tracking; `None` leaves the kernel's value alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackSettings {
    /// Entries per CPU.
    pub max_per_core: Option<u32>,
    /// Entries at least; counts only together with `max_per_core`.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established_timeout: Option<Duration>,
    /// `nf_conntrack_tcp_timeout_close_wait`.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// `nf_conntrack_tcp_be_liberal`; false leaves it alone.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`.
    pub udp_timeout: Option<Duration>,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream_timeout: Option<Duration>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// As JSON, otherwise as text.
    pub is_json: bool,
    /// klog's level.
    pub verbosity: u32,
}

/// Everything a process needs to know that does not come from the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// What to do.
    pub action: Task,
    /// The configuration in effect in kube-proxy's format, as `--write-config-to` and `/configz` show it.
    pub kube_proxy: KubeProxyConfiguration,
    /// The mode that was asked for; what runs is nftables.
    pub requested_mode: Mode,
    /// The Node's name.
    pub node_name: Arc<str>,
    /// The primary node IP in the place of the Node's; `None`: as the Node says.
    pub bind_address: Option<IpAddr>,
    /// Where the health server listens; `None`: nowhere.
    pub health_address: Option<SocketAddr>,
    /// Where the metrics server listens; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// A server that cannot listen ends the process.
    pub bind_address_hard_fail: bool,
    /// Profiling at the metrics server.
    pub enable_profiling: bool,
    /// Connection tracking.
    pub conntrack: ConntrackSettings,
    /// To be written to `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// Half of the time after which an unserved request makes the node unhealthy.
    pub sync_period: Duration,
    /// The least time between two syncs; zero where kube-proxy's default of 1 s is set.
    pub min_sync_period: Duration,
    /// The way to the API server.
    pub client: ClientSettings,
    /// The log.
    pub logging: LogSettings,
    /// Nobody else may change the tables.
    pub table_ownership: bool,
    /// Remove what kube-proxy left once our rules are in force; `None` when nobody said.
    pub takeover: Option<bool>,
    /// Read manifests from this folder instead of the API.
    pub manifests: Option<PathBuf>,
    /// Serve the Services with this label `service.kubernetes.io/service-proxy-name` only; `None`: those without it.
    pub service_proxy_name: Option<Arc<str>>,
    /// The socket that the operator's commands ask; `None`: nowhere.
    pub admin_socket: Option<PathBuf>,
    /// Where the node's /proc/sys/net can be written, if not there.
    pub sysctl_net: Option<PathBuf>,
    /// Show connections of each frontend as long as there are no more frontends than this; 0: never.
    pub frontend_metrics_max: u32,
    /// Interfaces for direct return, each once; none: no direct return.
    pub direct_return_devices: Vec<Arc<str>>,
    /// Interfaces for the fast path, or beginnings of their names with a `*`, each once; none: no fast path.
    pub fast_path_devices: Vec<Arc<str>>,
    /// Have Service addresses answer echo requests.
    pub answer_pings: bool,
    /// How long connections to endpoints that are gone are reset; zero: they are not.
    pub reset_for: GoDuration,
    /// The file behind all this, if there is one.
    pub file: Option<ConfigFile>,
    /// What is to be logged about the configuration.
    pub notes: Vec<Note>,
    detect_local: DetectLocal,
    node_ports: NodePortsOn,
    flags: Flags,
}

impl Configuration {
    /// Reads the file that the flags name, or the flags, and checks the result.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let path = flags.given("config").filter(|path| !path.is_empty()).map(PathBuf::from);
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(ConfigFile { path, text }),
            Err(cause) => Err(ConfigError::Read { path, cause }),
        };
        let file = path.map(read).transpose()?;
        Self::of(flags, file)
    }

    /// What a file would give if it were there, by nothing but its text.
    pub fn of_file(file: ConfigFile) -> Result<Self, ConfigError> {
        Self::of(Flags::default(), Some(file))
    }

    fn of(flags: Flags, file: Option<ConfigFile>) -> Result<Self, ConfigError> {
        let mut notes = Vec::new();
        let (mut config, portway, file) = match file {
            Some(file) => {
                let mut read = document::read(&file.path, &file.text, &mut notes)?;
                defaults::apply(&mut read.kube_proxy);
                notes.extend(notes::ignored_beside_file(&flags));
                (read.kube_proxy, read.portway, Some(file))
            }
            None => {
                let mut config = KubeProxyConfiguration::default();
                defaults::apply(&mut config);
                overlay::settings(&mut config, &flags)?;
                notes.extend(notes::of_other_modes(&flags));
                (config, PortwayConfiguration::default(), None)
            }
        };
        overlay::always(&mut config, &flags)?;
        validate::check(&config)?;
        notes.extend(notes::about(&config, file.is_some()));
        Self::resolve(config, &portway, file, notes, flags)
    }

    /// The same flags with what the file says now.
    pub fn load_again(&self) -> Result<Self, ConfigError> {
        Self::load(self.flags.clone())
    }

    /// A valid configuration in the shape the program wants.
    fn resolve(
        mut config: KubeProxyConfiguration,
        portway: &PortwayConfiguration,
        file: Option<ConfigFile>,
        notes: Vec<Note>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        let requested_mode = Mode::parse(&config.mode).unwrap_or(Mode::Iptables);
        settle(&mut config, requested_mode);
        let section = Mode::Nftables.section(&config);
        let client = &config.client_connection;
        let path = |text: &str| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        let unless_zero = |time: super::GoDuration| Some(time.get()).filter(|time| !time.is_zero());
        let conntrack = &config.conntrack;
        let unsigned = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
        let takeover = flags.given("takeover").map(|_| flags.is_set("takeover"));
        let service_proxy_name = proxy_name(flags.given("service-proxy-name").unwrap_or(&portway.service_proxy_name))?;
        if service_proxy_name.is_some() && takeover == Some(true) {
            return Err(ConfigError::ForeignTakeover);
        }
        let direct_devices =
            flags.list("direct-return-devices").unwrap_or_else(|| portway.direct_return_devices.clone());
        let fast_devices = flags.list("fast-path-devices").unwrap_or_else(|| portway.fast_path_devices.clone());
        let default_floor = section.min_sync_period == defaults::MIN_SYNC_PERIOD;
        Ok(Self {
            action: action(&flags),
            requested_mode,
            node_name: node_name(&config.hostname_override)?.into(),
            bind_address: parse_ip(&config.bind_address).ok().filter(|ip| !ip.is_unspecified()),
            health_address: listen::parse(&config.healthz_bind_address).ok(),
            metrics_address: listen::parse(&config.metrics_bind_address).ok(),
            bind_address_hard_fail: config.bind_address_hard_fail,
            enable_profiling: config.enable_profiling,
            conntrack: ConntrackSettings {
                max_per_core: unsigned(conntrack.max_per_core).filter(|max| *max > 0),
                min: unsigned(conntrack.min).unwrap_or(0),
                tcp_established_timeout: conntrack.tcp_established_timeout.and_then(unless_zero),
                tcp_close_wait_timeout: conntrack.tcp_close_wait_timeout.and_then(unless_zero),
                tcp_be_liberal: conntrack.tcp_be_liberal,
                udp_timeout: unless_zero(conntrack.udp_timeout),
                udp_stream_timeout: unless_zero(conntrack.udp_stream_timeout),
            },
            oom_score_adj: config.oom_score_adj.unwrap_or_default(),
            sync_period: section.sync_period.get(),
            min_sync_period: if default_floor { Duration::ZERO } else { section.min_sync_period.get() },
            client: ClientSettings {
                kubeconfig: path(&client.kubeconfig),
                master: flags.given("master").filter(|master| !master.is_empty()).map(str::to_owned),
                qps: Some(client.qps).filter(|qps| *qps >= 0.0),
                burst: unsigned(Some(client.burst)).unwrap_or(0),
            },
            logging: LogSettings { is_json: config.logging.format == "json", verbosity: config.logging.verbosity },
            takeover,
            service_proxy_name,
            table_ownership: match flags.given("no-table-ownership") {
                Some(_) => !flags.is_set("no-table-ownership"),
                None => portway.table_ownership.unwrap_or(true),
            },
            admin_socket: path(flags.value("admin-socket")),
            sysctl_net: path(flags.value("sysctl-net")),
            frontend_metrics_max: flags.parsed("frontend-metrics-max")?.unwrap_or(portway.frontend_metrics_max),
            direct_return_devices: devices(direct_devices)?,
            fast_path_devices: device_patterns(fast_devices)?,
            answer_pings: flags.given("answer-pings").and_then(parse_bool).unwrap_or(portway.answer_pings),
            reset_for: reset_for(flags.parsed("reset-connections-for")?.unwrap_or(portway.reset_connections_for))?,
            manifests: path(flags.given("manifests").unwrap_or(&portway.manifests)),
            detect_local: detect_local(&config),
            node_ports: NodePortsOn::parse(&config.node_port_addresses).unwrap_or_default(),
            kube_proxy: config,
            file,
            notes,
            flags,
        })
    }

    /// What the controller needs of it.
    pub fn options(&self) -> Options {
        let mut options = Options::new(self.node_name.clone());
        options.bind_address = self.bind_address;
        options.detect_local = self.detect_local.clone();
        options.masquerade_all = self.kube_proxy.nftables.masquerade_all;
        options.node_ports = self.node_ports.clone();
        options.localhost_node_ports = gates::is_on(&self.kube_proxy.feature_gates, gates::LOCALHOST_NODE_PORTS);
        options.service_proxy_name = self.service_proxy_name.clone();
        options.answer_pings = self.answer_pings;
        options.reset_for = self.reset_for.get();
        options.external_ips = gates::is_on(&self.kube_proxy.feature_gates, gates::EXTERNAL_IPS);
        options.min_sync_period = self.min_sync_period;
        options.direct_return_devices.clone_from(&self.direct_return_devices);
        options.fast_path_devices.clone_from(&self.fast_path_devices);
        let servers = [("health server", self.health_address), ("metrics server", self.metrics_address)];
        options.listeners = servers
            .into_iter()
            .filter_map(|(name, address)| Some(ListeningSocket { name, address: address? }))
            .collect();
        options
    }

    /// Whether the metrics port has `/statusz` (feature gate ComponentStatusz).
    pub fn has_statusz(&self) -> bool {
        gates::is_on(&self.kube_proxy.feature_gates, gates::STATUSZ)
    }

    /// Whether the metrics port has `/flagz` (feature gate ComponentFlagz).
    pub fn has_flagz(&self) -> bool {
        gates::is_on(&self.kube_proxy.feature_gates, gates::FLAGZ)
    }

    /// The feature gates that are known here: name, stage (empty for general availability), and whether they are on.
    pub fn gates(&self) -> Vec<(&'static str, &'static str, bool)> {
        gates::values(&self.kube_proxy.feature_gates)
    }

    /// The answer of `/configz` (specification 10.5).
    pub fn configz(&self) -> Value {
        json!({ "kubeproxy.config.k8s.io": self.kube_proxy })
    }

    /// Every flag with its value, sorted by name: `/flagz`, and the log at level 1.
    pub fn flags(&self) -> Vec<(String, String)> {
        self.flags.all()
    }

    /// Writes the effective configuration as a file that can be read again.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let error = |cause: String| ConfigError::Write { path: path.into(), cause };
        let mut text = yaml::write(&self.kube_proxy).map_err(|cause| error(cause.to_string()))?;
        let manifests = self.manifests.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let service_proxy_name = self.service_proxy_name.as_deref().unwrap_or_default();
        let is_default = self.table_ownership
            && manifests.is_empty()
            && service_proxy_name.is_empty()
            && self.direct_return_devices.is_empty()
            && self.fast_path_devices.is_empty()
            && self.frontend_metrics_max == 0
            && !self.answer_pings
            && self.reset_for.is_zero();
        if !is_default {
            let portway = PortwayConfiguration {
                api_version: document::PORTWAY_API_VERSION.into(),
                kind: document::PORTWAY_KIND.into(),
                table_ownership: Some(self.table_ownership),
                manifests,
                service_proxy_name: service_proxy_name.to_owned(),
                frontend_metrics_max: self.frontend_metrics_max,
                direct_return_devices: self.direct_return_devices.iter().map(ToString::to_string).collect(),
                fast_path_devices: self.fast_path_devices.iter().map(ToString::to_string).collect(),
                answer_pings: self.answer_pings,
                reset_connections_for: self.reset_for,
            };
            text.push_str("---\n");
            text.push_str(&yaml::write(&portway).map_err(|cause| error(cause.to_string()))?);
        }
        std::fs::write(path, text).map_err(|cause| error(cause.to_string()))
    }
}

/// Makes the configuration say what is in effect: nftables mode, with the settings of the mode that was asked for.
fn settle(config: &mut KubeProxyConfiguration, requested: Mode) {
    let section = requested.section(config);
    config.mode = "nftables".into();
    config.nftables.masquerade_all = section.masquerade_all;
    config.nftables.sync_period = section.sync_period;
    config.nftables.min_sync_period = section.min_sync_period;
    config.iptables.masquerade_all = false;
    for period in [
        &mut config.iptables.sync_period,
        &mut config.iptables.min_sync_period,
        &mut config.ipvs.sync_period,
        &mut config.ipvs.min_sync_period,
    ] {
        *period = super::GoDuration::ZERO;
    }
    if config.detect_local_mode.is_empty() {
        config.detect_local_mode = "ClusterCIDR".into();
    }
    if config.node_port_addresses.is_empty() {
        config.node_port_addresses = vec!["primary".into()];
    }
}

fn action(flags: &Flags) -> Task {
    match flags.given("write-config-to").filter(|path| !path.is_empty()) {
        Some(path) => Task::WriteConfig(path.into()),
        None if flags.is_set("cleanup") => Task::Cleanup,
        None if flags.is_set("init-only") => Task::Init,
        None => Task::Run,
    }
}

fn detect_local(config: &KubeProxyConfiguration) -> DetectLocal {
    let names = &config.detect_local;
    match config.detect_local_mode.as_str() {
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::BridgeInterface(names.bridge_interface.clone()),
        "InterfaceNamePrefix" => DetectLocal::InterfaceNamePrefix(names.interface_name_prefix.clone()),
        _ => DetectLocal::ClusterCidr(config.cluster_cidr.split(',').filter_map(|net| parse_cidr(net).ok()).collect()),
    }
}

#[cfg(test)]
#[path = "effective_tests.rs"]
mod tests;
