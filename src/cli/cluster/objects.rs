//! What is read of Kubernetes' objects here: a few fields of each, whatever else they have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

/// A list, as `kubectl get -o json` prints it.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
}

/// What every object has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) deletion_timestamp: Option<String>,
}

/// A Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    pub(super) status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeStatus {
    addresses: Vec<NodeAddress>,
    pub(super) node_info: NodeInfo,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

/// What the kubelet says of its host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeInfo {
    pub(super) kernel_version: String,
    pub(super) operating_system: String,
    pub(super) architecture: String,
    pub(super) kubelet_version: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    message: String,
}

fn holds(conditions: &[Condition], name: &str) -> bool {
    conditions.iter().any(|condition| condition.r#type == name && condition.status == "True")
}

impl Node {
    pub(super) fn is_linux(&self) -> bool {
        ["", "linux"].contains(&self.status.node_info.operating_system.as_str())
    }

    pub(super) fn is_ready(&self) -> bool {
        holds(&self.status.conditions, "Ready")
    }

    /// All addresses, of any type.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.status.addresses.iter().filter_map(|address| address.address.parse().ok())
    }

    /// What answers NodePorts: the first InternalIP of each family.
    pub(super) fn internal_ips(&self) -> Vec<IpAddr> {
        let internal = self.status.addresses.iter().filter(|address| address.r#type == "InternalIP");
        first_of_families(internal.filter_map(|address| address.address.parse().ok()))
    }
}

/// The first address of each family.
pub(super) fn first_of_families(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in ips {
        if found.iter().all(|other| other.is_ipv4() != ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found
}

/// A Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: String,
    pub(super) host_network: bool,
    containers: Vec<ContainerSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerSpec {
    name: String,
    image: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    phase: String,
    reason: String,
    message: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    running: Option<serde::de::IgnoredAny>,
    waiting: Option<Reason>,
    terminated: Option<Reason>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
    message: String,
}

impl Pod {
    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// The image of this container, or else of the first.
    pub(super) fn image(&self, container: &str) -> Option<&str> {
        let containers = &self.spec.containers;
        let named = containers.iter().find(|spec| spec.name == container).or(containers.first());
        named.map(|spec| spec.image.as_str()).filter(|image| !image.is_empty())
    }

    pub(super) fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none() && holds(&self.status.conditions, "Ready")
    }

    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.status.pod_ips.iter().filter_map(|pod| pod.ip.parse().ok())
    }

    /// Whether a program can be run in it.
    pub(super) fn is_running(&self) -> bool {
        self.status.container_statuses.iter().any(|status| status.state.running.is_some())
    }

    /// Why it is not running, as far as the pod says.
    pub(super) fn trouble(&self) -> String {
        let statuses = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        let reasons = statuses.filter_map(|status| status.state.waiting.as_ref().or(status.state.terminated.as_ref()));
        // An init container that has completed is no trouble.
        let of_container =
            reasons.filter(|reason| reason.reason != "Completed").max_by_key(|reason| reason.message.len());
        let unscheduled = self
            .status
            .conditions
            .iter()
            .find(|condition| condition.r#type == "PodScheduled" && condition.status == "False");
        let (reason, message) = match (of_container, unscheduled) {
            (Some(found), _) => (found.reason.as_str(), found.message.as_str()),
            (None, Some(condition)) => ("not scheduled", condition.message.as_str()),
            (None, None) => (self.status.reason.as_str(), self.status.message.as_str()),
        };
        let parts = [self.status.phase.as_str(), reason, message];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    /// Whether it waits for an image that cannot be had.
    pub(super) fn lacks_image(&self) -> bool {
        const REASONS: [&str; 4] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
        let waiting = self.status.container_statuses.iter().filter_map(|status| status.state.waiting.as_ref());
        waiting.into_iter().any(|reason| REASONS.contains(&reason.reason.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_says_what_it_lacks() {
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": status}))
                .expect("a pod")
        };
        let waiting = json!({"phase": "Pending", "containerStatuses": [
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]});
        let waiting = pod(waiting);
        assert_eq!(waiting.trouble(), "Pending: ErrImagePull: not found");
        assert!(waiting.lacks_image() && !waiting.is_running());
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]});
        assert_eq!(pod(unscheduled).trouble(), "Pending: not scheduled: 0/3 nodes are available");
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
        assert_eq!(pod(evicted).trouble(), "Failed: Evicted: low on memory");
        let running = json!({"phase": "Running", "initContainerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}],
            "containerStatuses": [{"state": {"running": {"startedAt": "2026-11-30T10:00:00Z"}}}],
            "conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]});
        let running = pod(running);
        assert!(running.is_running() && running.is_ready() && !running.lacks_image());
        assert_eq!(running.ips().count(), 2);
    }

    #[test]
    fn a_node_answers_on_one_address_of_each_family() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"addresses": [
            {"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "10.9.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
            {"type": "ExternalIP", "address": "203.0.113.1"}]}}))
        .expect("a Node");
        assert_eq!(node.internal_ips(), [IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().expect("an address")]);
        assert_eq!(node.ips().count(), 4);
        assert!(node.is_linux() && !node.is_ready());
    }
}
