//! The table of flags. Order: as `--help` shows them.

use super::Use::{Always, Ignored, Setting};
use super::{Flag, Kind, Use};

const I32: Kind = Kind::Int(i32::MIN as i64, i32::MAX as i64);

const fn flag(name: &'static str, kind: Kind, default: &'static str, usage: Use, help: &'static str) -> Flag {
    Flag { name, kind, default, usage, help }
}

/// All flags of `run`.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag("config", Kind::Text, "", Always, "Read the configuration from this file; the flags that it has fields for are then ignored"),
    flag("write-config-to", Kind::Text, "", Always, "Write the configuration in effect to this file and exit"),
    flag("cleanup", Kind::Bool, "false", Always, "Delete the tables and exit"),
    flag("init-only", Kind::Bool, "false", Always, "Do what needs full privileges at start-up, then exit"),
    flag("version", Kind::Version, "false", Always, "Print the version and exit"),
    flag("manifests", Kind::Text, "", Always, "Read Kubernetes manifests from this folder, and watch it, instead of the Kubernetes API"),
    flag("service-proxy-name", Kind::Text, "", Always, "Serve only Services with this value of the label service.kubernetes.io/service-proxy-name, beside the proxy that serves all others"),
    flag("takeover", Kind::Bool, "false", Always, "Once our rules are in force, remove those kube-proxy left, which must have ended (default true when run as kube-proxy)"),
    flag("no-table-ownership", Kind::Bool, "false", Always, "Let other programs change our tables (kernels before 6.9 always do)"),
    flag("admin-socket", Kind::Text, crate::admin::SOCKET, Always, "Where `portway status` and the like ask; empty: nowhere"),
    flag("frontend-metrics-max", Kind::Int(0, u32::MAX as i64), "0", Always, "Show connections of each frontend as metrics, as long as there are no more frontends than this"),
    flag("kubeconfig", Kind::Text, "", Setting, "How to reach the Kubernetes API; default: as a pod in the cluster"),
    flag("master", Kind::Text, "", Always, "URL of the API server, instead of the kubeconfig's"),
    flag("hostname-override", Kind::Text, "", Always, "The name of this node; default: the host name"),
    flag("bind-address", Kind::Ip, "0.0.0.0", Setting, "The primary IP of this node, if not the one the Node object says"),
    flag("healthz-bind-address", Kind::Text, "0.0.0.0:10256", Setting, "Where the health server listens: IP or IP:port; empty: nowhere"),
    flag("metrics-bind-address", Kind::Text, "127.0.0.1:10249", Setting, "Where the metrics server listens: IP or IP:port; empty: nowhere"),
    flag("healthz-port", I32, "10256", Setting, "Port of a --healthz-bind-address without one; 0: no health server (deprecated)"),
    flag("metrics-port", I32, "10249", Setting, "Port of a --metrics-bind-address without one; 0: no metrics server (deprecated)"),
    flag("bind-address-hard-fail", Kind::Bool, "false", Setting, "End the process if one of these servers cannot listen"),
    flag("profiling", Kind::Bool, "false", Setting, "Profiling at /debug/pprof of the metrics server"),
    flag("proxy-mode", Kind::Text, "", Setting, "nftables; other modes' names are accepted, see docs/configuration.md"),
    flag("detect-local-mode", Kind::Text, "", Setting, "How to tell pods from other clients: ClusterCIDR (default), NodeCIDR, BridgeInterface, InterfaceNamePrefix"),
    flag("cluster-cidr", Kind::Text, "", Setting, "The pods' address ranges, one of each family, comma-separated (mode ClusterCIDR)"),
    flag("pod-bridge-interface", Kind::Text, "", Setting, "The interface pods' packets arrive on (mode BridgeInterface)"),
    flag("pod-interface-name-prefix", Kind::Text, "", Setting, "How the names of pods' interfaces begin (mode InterfaceNamePrefix)"),
    flag("masquerade-all", Kind::Bool, "false", Setting, "Masquerade all traffic to ClusterIPs"),
    flag("nodeport-addresses", Kind::List, "", Setting, "Where NodePorts answer: `primary` (default) or address ranges, comma-separated"),
    flag("feature-gates", Kind::List, "", Setting, "Comma-separated NAME=true|false; AllowServiceExternalIPs=false acts here"),
    flag("oom-score-adj", I32, "-999", Setting, "This process' OOM score adjustment, -1000 to 1000"),
    flag("conntrack-max-per-core", I32, "32768", Setting, "Connection tracking entries per CPU; 0: leave the kernel's limit alone"),
    flag("conntrack-min", I32, "131072", Setting, "Connection tracking entries at least"),
    flag("conntrack-tcp-timeout-established", Kind::Duration, "24h0m0s", Setting, "Timeout of established TCP connections; 0: leave alone"),
    flag("conntrack-tcp-timeout-close-wait", Kind::Duration, "1h0m0s", Setting, "Timeout of half-closed TCP connections; 0: leave alone"),
    flag("conntrack-tcp-be-liberal", Kind::Bool, "false", Setting, "Do not take TCP packets outside of the window for invalid"),
    flag("conntrack-udp-timeout", Kind::Duration, "0s", Setting, "Timeout of UDP without answers; 0: leave alone"),
    flag("conntrack-udp-timeout-stream", Kind::Duration, "0s", Setting, "Timeout of UDP with answers; 0: leave alone"),
    flag("kube-api-content-type", Kind::Text, "application/vnd.kubernetes.protobuf", Setting, "Accepted; Portway speaks JSON with the API"),
    flag("kube-api-qps", Kind::Float, "5", Setting, "Requests per second to the API"),
    flag("kube-api-burst", I32, "10", Setting, "Requests at once to the API"),
    flag("config-sync-period", Kind::Duration, "15m0s", Setting, "Accepted; Portway does not repeat unchanged objects to itself"),
    flag("iptables-sync-period", Kind::Duration, "30s", Setting, "Half of the time after which an unserved change makes this node unhealthy"),
    flag("iptables-min-sync-period", Kind::Duration, "1s", Setting, "The least time between two syncs; the default 1s means none here"),
    flag("show-hidden-metrics-for-version", Kind::Text, "", Setting, "Accepted; no metric is hidden"),
    flag("v", Kind::Int(0, 255), "0", Always, "Log verbosity, as kube-proxy's"),
    flag("vmodule", Kind::List, "", Always, "Accepted; see RUST_LOG in docs/configuration.md"),
    flag("logging-format", Kind::Text, "text", Always, "`text` or `json`"),
    flag("log-flush-frequency", Kind::Duration, "5s", Always, "Accepted; every line is written at once"),
    flag("log-text-split-stream", Kind::Bool, "false", Always, "Accepted; the log goes to stderr"),
    flag("log-json-split-stream", Kind::Bool, "false", Always, "Accepted; the log goes to stderr"),
    flag("log-text-info-buffer-size", Kind::Text, "0", Always, "Accepted; every line is written at once"),
    flag("log-json-info-buffer-size", Kind::Text, "0", Always, "Accepted; every line is written at once"),
    flag("iptables-masquerade-bit", I32, "14", Ignored, "Ignored: Portway sets no packet marks"),
    flag("iptables-localhost-nodeports", Kind::Bool, "true", Ignored, "Ignored: NodePorts do not answer on localhost"),
    flag("ipvs-sync-period", Kind::Duration, "30s", Ignored, "As --iptables-sync-period, for --proxy-mode=ipvs"),
    flag("ipvs-min-sync-period", Kind::Duration, "1s", Ignored, "As --iptables-min-sync-period, for --proxy-mode=ipvs"),
    flag("ipvs-scheduler", Kind::Text, "", Ignored, "Ignored"),
    flag("ipvs-exclude-cidrs", Kind::List, "", Ignored, "Ignored"),
    flag("ipvs-strict-arp", Kind::Bool, "false", Ignored, "Ignored"),
    flag("ipvs-tcp-timeout", Kind::Duration, "0s", Ignored, "Ignored"),
    flag("ipvs-tcpfin-timeout", Kind::Duration, "0s", Ignored, "Ignored"),
    flag("ipvs-udp-timeout", Kind::Duration, "0s", Ignored, "Ignored"),
    flag("boot-id-file", Kind::Text, "/proc/sys/kernel/random/boot_id", Ignored, "Ignored"),
    flag("machine-id-file", Kind::Text, "/etc/machine-id,/var/lib/dbus/machine-id", Ignored, "Ignored"),
];
