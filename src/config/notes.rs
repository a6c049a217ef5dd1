//! What an operator should know about a configuration: what is in it and does nothing here, and what is different.

use super::defaults;
use super::flags::{Flag, Flags, Use};
use super::gates;
use super::kube_proxy::KubeProxyConfiguration;
use super::mode::Mode;
use super::note::Note;
use crate::model::parse_cidr;

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
    // Without a word from kube-proxy's world nobody expects its default.
    if mode != Mode::Nftables && (from_file || !config.mode.is_empty()) {
        let name = if config.mode.is_empty() { "\"\" (iptables)" } else { &config.mode };
        notes.push(Note::warn(format!(
            "mode {name} runs as nftables: without nodePortAddresses, NodePorts answer on the node's primary IP only, and \
             never on localhost; periods and masqueradeAll are taken from the section of that mode"
        )));
    }
    // Flags have been named already.
    for (field, value) in if from_file { ignored(config, mode) } else { Vec::new() } {
        notes.push(Note::warn(format!("{field}: {value} does nothing here")));
    }
    if config.node_port_addresses.iter().filter_map(|net| parse_cidr(net).ok()).any(|net| {
        net.prefix_len() > 0 && (net.addr().is_loopback() || net.contains(&std::net::IpAddr::from([127, 0, 0, 1])))
    }) {
        notes.push(Note::warn("nodePortAddresses contains loopback addresses: NodePorts never answer on those"));
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
