//! The generated cluster as an API server sends it: compact JSON with all that real objects carry, `managedFields` included.

use portway::model::{Endpoint, EndpointSlice, Service};
use serde_json::{Value, json};

const CREATED: &str = "2026-01-01T00:00:00Z";

/// A UUID's length and look; which one does not matter.
fn uid(kind: u32, n: usize) -> String {
    format!("{kind:08x}-5d4f-4c7b-9abc-{n:012x}")
}

/// The number at the end of a name.
fn number(name: &str) -> usize {
    name.split('-').filter_map(|part| part.parse().ok()).next_back().unwrap_or(0)
}

/// `core/v1` Service.
pub fn service(service: &Service, version: u64) -> Value {
    let name = service.key.name();
    let port = &service.ports[0];
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": service.key.namespace(), "uid": uid(1, number(name)),
            "resourceVersion": version.to_string(), "creationTimestamp": CREATED,
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": service.key.namespace()},
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1", "time": CREATED, "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {
                        "f:annotations": {".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}},
                        "f:labels": {".": {}, "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {}},
                    },
                    "f:spec": {
                        "f:internalTrafficPolicy": {}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                        "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                            ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
                    },
                },
            }],
        },
        "spec": {
            "ports": [{"name": &*port.name, "protocol": "TCP", "port": port.port, "targetPort": &*port.name}],
            "selector": {"app.kubernetes.io/name": name},
            "clusterIP": service.cluster_ips[0].to_string(),
            "clusterIPs": [service.cluster_ips[0].to_string()],
            "type": "ClusterIP", "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    })
}

/// `discovery.k8s.io/v1` EndpointSlice.
pub fn slice(slice: &EndpointSlice, version: u64) -> Value {
    let (namespace, service) = (slice.service.namespace(), slice.service.name());
    let owner = uid(1, number(service));
    let owner_field = format!("k:{{\"uid\":\"{owner}\"}}");
    let endpoints: Vec<Value> =
        slice.endpoints.iter().enumerate().map(|(i, one)| endpoint(one, namespace, service, i)).collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": slice.key.name(), "generateName": format!("{service}-"), "namespace": namespace,
            "uid": uid(2, number(service)), "resourceVersion": version.to_string(), "generation": 7,
            "creationTimestamp": CREATED,
            "labels": {
                "app.kubernetes.io/name": service, "app.kubernetes.io/managed-by": "Helm",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": CREATED},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": service, "uid": owner,
                "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "discovery.k8s.io/v1",
                "time": CREATED, "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                    "f:metadata": {
                        "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
                        "f:generateName": {},
                        "f:labels": {".": {}, "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {},
                            "f:endpointslice.kubernetes.io/managed-by": {}, "f:kubernetes.io/service-name": {}},
                        "f:ownerReferences": {".": {}, owner_field: {}},
                    },
                },
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": &*slice.ports[0].name, "port": slice.ports[0].port, "protocol": "TCP"}],
    })
}

fn endpoint(endpoint: &Endpoint, namespace: &str, service: &str, index: usize) -> Value {
    json!({
        "addresses": [endpoint.address.to_string()],
        "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": format!("{service}-5d4f8c7b9-x{index:04}"),
            "uid": uid(3, index)},
        "nodeName": endpoint.placement.node.as_deref(),
        "zone": "zone-a",
    })
}

/// `core/v1` Node, just what is read.
pub fn node(name: &str, version: u64) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "uid": uid(4, 0), "resourceVersion": version.to_string(), "creationTimestamp": CREATED},
        "spec": {"podCIDR": "11.0.0.0/24", "podCIDRs": ["11.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })
}
