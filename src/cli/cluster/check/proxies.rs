//! Who serves Services now, and whether Portway understands its configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cli::check::CheckRow;
use crate::cli::cluster::kubectl::{Kubectl, KubectlError};
use crate::cli::cluster::objects::{List, Metadata};
use crate::config::{ConfigFile, Configuration};
use crate::model::Family;

const KUBE_PROXY: &str = "kube-proxy";
/// ConfigMaps with kube-proxy's configuration, and the keys: kubeadm's, EKS'.
const CONFIG_MAPS: [(&str, &str); 2] = [("kube-proxy", "config.conf"), ("kube-proxy-config", "config")];

/// A DaemonSet: whether anything of it runs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DaemonSet {
    metadata: Metadata,
    status: DaemonSetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DaemonSetStatus {
    desired_number_scheduled: u64,
}

/// A ConfigMap.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    metadata: Metadata,
    data: BTreeMap<String, String>,
}

/// Asks the API.
pub(super) async fn rows(kubectl: &Kubectl) -> Vec<CheckRow> {
    let (sets, maps) =
        tokio::join!(kubectl.json::<List<DaemonSet>>(&["get", "daemonsets", "--all-namespaces"]), async {
            let mut found = Vec::new();
            for name in CONFIG_MAPS.map(|(name, _)| name).into_iter().chain(["cilium-config"]) {
                match kubectl.json::<ConfigMap>(&["get", "configmap", name, "-n", "kube-system"]).await {
                    Ok(map) => found.push(map),
                    Err(KubectlError::Refused(_, cause)) if cause.contains("NotFound") => {}
                    Err(cause) => return Err(cause),
                }
            }
            Ok(found)
        });
    let what = "proxies";
    let remedy = "ask as somebody who may list DaemonSets, and get ConfigMaps of kube-system";
    match (sets, maps) {
        (Ok(sets), Ok(maps)) => judge(&sets.items, &maps),
        (Err(cause), _) | (_, Err(cause)) => vec![CheckRow::warn(what, cause.to_string(), remedy)],
    }
}

fn judge(sets: &[DaemonSet], maps: &[ConfigMap]) -> Vec<CheckRow> {
    let config = CONFIG_MAPS.iter().find_map(|(name, key)| {
        let map = maps.iter().find(|map| map.metadata.name == *name)?;
        Some((*name, *key, map.data.get(*key)?))
    });
    let mut rows = vec![kube_proxy(sets, config.is_some())];
    rows.extend(config.into_iter().flat_map(|(name, key, text)| configuration(name, key, text)));
    rows.extend(others(sets, maps));
    rows
}

fn kube_proxy(sets: &[DaemonSet], is_configured: bool) -> CheckRow {
    let set = sets.iter().find(|set| set.metadata.name == KUBE_PROXY);
    match set {
        Some(set) if set.status.desired_number_scheduled > 0 => CheckRow::warn(
            KUBE_PROXY,
            format!(
                "DaemonSet {}/{} runs on {} nodes",
                set.metadata.namespace, set.metadata.name, set.status.desired_number_scheduled
            ),
            "it must end before Portway starts: docs/migration.md",
        ),
        Some(_) => CheckRow::ok(KUBE_PROXY, "its DaemonSet runs on no node"),
        None if is_configured => CheckRow::warn(
            KUBE_PROXY,
            "there is a ConfigMap, but no DaemonSet: it may run on the nodes as a service or static pod",
            "look for it on a node: docs/migration.md",
        ),
        None => CheckRow::ok(
            KUBE_PROXY,
            "no DaemonSet and no ConfigMap of it; whether nodes run it in another way, only they know",
        ),
    }
}

/// Whether Portway takes the configuration as it is.
fn configuration(name: &str, key: &str, text: &str) -> Vec<CheckRow> {
    let what = "kube-proxy's configuration";
    let place = format!("ConfigMap kube-system/{name}");
    let file = ConfigFile { path: format!("{place}, {key}").into(), text: text.to_owned() };
    let configuration = match Configuration::of_file(file) {
        Ok(configuration) => configuration,
        Err(cause) => {
            let remedy = "docs/configuration.md has the fields";
            return vec![CheckRow::fail(what, format!("{place}, {key}: {cause}"), remedy)];
        }
    };
    let mode = format!("{:?}", configuration.requested_mode).to_lowercase();
    let mut rows =
        vec![CheckRow::ok(what, format!("{place}: mode {mode}; Portway takes it (existingConfigMap={name})"))];
    let note = |text: &str| CheckRow::warn(what, text, "docs/configuration.md");
    rows.extend(configuration.notes.iter().map(|found| note(&found.text)));
    rows.extend(configuration.options().pod_detection_lacks(Family::Ipv4).map(|text| note(&text)));
    rows
}

