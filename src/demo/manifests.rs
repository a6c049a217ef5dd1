//! The manifests the demonstration writes, and the folder they are in.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::http::POD_PORT;
use super::world::{NODE, NODE_IPS, POD_CIDRS, SERVICE_CIDRS, pod_ips, pod_name};

/// A fixed place only root can write to: a run that was killed is cleaned up by the next.
const HOME: &str = "/run/portway-demo";

/// The folder Portway watches; removed when dropped.
#[derive(Debug)]
pub(super) struct DemoFolder {
    path: PathBuf,
}

impl DemoFolder {
    /// Makes an empty folder.
    pub(super) fn create() -> Result<Self> {
        let this = Self { path: Path::new(HOME).join("manifests") };
        let make = || fs::DirBuilder::new().recursive(true).mode(0o755).create(&this.path);
        make().with_context(|| format!("cannot create {}", this.path.display()))?;
        Ok(this)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a file in place at once, as a careful program would, and says when.
    pub(super) fn put(&self, name: &str, text: &str) -> Result<Instant> {
        let draft = Path::new(HOME).join(name);
        let write = || {
            fs::write(&draft, text)?;
            let now = Instant::now();
            fs::rename(&draft, self.path.join(name)).map(|()| now)
        };
        write().with_context(|| format!("cannot write {name}"))
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        if let Err(cause) = remove_leftovers() {
            eprintln!("{cause:#}");
        }
    }
}

/// Removes the folder, whoever left it; says whether there was one.
pub(super) fn remove_leftovers() -> Result<bool> {
    match fs::remove_dir_all(HOME) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause).with_context(|| format!("cannot remove {HOME}")),
    }
}

/// A Service with one port, 80.
#[derive(Debug, Clone, Default)]
pub(super) struct DemoService<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its ClusterIPs, the first decides the primary family.
    pub cluster_ips: &'a [IpAddr],
    /// Its external IPs.
    pub external_ips: &'a [IpAddr],
    /// Makes it a NodePort Service.
    pub node_port: Option<u16>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
}

/// The Service as YAML.
pub(super) fn service(service: &DemoService<'_>) -> String {
    let DemoService { name, cluster_ips, external_ips, node_port, local } = service;
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    let policy = if cluster_ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let families: Vec<&str> = cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let mut lines = vec![
        "apiVersion: v1".to_owned(),
        "kind: Service".to_owned(),
        format!("metadata: {{name: {name}, namespace: default}}"),
        "spec:".to_owned(),
        format!("  type: {kind}"),
        format!("  selector: {{app: {name}}}"),
        format!("  clusterIP: {}", quoted(&cluster_ips[..1])),
        format!("  clusterIPs: [{}]", quoted(cluster_ips)),
        format!("  ipFamilies: [{}]", families.join(", ")),
        format!("  ipFamilyPolicy: {policy}"),
    ];
    if !external_ips.is_empty() {
        lines.push(format!("  externalIPs: [{}]", quoted(external_ips)));
    }
    if *local {
        lines.push("  externalTrafficPolicy: Local".to_owned());
    }
    let node_port = node_port.map(|port| format!(", nodePort: {port}")).unwrap_or_default();
    lines.push("  ports:".to_owned());
    lines.push(format!("  - {{name: http, protocol: TCP, port: 80, targetPort: {POD_PORT}{node_port}}}"));
    text(&lines)
}

