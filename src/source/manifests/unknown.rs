//! Fields that no object of a kind has: spelling mistakes, which an API server would refuse.

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::locate::PathStep;

/// As many as are told of one object.
const FIELDS_MAX: usize = 10;

/// The paths of the fields of an object of this kind that Kubernetes does not know. Nothing where a value is of a wrong type:
/// who reads it says so.
pub(super) fn fields(kind: &str, object: &Value) -> Vec<Vec<PathStep>> {
    let typed = match kind {
        "Service" => rewritten::<Service>(object),
        "EndpointSlice" => rewritten::<EndpointSlice>(object),
        "Node" => rewritten::<Node>(object),
        "ServiceCIDR" => rewritten::<ServiceCIDR>(object),
        _ => None,
    };
    let mut found = Vec::new();
    if let Some(typed) = typed {
        compare(object, &typed, &mut Vec::new(), &mut found);
    }
    found
}

/// What is left of an object whose type has all fields there are.
fn rewritten<T: DeserializeOwned + Serialize>(object: &Value) -> Option<Value> {
    serde_yaml::to_value(serde_yaml::from_value::<T>(object.clone()).ok()?).ok()
}

fn compare(object: &Value, typed: &Value, path: &mut Vec<PathStep>, found: &mut Vec<Vec<PathStep>>) {
    match (object, typed) {
        (Value::Mapping(object), Value::Mapping(typed)) => {
            for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
                let Some(name) = key.as_str().filter(|_| found.len() < FIELDS_MAX) else { continue };
                path.push(PathStep::Key(name.to_owned()));
                match typed.get(name) {
                    Some(known) => compare(value, known, path, found),
                    None => found.push(path.clone()),
                }
                path.pop();
            }
        }
        (Value::Sequence(object), Value::Sequence(typed)) => {
            for (index, (value, known)) in object.iter().zip(typed).enumerate() {
                path.push(PathStep::Index(index));
                compare(value, known, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(kind: &str, text: &str) -> Vec<String> {
        let value: Value = serde_yaml::from_str(text).expect("test YAML");
        fields(kind, &value).iter().map(|path| PathStep::join(path)).collect()
    }

    #[test]
    fn misspelt_fields_are_found_and_all_others_are_known() {
        let service =
            "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {x: y}, annotations: {}, lables: {}},
            spec: {clusterIp: 10.0.0.1, clusterIP: 10.0.0.1, selector: {app: a}, trafficDistribution: PreferClose,
                   ports: [{port: 80, targetPort: web, node_port: 30000}, {port: 81, appProtocol: http}]},
            status: {loadBalancer: {}}}";
        assert_eq!(unknown("Service", service), ["metadata.lables", "spec.clusterIp", "spec.ports[0].node_port"]);
        let slice =
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, creationTimestamp: null},
            addressType: IPv4, ports: [{port: 80, name: '', protocol: TCP}],
            endpoints: [{addresses: [10.1.0.1], conditions: {ready: true, serving: true, terminating: false}, zone: za,
                         nodename: n1, hints: {forZones: [{name: za}], forNodes: [{name: n1}]},
                         targetRef: {kind: Pod, name: p, uid: u, namespace: d}}]}";
        assert_eq!(unknown("EndpointSlice", slice), ["endpoints[0].nodename"]);
        let node = "{apiVersion: v1, kind: Node, metadata: {name: a, creationTimestamp: '2026-01-01T00:00:00Z'},
            spec: {podCIDRs: [10.1.0.0/24], podCidr: x, taints: [{key: a, effect: NoSchedule}]},
            status: {addresses: [{type: InternalIP, address: 10.0.0.1}], capacity: {cpu: 4, memory: 1Gi}}}";
        assert_eq!(unknown("Node", node), ["spec.podCidr"]);
        let cidr = "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, spec: {cidr: [x]}}";
        assert_eq!(unknown("ServiceCIDR", cidr), ["spec.cidr"]);
        assert_eq!(unknown("Service", "{apiVersion: v1, kind: Service, spec: {ports: 5, x: 1}}"), [""; 0], "not read");
    }
}
