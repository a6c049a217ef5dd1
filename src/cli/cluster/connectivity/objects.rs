//! What a test needs in the cluster: a namespace, two pods on each node, and Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::cluster::objects::Metadata;
use crate::cli::probe;

/// The label by which the namespaces of tests are found.
pub(super) const LABEL: &str = "portway.io/test";
/// On a namespace: which run has made it. Not among the labels, as it may have any characters.
pub(super) const RUNNER: &str = "portway.io/test-runner";
/// The label with a pod's part, and the one with its node's number.
const ROLE: &str = "portway.io/test-role";
const NODE: &str = "portway.io/test-node";
/// The port of the servers, and that of the Services.
const SERVER_PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
/// The container in all pods.
pub(super) const CONTAINER: &str = "test";

/// The pods' account, which may do nothing.
const ACCOUNT: &str = "test";

/// The Services, but those of one node each.
pub(super) const ALL: &str = "all";
pub(super) const LOCAL: &str = "local";
pub(super) const STICKY: &str = "sticky";
pub(super) const EMPTY: &str = "empty";
pub(super) const NODE_PORT: &str = "node-port";
pub(super) const NODE_PORT_LOCAL: &str = "node-port-local";
/// Has its only endpoint on the first node, and sends nobody elsewhere.
pub(super) const FIRST_LOCAL: &str = "first-local";

/// The pod on the pod network.
pub(super) fn server(node: usize) -> String {
    format!("server-{node}")
}

/// The pod on the node's own network.
pub(super) fn host(node: usize) -> String {
    format!("host-{node}")
}

/// The Service that leads to the server of this node.
pub(super) fn to_node(node: usize) -> String {
    format!("to-{node}")
}

/// The namespace; `runner` says who has made it.
pub(super) fn namespace(name: &str, runner: &str) -> Value {
    let mut labels = json!({LABEL: "true", "istio-injection": "disabled"});
    // Pods on the node's network are not for stricter levels; they ask for nothing else.
    for mode in ["enforce", "warn", "audit"] {
        labels[format!("pod-security.kubernetes.io/{mode}")] = json!("privileged");
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels,
        "annotations": {RUNNER: runner, "linkerd.io/inject": "disabled"}}})
}

/// How the pods are made.
#[derive(Debug, Clone)]
pub(super) struct PodTemplate {
    pub(super) image: String,
    pub(super) pull_policy: String,
}

/// All pods and Services for these nodes.
pub(super) fn list(nodes: &[String], template: &PodTemplate) -> Value {
    let pods = nodes.iter().enumerate().flat_map(|(at, node)| {
        [pod(&server(at), "server", at, node, template), pod(&host(at), "host", at, node, template)]
    });
    let services =
        services().into_iter().chain((0..nodes.len()).map(|at| service(&to_node(at), &of_node(at), json!({}))));
    // That of the namespace is made a moment after it, and pods are refused until then.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT},
        "automountServiceAccountToken": false});
    let items: Vec<Value> = std::iter::once(account).chain(services).chain(pods).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn pod(name: &str, role: &str, at: usize, node: &str, template: &PodTemplate) -> Value {
    let is_server = role == "server";
    let mut container = json!({
        "name": CONTAINER, "image": template.image, "imagePullPolicy": template.pull_policy,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}},
    });
    if is_server {
        let port = SERVER_PORT.to_string();
        container["args"] = json!([probe::COMMAND, "serve", "--port", port, "--name", name]);
        container["ports"] = json!([{"containerPort": SERVER_PORT, "protocol": "TCP"},
            {"containerPort": SERVER_PORT, "protocol": "UDP"}]);
        container["readinessProbe"] =
            json!({"tcpSocket": {"port": SERVER_PORT}, "periodSeconds": 1, "timeoutSeconds": 3});
    } else {
        container["args"] = json!([probe::COMMAND, "wait"]);
    }
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": name, "labels": {ROLE: role, NODE: at.to_string()}},
    "spec": {
        "containers": [container],
        "hostNetwork": !is_server,
        "dnsPolicy": if is_server { "ClusterFirst" } else { "ClusterFirstWithHostNet" },
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [field]}]}}},
        "tolerations": [{"operator": "Exists"}],
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"}},
    }})
}

fn of_node(at: usize) -> Value {
    json!({ROLE: "server", NODE: at.to_string()})
}

fn services() -> Vec<Value> {
    let servers = json!({ROLE: "server"});
    vec![
        service(ALL, &servers, json!({})),
        service(LOCAL, &servers, json!({"internalTrafficPolicy": "Local"})),
        service(STICKY, &servers, json!({"sessionAffinity": "ClientIP"})),
        service(EMPTY, &json!({ROLE: "nobody"}), json!({})),
        service(NODE_PORT, &servers, json!({"type": "NodePort"})),
        service(NODE_PORT_LOCAL, &servers, json!({"type": "NodePort", "externalTrafficPolicy": "Local"})),
        service(
            FIRST_LOCAL,
            &of_node(0),
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}),
        ),
    ]
}

fn service(name: &str, selector: &Value, more: Value) -> Value {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": SERVICE_PORT, "targetPort": SERVER_PORT});
    let mut spec =
        json!({"selector": selector, "ipFamilyPolicy": "PreferDualStack", "ports": [port("TCP"), port("UDP")]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// A Service as the API server has made it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    protocol: String,
    node_port: u16,
}

/// Where a Service is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) cluster_ips: Vec<IpAddr>,
    /// By protocol, in capital letters.
    pub(super) node_ports: BTreeMap<String, u16>,
}

impl From<&Service> for Reached {
    fn from(service: &Service) -> Self {
        let ports = service.spec.ports.iter().filter(|port| port.node_port != 0);
        Self {
            cluster_ips: service.spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            node_ports: ports.map(|port| (port.protocol.clone(), port.node_port)).collect(),
        }
    }
}

/// The port of the Services.
pub(super) const fn service_port() -> u16 {
    SERVICE_PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Pod Security level `restricted`, but for the node's network.
    #[test]
    fn pods_ask_for_nothing() {
        let template = PodTemplate { image: "example/portway:1".to_owned(), pull_policy: "IfNotPresent".to_owned() };
        let list = list(&["a".to_owned(), "b".to_owned()], &template);
        let items = list["items"].as_array().expect("items");
        let pods: Vec<&Value> = items.iter().filter(|item| item["kind"] == "Pod").collect();
        assert_eq!(pods.len(), 4);
        for pod in pods {
            let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
            assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
            assert_eq!(spec["tolerations"][0], json!({"operator": "Exists"}));
            assert_eq!(container["image"], "example/portway:1");
            assert!(container["resources"]["requests"]["memory"].is_string());
        }
        let host = items.iter().find(|item| item["metadata"]["name"] == "host-1").expect("a pod");
        assert_eq!(host["spec"]["hostNetwork"], true);
        assert!(host.to_string().contains("\"values\":[\"b\"]"));
    }

    #[test]
    fn every_service_has_both_protocols_and_families() {
        let template = PodTemplate { image: String::new(), pull_policy: String::new() };
        let list = list(&["a".to_owned()], &template);
        let services = list["items"].as_array().expect("items").iter().filter(|item| item["kind"] == "Service");
        let services: Vec<&Value> = services.collect();
        assert_eq!(services.len(), 8);
        for service in services {
            assert_eq!(service["spec"]["ports"].as_array().expect("ports").len(), 2);
            assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
        }
    }
}
