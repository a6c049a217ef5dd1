//! The Kubernetes objects of a scenario: which are in force, and the few facts that the runner itself needs from them.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_yaml::Value;

use super::corpus::Scenario;
use super::packets::Protocol;

/// The objects in force.
#[derive(Debug, Default)]
pub struct Objects(Vec<Value>);

impl Objects {
    /// The objects that exist before the first phase: the Node and the service ranges.
    pub fn of_cluster(scenario: &Scenario) -> Result<Self> {
        let mut objects = Self::default();
        objects.apply(node_object(scenario)?)?;
        for (index, cidrs) in one_range_per_family(&scenario.service_cidrs.0).into_iter().enumerate() {
            let name = if index == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{index}") };
            objects.apply(to_value(&serde_json::json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": { "name": name }, "spec": { "cidrs": cidrs },
            }))?)?;
        }
        Ok(objects)
    }

    /// Creates or replaces an object.
    pub fn apply(&mut self, object: Value) -> Result<()> {
        let identity = identity(&object).context("an object without kind or metadata.name")?;
        match self.0.iter_mut().find(|known| self::identity(known).as_ref() == Some(&identity)) {
            Some(known) => *known = object,
            None => self.0.push(object),
        }
        Ok(())
    }

    /// Removes the object called `Kind/namespace/name`, or `Kind/name` for those without a namespace.
    pub fn delete(&mut self, called: &str) -> Result<()> {
        let parts: Vec<&str> = called.split('/').collect();
        let wanted = match parts[..] {
            [kind, namespace, name] => (kind, namespace, name),
            [kind, name] => (kind, "", name),
            _ => bail!("`{called}` is not Kind/namespace/name"),
        };
        let before = self.0.len();
        self.0.retain(|object| identity(object) != Some((wanted.0.into(), wanted.1.into(), wanted.2.into())));
        if self.0.len() == before {
            bail!("there is no `{called}` to delete");
        }
        Ok(())
    }

    /// All objects as one YAML file of many documents.
    pub fn to_yaml(&self) -> Result<String> {
        let documents: Result<Vec<String>, _> = self.0.iter().map(serde_yaml::to_string).collect();
        Ok(documents.context("cannot write an object as YAML")?.join("---\n"))
    }

    /// Whether a Service with ClientIP affinity may answer on this port.
    pub fn has_affinity(&self, protocol: Protocol, port: u16) -> bool {
        let answers = |entry: &Value| {
            let name = entry.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            let is_port = |key: &str| entry.get(key).and_then(Value::as_u64) == Some(u64::from(port));
            Protocol::from_name(name) == Some(protocol) && (is_port("port") || is_port("nodePort"))
        };
        let sticky = self.services().filter(|service| text(service, "/spec/sessionAffinity") == Some("ClientIP"));
        sticky.flat_map(|service| list(service, "/spec/ports")).any(answers)
    }

    /// Whether an address is an external or load balancer address of a Service.
    pub fn is_vip(&self, address: IpAddr) -> bool {
        let is_it = |written: Option<&str>| written.and_then(lenient_ip) == Some(address);
        self.services().any(|service| {
            list(service, "/spec/externalIPs").any(|ip| is_it(ip.as_str()))
                || list(service, "/status/loadBalancer/ingress").any(|ingress| is_it(text(ingress, "/ip")))
        })
    }

    /// The health check port of the Service called `namespace/name` and whether it is an IPv6 Service in the first place.
    pub fn health_check_port(&self, called: &str) -> Option<(u16, bool)> {
        let (namespace, name) = called.split_once('/')?;
        let service =
            self.services().find(|service| identity(service).is_some_and(|it| it.1 == namespace && it.2 == name))?;
        let port = at(service, "/spec/healthCheckNodePort")?.as_u64()?;
        let ipv6 = list(service, "/spec/ipFamilies").next().and_then(Value::as_str) == Some("IPv6");
        Some((u16::try_from(port).ok()?, ipv6))
    }

    fn services(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|object| text(object, "/kind") == Some("Service"))
    }
}

/// The addresses of endpoints on the scenario's own node, over all its phases.
pub fn local_endpoints(scenario: &Scenario) -> Vec<IpAddr> {
    let objects = scenario.phases.iter().flat_map(|phase| &phase.apply);
    let here = |endpoint: &&Value| text(endpoint, "/nodeName") == Some(&scenario.node.name);
    let endpoints = objects.flat_map(|object| list(object, "/endpoints")).filter(here);
    let addresses = endpoints.flat_map(|endpoint| list(endpoint, "/addresses"));
    addresses.filter_map(|address| lenient_ip(address.as_str()?)).collect()
}

/// Reads an address as the proxy must: zero-padded decimals are decimals.
fn lenient_ip(text: &str) -> Option<IpAddr> {
    let octets: Option<Vec<u8>> = text.split('.').map(|octet| octet.parse().ok()).collect();
    match octets.and_then(|octets| <[u8; 4]>::try_from(octets).ok()) {
        Some(octets) => Some(IpAddr::from(octets)),
        None => text.parse().ok(),
    }
}

fn node_object(scenario: &Scenario) -> Result<Value> {
    let node = &scenario.node;
    let mut labels = serde_json::to_value(&node.labels).context("labels of the node")?;
    labels["kubernetes.io/hostname"] = node.name.clone().into();
    if let Some(zone) = &node.zone {
        labels["topology.kubernetes.io/zone"] = zone.clone().into();
    }
    let mut addresses: Vec<_> =
        node.node_ips.iter().map(|ip| serde_json::json!({ "type": "InternalIP", "address": ip })).collect();
    addresses.push(serde_json::json!({ "type": "Hostname", "address": node.name }));
    let mut object = serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name, "labels": labels },
        "spec": {}, "status": { "addresses": addresses },
    });
    let pod_cidrs = [&node.pod_cidrs.0, &scenario.config.pod_cidrs.0].into_iter().find(|cidrs| !cidrs.is_empty());
    if let Some(pod_cidrs) = pod_cidrs {
        object["spec"] = serde_json::json!({ "podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs });
    }
    to_value(&object)
}

/// A ServiceCIDR object holds at most one range of each family.
fn one_range_per_family(cidrs: &[String]) -> Vec<Vec<&String>> {
    let mut groups: Vec<Vec<&String>> = Vec::new();
    for cidr in cidrs {
        let fits = |group: &&mut Vec<&String>| group.iter().all(|other| other.contains(':') != cidr.contains(':'));
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(cidr),
            None => groups.push(vec![cidr]),
        }
    }
    groups
}

fn to_value(object: &serde_json::Value) -> Result<Value> {
    serde_yaml::to_value(object).context("an object of the runner's own")
}

fn identity(object: &Value) -> Option<(String, String, String)> {
    let namespace = text(object, "/metadata/namespace").unwrap_or_default();
    Some((text(object, "/kind")?.into(), namespace.into(), text(object, "/metadata/name")?.into()))
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').skip(1).try_fold(value, |value, key| value.get(key))
}

fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    at(value, path).and_then(Value::as_str)
}

fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    at(value, path).and_then(Value::as_sequence).into_iter().flatten()
}
