use super::*;
use crate::config::defaults;
use crate::config::document;

fn problems(yaml: &str) -> Vec<String> {
    let text = format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{yaml}\n");
    let mut config = document::read(std::path::Path::new("f"), &text, &mut Vec::new()).expect("readable").kube_proxy;
    defaults::apply(&mut config);
    match check(&config) {
        Ok(()) => Vec::new(),
        Err(ConfigError::Invalid { problems }) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn messages_are_like_kube_proxys() {
    assert_eq!(
        problems("metricsBindAddress: x\n"),
        ["KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"x\": must be IP:port"]
    );
    assert_eq!(
        problems("oomScoreAdj: 1001"),
        ["KubeProxyConfiguration.OOMScoreAdj: Invalid value: 1001: must be between -1000 and 1000"]
    );
    assert_eq!(
        problems("conntrack: {maxPerCore: -1}"),
        ["KubeProxyConfiguration.Conntrack.MaxPerCore: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn every_rule() {
    for (yaml, field) in [
        ("mode: userspace", "Mode"),
        ("mode: NFTables", "Mode"),
        ("nftables: {masqueradeBit: 32}", "NFTables.MasqueradeBit"),
        ("nftables: {masqueradeBit: -1}", "NFTables.MasqueradeBit"),
        ("iptables: {masqueradeBit: 32}", "IPTables.MasqueradeBit"),
        ("conntrack: {min: -1}", "Conntrack.Min"),
        ("conntrack: {tcpEstablishedTimeout: -1s}", "Conntrack.TCPEstablishedTimeout"),
        ("conntrack: {tcpCloseWaitTimeout: -1s}", "Conntrack.TCPCloseWaitTimeout"),
        ("conntrack: {udpTimeout: -1s}", "Conntrack.UDPTimeout"),
        ("conntrack: {udpStreamTimeout: -1ns}", "Conntrack.UDPStreamTimeout"),
        ("oomScoreAdj: -1001", "OOMScoreAdj"),
        ("clientConnection: {burst: -1}", "ClientConnection.Burst"),
        ("configSyncPeriod: -1s", "ConfigSyncPeriod"),
        ("mode: nftables\nnftables: {syncPeriod: -1s, minSyncPeriod: -2s}", "SyncPeriod"),
        ("mode: nftables\nnftables: {minSyncPeriod: -1s}", "MinSyncPeriod"),
        ("mode: nftables\nnftables: {syncPeriod: 10s, minSyncPeriod: 11s}", "SyncPeriod"),
        ("iptables: {minSyncPeriod: 31s}", "SyncPeriod"),
        ("mode: ipvs\nipvs: {minSyncPeriod: 31s}", "SyncPeriod"),
        ("bindAddress: node", "BindAddress"),
        ("bindAddress: 10.0.0.1:80", "BindAddress"),
        ("healthzBindAddress: \"[::1]\"", "HealthzBindAddress"),
        ("healthzBindAddress: 1.2.3.4:0", "HealthzBindAddress"),
        ("healthzBindAddress: 1.2.3.4:65536", "HealthzBindAddress"),
        ("metricsBindAddress: localhost:1", "MetricsBindAddress"),
        ("nodePortAddresses: [10.0.0.1]", "NodePortAddresses[0]"),
        ("nodePortAddresses: [10.0.0.0/8, x]", "NodePortAddresses[1]"),
        ("nodePortAddresses: [primary, localhost, loopback]", "NodePortAddresses[2]"),
        ("nodePortAddresses: ['']", "NodePortAddresses[0]"),
        ("detectLocalMode: Magic", "DetectLocalMode"),
        ("detectLocalMode: BridgeInterface", "DetectLocal.BridgeInterface"),
        ("detectLocalMode: InterfaceNamePrefix", "DetectLocal.InterfaceNamePrefix"),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: sixteen-bytes-xx}",
            "DetectLocal.BridgeInterface",
        ),
        ("clusterCIDR: 10.0.0.0", "ClusterCIDR"),
        ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", "ClusterCIDR"),
        ("clusterCIDR: \"10.0.0.0/8, fd00::/8\"", "ClusterCIDR"),
        ("clusterCIDR: 10.0.0.0/8,fd00::/8,11.0.0.0/8", "ClusterCIDR"),
        ("logging: {format: xml}", "Logging.Format"),
        ("logging: {options: {json: {splitStream: true}}}", "Logging.Options.JSON.SplitStream"),
        ("logging: {options: {text: {infoBufferSize: 64Ki}}}", "Logging.Options.Text.InfoBufferSize"),
        ("showHiddenMetricsForVersion: 'v1'", "ShowHiddenMetricsForVersion"),
        ("featureGates: {\"a b\": true}", "FeatureGates"),
    ] {
        let found = problems(yaml);
        assert!(
            found.iter().any(|text| text.starts_with(&format!("KubeProxyConfiguration.{field}: "))),
            "{yaml}: {found:?}"
        );
    }
}

#[test]
fn what_is_allowed() {
    for yaml in [
        "",
        "mode: ipvs",
        "bindAddress: 010.000.000.001",
        "bindAddress: '::'",
        "healthzBindAddress: ::1",
        "metricsBindAddress: '[::1]:9'",
        "nodePortAddresses: [primary]",
        "nodePortAddresses: [primary, 10.0.0.0/8]",
        "nodePortAddresses: [localhost, all, primary, fd00::/8, primary]",
        "nodePortAddresses: [10.0.0.0/8, 0.0.0.0/0, fd00::/8]",
        "clusterCIDR: 10.0.0.0/8,fd00::/8",
        "clusterCIDR: nonsense\ndetectLocalMode: NodeCIDR",
        "mode: nftables\niptables: {syncPeriod: -1s}",
        "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s}",
        "clientConnection: {qps: -1}",
        "featureGates: {LoggingAlphaOptions: true}\nlogging: {options: {json: {splitStream: true}}}",
        "showHiddenMetricsForVersion: '1.35'",
        "showHiddenMetricsForVersion: '1.29'",
        "logging: {options: {text: {infoBufferSize: 0}}}",
    ] {
        assert_eq!(problems(yaml), Vec::<String>::new(), "{yaml}");
    }
}

#[test]
fn all_problems_come_together_in_one_line() {
    let found = problems("mode: x\nbindAddress: y\noomScoreAdj: 9999");
    assert_eq!(found.len(), 3, "{found:?}");
    let problem = |field: &str| InvalidField { field: field.into(), value: "1".into(), want: "w".into() };
    let text = ConfigError::Invalid { problems: vec![problem("a"), problem("b")] }.to_string();
    assert_eq!(text, "[a: Invalid value: 1: w, b: Invalid value: 1: w]");
}