/// Networks that serve Services themselves: docs/compatibility.md, Networks.
fn others(sets: &[DaemonSet], maps: &[ConfigMap]) -> Vec<CheckRow> {
    let runs = |name: &str| sets.iter().any(|set| set.metadata.name == name && set.status.desired_number_scheduled > 0);
    let value = |map: &str, key: &str| maps.iter().find(|found| found.metadata.name == map)?.data.get(key);
    let what = "other proxies";
    let mut rows = Vec::new();
    if runs("cilium") {
        let replaces = value("cilium-config", "kube-proxy-replacement").map(String::as_str).unwrap_or_default();
        rows.push(match replaces {
            "true" | "strict" | "partial" | "probe" => CheckRow::fail(
                what,
                format!("Cilium serves Services (kube-proxy-replacement: {replaces})"),
                "not both: leave it, or switch that off first",
            ),
            _ => CheckRow::warn(what, "Cilium serves ClusterIPs of pods itself", COMPATIBILITY),
        });
    }
    for (name, detail) in [
        ("kube-router", "kube-router, which may serve Services (--run-service-proxy)"),
        ("ovnkube-node", "OVN-Kubernetes, which serves Services"),
        ("antrea-agent", "Antrea, which serves Services of pods, with proxyAll all"),
    ] {
        if runs(name) {
            rows.push(CheckRow::warn(what, detail, COMPATIBILITY));
        }
    }
    if rows.is_empty() {
        rows.push(CheckRow::ok(what, "none that is known here"));
    }
    rows
}

const COMPATIBILITY: &str = "docs/compatibility.md, Networks";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::State;

    fn set(name: &str, desired: u64) -> DaemonSet {
        let metadata = Metadata { name: name.to_owned(), namespace: "kube-system".to_owned(), ..Metadata::default() };
        DaemonSet { metadata, status: DaemonSetStatus { desired_number_scheduled: desired } }
    }

    fn map(name: &str, key: &str, text: &str) -> ConfigMap {
        let metadata = Metadata { name: name.to_owned(), ..Metadata::default() };
        ConfigMap { metadata, data: [(key.to_owned(), text.to_owned())].into() }
    }

    fn lines(sets: &[DaemonSet], maps: &[ConfigMap]) -> Vec<String> {
        judge(sets, maps).iter().map(|row| format!("{} {}: {}", row.state, row.what, row.detail)).collect()
    }

    #[test]
    fn kubeadm() {
        let text = include_str!("../../../../tests/config/kubeadm.yaml");
        let found = lines(&[set("kube-proxy", 3)], &[map("kube-proxy", "config.conf", text)]);
        assert_eq!(found[0], "WARN kube-proxy: DaemonSet kube-system/kube-proxy runs on 3 nodes");
        assert!(
            found[1].contains("OK kube-proxy's configuration: ConfigMap kube-system/kube-proxy: mode iptables"),
            "{found:?}"
        );
        assert_eq!(found.last().map(String::as_str), Some("OK other proxies: none that is known here"));
    }

    #[test]
    fn a_configuration_that_portway_refuses_is_named_with_its_field() {
        let text =
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.0.0.0/99\n";
        let rows = judge(&[], &[map("kube-proxy-config", "config", text)]);
        let row = rows.iter().find(|row| row.state == State::Fail).expect("a failure");
        assert!(row.detail.contains("ClusterCIDR") && row.detail.contains("kube-proxy-config"), "{}", row.detail);
    }

    #[test]
    fn networks_that_serve_services() {
        let cilium = |value| lines(&[set("cilium", 2)], &[map("cilium-config", "kube-proxy-replacement", value)]);
        assert!(cilium("true").iter().any(|line| line.starts_with("FAIL other proxies: Cilium")));
        assert!(cilium("false").iter().any(|line| line.starts_with("WARN other proxies: Cilium")));
        assert!(lines(&[set("kube-router", 0)], &[]).iter().all(|line| line.starts_with("OK")));
        assert!(lines(&[set("kube-router", 1)], &[]).iter().any(|line| line.starts_with("WARN other proxies")));
    }
}
