//! What an operator should know about a configuration: what is in it and does nothing here, and what is different.

use super::defaults;
use super::flags::{Flag, Flags, Use};
use super::gates;
use super::kube_proxy::KubeProxyConfiguration;
use super::mode::Mode;
use super::node_ports::NodePortsOn;
use super::note::Note;
use crate::model::Family;

/// What happens where nobody says which addresses answer NodePorts.
const NARROWED: &str = "NodePorts answer on the node's primary IP only, where kube-proxy's other modes answer on all addresses \
                        (nodePortAddresses: all); ";

/// Flags given beside a configuration file that do not count then.
pub(super) fn ignored_beside_file(flags: &Flags) -> Option<Note> {
    let ignored = flags.names().filter(|flag| flag.usage != Use::Always);
    naming(ignored).map(|names| Note::warn(format!("--config is given, so these flags are ignored: {names}")))
}

/// Flags that do nothing here, in one line.
pub(super) fn of_other_modes(flags: &Flags) -> Option<Note> {
    let is_ipvs = flags.value("proxy-mode") == "ipvs";
    let acts = |flag: &Flag| is_ipvs && ["ipvs-sync-period", "ipvs-min-sync-period"].contains(&flag.name);
    let ignored = flags.names().filter(|flag| flag.usage == Use::Ignored && !acts(flag));
    naming(ignored)
        .map(|names| Note::warn(format!("these flags are for kube-proxy's other modes and do nothing here: {names}")))
}

fn naming(flags: impl Iterator<Item = &'static Flag>) -> Option<String> {
    let names: Vec<String> = flags.map(|flag| format!("--{}", flag.name)).collect();
    Some(names.join(", ")).filter(|names| !names.is_empty())
}

/// About a valid configuration, before it is made to say what is in effect.
pub(super) fn about(config: &KubeProxyConfiguration, from_file: bool) -> Vec<Note> {
    let mut notes = gates::notes(&config.feature_gates);
    let mode = Mode::parse(&config.mode).unwrap_or(Mode::Iptables);
    let narrowed = config.node_port_addresses.is_empty();
    // Without a file and a mode nobody expects kube-proxy's periods, but everybody its NodePorts.
    if mode != Mode::Nftables && (from_file || !config.mode.is_empty()) {
        let name = if config.mode.is_empty() { "\"\" (iptables)" } else { &config.mode };
        let node_ports = if narrowed { NARROWED } else { "" };
        notes.push(Note::warn(format!(
            "mode {name} runs as nftables: {node_ports}periods and masqueradeAll are taken from the section of that mode"
        )));
    } else if mode != Mode::Nftables && narrowed {
        notes.push(Note::warn(format!("{NARROWED}--proxy-mode=nftables confirms that")));
    }
    // Flags have been named already.
    for (field, value) in if from_file { ignored(config, mode) } else { Vec::new() } {
        notes.push(Note::warn(format!("{field}: {value} does nothing here")));
    }
    let node_ports = NodePortsOn::parse(&config.node_port_addresses).unwrap_or_default();
    for net in node_ports.useless_loopback() {
        notes.push(Note::warn(format!(
            "nodePortAddresses: on loopback NodePorts answer at 127.0.0.1 and ::1 only, not in {net}"
        )));
    }
    let gate = gates::LOCALHOST_NODE_PORTS;
    let localhost = Family::ALL.into_iter().any(|family| node_ports.names_localhost(family));
    if localhost && config.feature_gates.get(gate) == Some(&false) {
        notes.push(Note::warn(format!(
            "nodePortAddresses names localhost, but NodePorts do not answer there: {gate}=false"
        )));
    }
    notes
}

/// Values that are not the default, in fields that nothing here reads.
fn ignored(config: &KubeProxyConfiguration, mode: Mode) -> Vec<(String, String)> {
    let mut default = KubeProxyConfiguration::default();
    defaults::apply(&mut default);
    let (Ok(ours), Ok(default)) = (serde_json::to_value(config), serde_json::to_value(default)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut compare = |field: &str| {
        let pointer = format!("/{}", field.replace('.', "/"));
        if let (Some(value), Some(default)) = (ours.pointer(&pointer), default.pointer(&pointer))
            && value != default
        {
            found.push((field.to_owned(), value.to_string()));
        }
    };
    for field in [
        "nftables.masqueradeBit",
        "iptables.masqueradeBit",
        "iptables.localhostNodePorts",
        "ipvs.scheduler",
        "ipvs.excludeCIDRs",
        "ipvs.strictARP",
        "ipvs.tcpTimeout",
        "ipvs.tcpFinTimeout",
        "ipvs.udpTimeout",
        "winkernel.networkName",
        "winkernel.sourceVip",
        "winkernel.enableDSR",
        "winkernel.rootHnsEndpointName",
        "winkernel.forwardHealthCheckVip",
        "windowsRunAsService",
        "portRange",
        "configSyncPeriod",
        "logging.vmodule",
        "logging.flushFrequency",
        "logging.options",
    ] {
        compare(field);
    }
    let sections: [(Mode, &[&str]); 3] = [
        (Mode::Nftables, &["nftables.masqueradeAll", "nftables.syncPeriod", "nftables.minSyncPeriod"]),
        (Mode::Iptables, &["iptables.syncPeriod", "iptables.minSyncPeriod"]),
        (Mode::Ipvs, &["ipvs.syncPeriod", "ipvs.minSyncPeriod"]),
    ];
    for field in sections.iter().filter(|(other, _)| *other != mode).flat_map(|(_, fields)| *fields) {
        compare(field);
    }
    if mode == Mode::Nftables {
        compare("iptables.masqueradeAll");
    }
    found
}
