//! Manifests for the running program: Services and their slices. A name is `NAME`, in the namespace `default`, or
//! `NAMESPACE/NAME`.

use std::fmt::Write as _;

/// The Node of [`super::node::Program`].
pub const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 'fd00::1'}]}
---
";

/// A Service with these fields of its spec, comma-separated.
pub fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{{}}}\nspec: {{{spec}}}\n---\n", identity(name))
}

/// A slice of a Service, in the Service's namespace; `rest` are all fields but the metadata.
pub fn slice(service: &str, name: &str, rest: &str) -> String {
    let (namespace, service) = service.split_once('/').unwrap_or(("default", service));
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: {namespace}, name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n{rest}\n---\n"
    )
}

/// The slice `SERVICE-1` with IPv4 endpoints at port 8080, all on one node, or on none.
pub fn ipv4_slice(service: &str, addresses: &[&str], node: Option<&str>) -> String {
    let mut endpoints = String::new();
    for address in addresses {
        let node = node.map(|node| format!(", nodeName: {node}")).unwrap_or_default();
        write!(endpoints, "{{addresses: [{address}]{node}}}, ").expect("a string takes everything");
    }
    let name = format!("{}-1", service.rsplit('/').next().unwrap_or_default());
    slice(service, &name, &format!("addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{endpoints}]"))
}

fn identity(name: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!("namespace: {namespace}, name: {name}")
}