/// The EndpointSlices of a Service: one of each family its ClusterIPs have, with an endpoint for each pod.
pub(super) fn slices(of: &DemoService<'_>, pods: &[usize]) -> String {
    let mut lines = Vec::new();
    for cluster_ip in of.cluster_ips {
        let (suffix, family, index) = if cluster_ip.is_ipv4() { ("v4", "IPv4", 0) } else { ("v6", "IPv6", 1) };
        let name = of.name;
        let labels = format!("labels: {{kubernetes.io/service-name: {name}}}");
        lines.extend([
            "---".to_owned(),
            "apiVersion: discovery.k8s.io/v1".to_owned(),
            "kind: EndpointSlice".to_owned(),
            format!("metadata: {{name: {name}-{suffix}, namespace: default, {labels}}}"),
            format!("addressType: {family}"),
            "ports:".to_owned(),
            format!("- {{name: http, protocol: TCP, port: {POD_PORT}}}"),
            format!("endpoints:{}", if pods.is_empty() { " []" } else { "" }),
        ]);
        for pod in pods {
            let address = quoted(&pod_ips(*pod)[index..=index]);
            let pod = pod_name(*pod);
            let conditions = "conditions: {ready: true, serving: true, terminating: false}";
            let target = format!("targetRef: {{kind: Pod, namespace: default, name: {pod}}}");
            lines.push(format!("- {{addresses: [{address}], {conditions}, nodeName: {NODE}, {target}}}"));
        }
    }
    text(&lines)
}

/// The node, and the ranges of its cluster.
pub(super) fn cluster() -> String {
    let [pods, services] = [POD_CIDRS, SERVICE_CIDRS].map(|[v4, v6]| format!("['{v4}', '{v6}']"));
    let mut lines = vec![
        "apiVersion: v1".to_owned(),
        "kind: Node".to_owned(),
        format!("metadata: {{name: {NODE}}}"),
        format!("spec: {{podCIDRs: {pods}}}"),
        "status:".to_owned(),
        "  addresses:".to_owned(),
    ];
    lines.extend(NODE_IPS.map(|ip| format!("  - {{type: InternalIP, address: '{ip}'}}")));
    lines.extend([
        "---".to_owned(),
        "apiVersion: networking.k8s.io/v1".to_owned(),
        "kind: ServiceCIDR".to_owned(),
        "metadata: {name: kubernetes}".to_owned(),
        format!("spec: {{cidrs: {services}}}"),
    ]);
    text(&lines)
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// In quotes: an IPv6 address is full of colons.
fn quoted(ips: &[IpAddr]) -> String {
    ips.iter().map(|ip| format!("'{ip}'")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1 as core;
    use k8s_openapi::api::discovery::v1 as discovery;
    use serde::Deserialize;

    fn web() -> DemoService<'static> {
        const IPS: [IpAddr; 2] = [NODE_IPS[0], NODE_IPS[1]];
        DemoService { name: "web", cluster_ips: &IPS, external_ips: &IPS[..1], node_port: Some(30080), local: true }
    }

    #[test]
    fn a_service_is_what_kubernetes_understands() {
        let parsed: core::Service = serde_yaml::from_str(&service(&web())).unwrap();
        let spec = parsed.spec.unwrap();
        assert_eq!(spec.type_.as_deref(), Some("NodePort"));
        assert_eq!(spec.cluster_ips.unwrap(), ["192.168.50.1", "fd00:192:168:50::1"]);
        assert_eq!(spec.external_traffic_policy.as_deref(), Some("Local"));
        assert_eq!(spec.ports.unwrap()[0].node_port, Some(30080));
    }

    #[test]
    fn slices_have_the_family_of_their_cluster_ip() {
        let text = slices(&web(), &[1, 3]);
        let parsed: Vec<discovery::EndpointSlice> = serde_yaml::Deserializer::from_str(&text)
            .map(|document| discovery::EndpointSlice::deserialize(document).unwrap())
            .collect();
        let addresses: Vec<_> = parsed
            .iter()
            .map(|slice| (slice.address_type.as_str(), slice.endpoints[1].addresses[0].as_str()))
            .collect();
        assert_eq!(addresses, [("IPv4", "10.244.1.13"), ("IPv6", "fd00:10:244:1::13")]);
    }

    #[test]
    fn a_service_without_endpoints_has_empty_slices() {
        let document = slices(&DemoService { cluster_ips: &NODE_IPS[..1], ..web() }, &[]);
        let parsed: discovery::EndpointSlice = serde_yaml::from_str(&document).unwrap();
        assert!(parsed.endpoints.is_empty());
    }
}
