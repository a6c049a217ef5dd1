//! Services (specification 3.1 and 3.2).

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Converted, Converter, Notes, Origin, each_once, list, names, options, special, unservable};
use crate::model::{Event, Family, Service, ServicePort, ServiceType, parse_cidr};
use crate::source::api::{self, LoadBalancerIngress, ServiceSpec};

const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

impl Converter {
    /// A Service. One without cluster IPs (headless, ExternalName) is delivered too, and never programmed; one that
    /// another proxy serves is delivered as deleted.
    pub fn service(&mut self, object: &api::Service) -> Converted {
        let key = match names("Service", &object.metadata) {
            Ok((namespace, name)) => self.interner.key(namespace, name),
            Err(left_out) => return left_out,
        };
        let metadata = &object.metadata;
        let proxy_name = metadata.labels.as_ref().and_then(|labels| labels.service_proxy_name.as_deref());
        if proxy_name != self.proxy_name.as_deref() {
            return Converted { event: Some(Event::ServiceDeleted(key)), problems: Vec::new() };
        }
        let mut notes = Notes::new("Service", Some(key.namespace()), key.name());
        let default_spec = ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default_spec);
        let service_type = service_type(spec, &mut notes);
        let cluster_ips = match service_type {
            ServiceType::ExternalName => Vec::new(),
            _ => self.cluster_ips(spec, &mut notes),
        };
        if cluster_ips.is_empty() && self.origin == Origin::Manifest && spec.cluster_ip.as_deref() == Some("None") {
            // The watch of an API server leaves these out as well.
            return Converted { problems: notes.finish(), event: Some(Event::ServiceDeleted(key)) };
        }
        let is_given = [&spec.cluster_ip].into_iter().flatten().chain(list(&spec.cluster_ips)).any(|ip| !ip.is_empty());
        if self.origin == Origin::Manifest && service_type != ServiceType::ExternalName && !is_given {
            notes.add(
                "spec.clusterIP",
                "is missing, so the Service has no address: without an API server nobody allocates one, write one",
            );
        }
        let external_policy_local =
            is_local(spec.external_traffic_policy.as_deref(), "spec.externalTrafficPolicy", &mut notes);
        let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ranges = SourceRanges::read(list(&spec.load_balancer_source_ranges), &mut notes);
        let service = Service {
            created: created(metadata.creation_timestamp.as_deref(), &mut notes),
            service_type,
            cluster_ips,
            external_ips: external_ips(list(&spec.external_ips), &mut notes),
            load_balancer_ips: load_balancer_ips(ingress.map(|l| list(&l.ingress)).unwrap_or_default(), &mut notes),
            source_ranges: ranges.good,
            bad_source_ranges: ranges.has_bad,
            external_policy_local,
            internal_policy_local: is_local(
                spec.internal_traffic_policy.as_deref(),
                "spec.internalTrafficPolicy",
                &mut notes,
            ),
            affinity_seconds: affinity(spec, &mut notes),
            health_check_node_port: if service_type == ServiceType::LoadBalancer && external_policy_local {
                self.health_check_port(spec, &mut notes)
            } else {
                None
            },
            ports: self.service_ports(spec, &mut notes),
            annotated: options::of_service(metadata.annotations.as_ref(), &mut notes),
            key: key.clone(),
        };
        Converted { problems: notes.finish(), event: Some(Event::Service(service.into())) }
    }

    fn cluster_ips(&self, spec: &ServiceSpec, notes: &mut Notes<'_>) -> Vec<IpAddr> {
        let all = list(&spec.cluster_ips);
        let mut primary = spec.cluster_ip.as_deref().unwrap_or_default();
        if primary.is_empty() && self.origin == Origin::Manifest {
            primary = all.first().map(String::as_str).unwrap_or_default();
        }
        if primary.is_empty() || primary == "None" {
            return Vec::new();
        }
        let families = list(&spec.ip_families);
        let mut found: Vec<IpAddr> = Vec::new();
        let mut take = |text: &str, field: &str, family: Option<&str>, notes: &mut Notes<'_>| {
            let Some(ip) = notes.ip(text, field) else { return };
            if family.is_some_and(|family| family != Family::of(ip).to_string()) {
                notes.add(field, format_args!("{ip} is not of the family spec.ipFamilies names; it is left out"));
            } else if let Some(what) = unservable(ip) {
                notes.add(field, format_args!("{ip} is {what}; it is left out"));
            } else if found.iter().any(|known| Family::of(*known) == Family::of(ip)) {
                notes.add(field, format_args!("{ip} is a second {} address; it is left out", Family::of(ip)));
            } else {
                found.push(ip);
            }
        };
        if all.is_empty() || (families.is_empty() && self.origin == Origin::Api) {
            take(primary, "spec.clusterIP", families.first().map(String::as_str), notes);
        } else if families.is_empty() {
            for (index, text) in all.iter().enumerate() {
                take(text, &format!("spec.clusterIPs[{index}]"), None, notes);
            }
        } else {
            for (index, (text, family)) in all.iter().zip(families).enumerate() {
                take(text, &format!("spec.clusterIPs[{index}]"), Some(family), notes);
            }
        }
        found
    }

    fn health_check_port(&self, spec: &ServiceSpec, notes: &mut Notes<'_>) -> Option<u16> {
        const FIELD: &str = "spec.healthCheckNodePort";
        match spec.health_check_node_port.unwrap_or(0) {
            // The API server always allocates one; who writes files need not.
            0 if self.origin == Origin::Manifest => None,
            0 => {
                notes.add(FIELD, "is 0 although the external policy is Local; load balancers cannot probe this node");
                None
            }
            number => notes.port(number, FIELD),
        }
    }

    fn service_ports(&mut self, spec: &ServiceSpec, notes: &mut Notes<'_>) -> Vec<ServicePort> {
        let mut ports = Vec::with_capacity(list(&spec.ports).len());
        for (index, entry) in list(&spec.ports).iter().enumerate() {
            let protocol = notes.protocol(entry.protocol.as_deref(), format_args!("spec.ports[{index}].protocol"));
            let port = notes.port(entry.port.unwrap_or(0), format_args!("spec.ports[{index}].port"));
            let (Some(protocol), Some(port)) = (protocol, port) else { continue };
            let node_port = match entry.node_port.unwrap_or(0) {
                0 => None,
                number => notes.port(number, format_args!("spec.ports[{index}].nodePort")),
            };
            let name = self.interner.string(entry.name.as_deref().unwrap_or_default());
            ports.push(ServicePort { name, protocol, port, node_port });
        }
        ports
    }
}

fn service_type(spec: &ServiceSpec, notes: &mut Notes<'_>) -> ServiceType {
    match spec.service_type.as_deref().unwrap_or_default() {
        "" | "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => {
            notes.add("spec.type", format_args!("{other:?} is not a type of Service; it is taken as ClusterIP"));
            ServiceType::ClusterIp
        }
    }
}

/// Whether a traffic policy is Local.
fn is_local(policy: Option<&str>, field: &str, notes: &mut Notes<'_>) -> bool {
    match policy.unwrap_or_default() {
        "" | "Cluster" => false,
        "Local" => true,
        other => {
            notes.add(field, format_args!("{other:?} is neither Cluster nor Local; it is taken as Cluster"));
            false
        }
    }
}

fn created(text: Option<&str>, notes: &mut Notes<'_>) -> Option<i64> {
    let text = text?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.as_second()),
        Err(_) => {
            notes.add("metadata.creationTimestamp", format_args!("{text:?} is not a time (want RFC 3339); ignored"));
            None
        }
    }
}

fn external_ips(texts: &[String], notes: &mut Notes<'_>) -> Vec<IpAddr> {
    let mut ips = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let field = format!("spec.externalIPs[{index}]");
        let Some(ip) = notes.ip(text, &field) else { continue };
        if let Some(what) = special(ip) {
            notes.add(&field, format_args!("{ip} is {what} and would capture the node's own traffic; it is left out"));
        } else {
            ips.push(ip);
        }
    }
    each_once(ips)
}

fn load_balancer_ips(ingress: &[LoadBalancerIngress], notes: &mut Notes<'_>) -> Vec<IpAddr> {
    let mut ips = Vec::with_capacity(ingress.len());
    for (index, entry) in ingress.iter().enumerate() {
        // With mode Proxy traffic of pods must really go to the load balancer (specification 5.4).
        if !matches!(entry.ip_mode.as_deref(), None | Some("VIP")) {
            continue;
        }
        let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        let field = format!("status.loadBalancer.ingress[{index}].ip");
        let Some(ip) = notes.ip(text, &field) else { continue };
        if let Some(what) = unservable(ip) {
            notes.add(&field, format_args!("{ip} is {what}; it is left out"));
        } else {
            ips.push(ip);
        }
    }
    each_once(ips)
}

/// `spec.loadBalancerSourceRanges`.
struct SourceRanges {
    good: Vec<IpNet>,
    has_bad: bool,
}

impl SourceRanges {
    /// A restriction stays one whatever its entries look like: what cannot be read lets nobody in.
    fn read(texts: &[String], notes: &mut Notes<'_>) -> Self {
        const FIELD: &str = "spec.loadBalancerSourceRanges";
        let read = |text: &String| parse_cidr(text.trim());
        let good: Vec<IpNet> = texts.iter().filter_map(|text| read(text).ok()).collect();
        let left = match good.is_empty() {
            true => "no other entry can be read, so the load balancer addresses are closed to everybody",
            false => "it lets nobody in, the other entries stay in force",
        };
        let mut has_bad = false;
        for (index, text) in texts.iter().enumerate() {
            if let Err(error) = read(text) {
                has_bad = true;
                notes.add(format_args!("{FIELD}[{index}]"), format_args!("{error}; {left}: correct the entry"));
            }
        }
        Self { good: each_once(good), has_bad }
    }
}

fn affinity(spec: &ServiceSpec, notes: &mut Notes<'_>) -> Option<u32> {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => return None,
        "ClientIP" => {}
        other => {
            notes.add("spec.sessionAffinity", format_args!("{other:?} is neither None nor ClientIP; taken as None"));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|config| config.timeout_seconds) else { return Some(DEFAULT_AFFINITY_SECONDS) };
    match u32::try_from(seconds) {
        Ok(in_bounds) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Some(in_bounds),
        _ => {
            notes.add(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format_args!("{seconds} is not within 1 to 86400; the default {DEFAULT_AFFINITY_SECONDS} is used"),
            );
            Some(DEFAULT_AFFINITY_SECONDS)
        }
    }
}
