//! From API objects to the model, by the rules of the specification, section 3.
//!
//! Nothing here fails: what cannot be used is left out and reported as a [`Problem`].

mod options;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::api::{self, ApiObject, Metadata};
use super::intern::Interner;
use super::problem::{Problem, Subject};
use crate::model::{Event, Family, Node, ObjectKey, Protocol, ServiceCidr, parse_cidr, parse_ip};

/// The label with a Node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The most faults of one object that are reported; it may have thousands.
const FAULTS_MAX: usize = 20;
/// Messages up to this many bytes are reported in full; of longer ones the beginning and the end.
const MESSAGE_MAX: usize = 400;
const MESSAGE_BEGIN: usize = 200;
const MESSAGE_END: usize = 150;
/// The longest name Kubernetes knows.
const NAME_MAX: usize = 253;

/// The taint the cluster autoscaler puts on a node it is about to remove.
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Where objects come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An API server, which fills in defaults.
    Api,
    /// Files written by people: defaults are not filled in, so absent means the API's default.
    Manifest,
}

/// The outcome for one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The object, or its deletion if it is not to be programmed; absent if it cannot be named or does not concern us.
    pub event: Option<Event>,
    /// What was left out of it.
    pub problems: Vec<Problem>,
}

/// A kind that has a place in the model.
pub(super) trait Convert: ApiObject {
    /// The object as an event.
    fn convert(&self, converter: &mut Converter) -> Converted;
    /// The event for the deletion of the object of this name.
    fn deleted(key: ObjectKey) -> Event;
}

impl Convert for api::Service {
    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.service(self)
    }

    fn deleted(key: ObjectKey) -> Event {
        Event::ServiceDeleted(key)
    }
}

impl Convert for api::EndpointSlice {
    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.slice(self)
    }

    fn deleted(key: ObjectKey) -> Event {
        Event::SliceDeleted(key)
    }
}

impl Convert for api::Node {
    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.node(self)
    }

    fn deleted(_: ObjectKey) -> Event {
        Event::NodeDeleted
    }
}

impl Convert for api::NodeAddresses {
    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.node_addresses(&self.metadata, self.status.as_ref())
    }

    fn deleted(key: ObjectKey) -> Event {
        Event::NodeAddressesDeleted(key.name().into())
    }
}

impl Convert for api::ServiceCidr {
    fn convert(&self, converter: &mut Converter) -> Converted {
        converter.service_cidr(self)
    }

    fn deleted(key: ObjectKey) -> Event {
        Event::ServiceCidrDeleted(key.name().into())
    }
}

/// Converts objects; keeps one copy of repeated strings.
#[derive(Debug)]
pub struct Converter {
    origin: Origin,
    node_name: Arc<str>,
    proxy_name: Option<Arc<str>>,
    all_nodes: bool,
    interner: Interner,
}

impl Converter {
    /// A converter for objects of this origin, on the node of this name.
    pub fn new(origin: Origin, node_name: impl Into<Arc<str>>) -> Self {
        Self { origin, node_name: node_name.into(), proxy_name: None, all_nodes: false, interner: Interner::default() }
    }

    /// Takes the Services with this label `service.kubernetes.io/service-proxy-name`; `None`: those without it.
    #[must_use]
    pub fn serving(mut self, proxy_name: Option<Arc<str>>) -> Self {
        self.proxy_name = proxy_name;
        self
    }

    /// Takes addresses of all nodes, too.
    #[must_use]
    pub fn with_all_nodes(mut self, all_nodes: bool) -> Self {
        self.all_nodes = all_nodes;
        self
    }

    /// Whether addresses of all nodes are wanted.
    pub(super) fn wants_all_nodes(&self) -> bool {
        self.all_nodes
    }

    /// The name of the Node that counts.
    pub(super) fn node_name(&self) -> &str {
        &self.node_name
    }

    /// A Node: only the one this proxy runs on counts.
    pub fn node(&mut self, object: &api::Node) -> Converted {
        let metadata = &object.metadata.common;
        if metadata.name.as_deref() != Some(&*self.node_name) {
            return Converted { event: None, problems: Vec::new() };
        }
        let mut notes = Notes::new("Node", None, &self.node_name);
        let spec = object.spec.as_ref();
        let pod_cidrs = match spec.map(|spec| list(&spec.pod_cidrs)).unwrap_or_default() {
            [] => cidrs(spec.and_then(|spec| spec.pod_cidr.as_ref()), &mut notes, "spec.podCIDR"),
            many => cidrs(many, &mut notes, "spec.podCIDRs"),
        };
        let label = |(key, value): (&String, &Option<String>)| -> (Arc<str>, Arc<str>) {
            (key.as_str().into(), value.as_deref().unwrap_or_default().into())
        };
        let labels: BTreeMap<Arc<str>, Arc<str>> = object.metadata.labels.iter().flatten().map(label).collect();
        let taints = spec.map(|spec| list(&spec.taints)).unwrap_or_default();
        let (ips, internal_ips) = node_ips(object, &mut notes);
        let node = Node {
            name: self.node_name.clone(),
            ips,
            internal_ips,
            zone: labels.get(ZONE).cloned().unwrap_or_default(),
            labels: labels.into(),
            pod_cidrs,
            deleting: metadata.deletion_timestamp.0
                || taints.iter().any(|taint| taint.key.as_deref() == Some(AUTOSCALER_TAINT)),
        };
        Converted { event: Some(Event::Node(Box::new(node))), problems: notes.finish() }
    }

    /// The addresses of any Node. What is wrong with them its own proxy reports.
    pub fn node_addresses(&mut self, metadata: &Metadata, status: Option<&api::NodeStatus>) -> Converted {
        let name = match name("Node", "metadata.name", metadata.name.as_deref()) {
            Ok(name) => self.interner.string(name),
            Err(left_out) => return left_out,
        };
        let entries = status.map(|status| list(&status.addresses)).unwrap_or_default().iter();
        let internal = entries.filter(|entry| entry.address_type.as_deref() == Some("InternalIP"));
        let ips = internal.filter_map(|entry| parse_ip(entry.address.as_deref()?).ok()).collect();
        Converted { event: Some(Event::NodeAddresses(name, ips)), problems: Vec::new() }
    }

    /// A ServiceCIDR.
    pub fn service_cidr(&mut self, object: &api::ServiceCidr) -> Converted {
        let name = match name("ServiceCIDR", "metadata.name", object.metadata.name.as_deref()) {
            Ok(name) => name,
            Err(left_out) => return left_out,
        };
        let mut notes = Notes::new("ServiceCIDR", None, name);
        let ranges = object.spec.as_ref().map(|spec| list(&spec.cidrs)).unwrap_or_default();
        let cidrs = cidrs(ranges, &mut notes, "spec.cidrs");
        let event = Event::ServiceCidr(ServiceCidr { name: self.interner.string(name), cidrs });
        Converted { event: Some(event), problems: notes.finish() }
    }
}

/// Namespace and name; a manifest without a namespace means `default`.
fn names<'m>(kind: &str, metadata: &'m Metadata) -> Result<(&'m str, &'m str), Converted> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let namespace = name(kind, "metadata.namespace", Some(namespace))?;
    Ok((namespace, name(kind, "metadata.name", metadata.name.as_deref())?))
}

/// A nullable list as a slice.
fn list<T>(values: &Option<Vec<T>>) -> &[T] {
    values.as_deref().unwrap_or_default()
}

/// A name that can stand in logs, comments and on a terminal. An API server lets no other one through.
fn name<'n>(kind: &str, field: &str, name: Option<&'n str>) -> Result<&'n str, Converted> {
    let name = name.unwrap_or_default();
    let message = if name.is_empty() {
        "is missing; the object is left out, give it a name".to_owned()
    } else if name.len() > NAME_MAX {
        format!("has {} bytes, more than {NAME_MAX}; the object is left out", name.len())
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
        format!("{name:?} has a slash, a blank or a character outside of ASCII; the object is left out")
    } else {
        return Ok(name);
    };
    let problem = Problem::of(Subject::new(kind, "", ""), field, message);
    Err(Converted { event: None, problems: vec![problem] })
}

/// Collects the problems of one object.
struct Notes<'a> {
    kind: &'static str,
    namespace: Option<&'a str>,
    name: &'a str,
    problems: Vec<Problem>,
    /// Faults beyond [`FAULTS_MAX`].
    more: usize,
}

impl<'a> Notes<'a> {
    fn new(kind: &'static str, namespace: Option<&'a str>, name: &'a str) -> Self {
        Self { kind, namespace, name, problems: Vec::new(), more: 0 }
    }

    fn add(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        if self.problems.len() == FAULTS_MAX {
            self.more += 1;
            return;
        }
        self.push(field.to_string(), shortened(message.to_string()));
    }

    fn push(&mut self, field: String, message: String) {
        let subject = Subject::new(self.kind, self.namespace.unwrap_or_default(), self.name);
        self.problems.push(Problem::of(subject, field, message));
    }

    /// All that was noted.
    fn finish(mut self) -> Vec<Problem> {
        if self.more > 0 {
            self.push(String::new(), format!("has {} more faults", self.more));
        }
        self.problems
    }

    /// An address, or a note that it is left out.
    fn ip(&mut self, text: &str, field: impl fmt::Display) -> Option<IpAddr> {
        parse_ip(text).map_err(|error| self.add(field, format_args!("{error}; it is left out"))).ok()
    }

    /// A port number, or a note; absent and 0 are for the caller to judge.
    fn port(&mut self, number: i64, field: impl fmt::Display) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.add(field, format_args!("{number} is not a port number (want 1 to 65535); it is left out"));
        }
        port
    }

    /// A protocol, TCP when absent.
    fn protocol(&mut self, text: Option<&str>, field: impl fmt::Display) -> Option<Protocol> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(Protocol::Tcp) };
        let protocol = Protocol::parse(text);
        if protocol.is_none() {
            self.add(field, format_args!("{text:?} is not TCP, UDP or SCTP; the port is left out"));
        }
        protocol
    }
}

/// Messages quote what users wrote, which can be a megabyte.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let at_or_behind = |at| (at..message.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(message.len());
        let cut = at_or_behind(MESSAGE_BEGIN)..at_or_behind(message.len() - MESSAGE_END);
        message.replace_range(cut, " ... ");
    }
    message
}

/// Parses CIDRs, leaving bad ones out; each once.
fn cidrs<'t>(texts: impl IntoIterator<Item = &'t String>, notes: &mut Notes<'_>, field: &str) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match parse_cidr(text.trim()) {
            Ok(net) => nets.push(net),
            Err(error) => notes.add(format_args!("{field}[{index}]"), format_args!("{error}; it is left out")),
        }
    }
    each_once(nets)
}

/// The first of each, in the order they have. There can be thousands.
fn each_once<T: Copy + Eq + Hash>(mut list: Vec<T>) -> Vec<T> {
    let mut known = HashSet::with_capacity(list.len());
    list.retain(|item| known.insert(*item));
    list
}

/// Specification 2.3: InternalIPs in order, then ExternalIPs; the first, and the first one of the other family. And all
/// InternalIPs.
fn node_ips(object: &api::Node, notes: &mut Notes<'_>) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let addresses = object.status.as_ref().map(|status| list(&status.addresses)).unwrap_or_default();
    let mut of_type = |wanted: &str| -> Vec<IpAddr> {
        let entries = addresses.iter().enumerate().filter(|(_, entry)| entry.address_type.as_deref() == Some(wanted));
        let ip = |(index, entry): (usize, &api::NodeAddress)| {
            notes.ip(entry.address.as_deref().unwrap_or_default(), format_args!("status.addresses[{index}].address"))
        };
        entries.filter_map(ip).collect()
    };
    let (internal, external) = (of_type("InternalIP"), of_type("ExternalIP"));
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in internal.iter().chain(&external) {
        if !ips.iter().any(|known| Family::of(*known) == Family::of(*ip)) {
            ips.push(*ip);
        }
    }
    (ips, internal)
}

/// Why no Service can have an address: it is not the address of one host.
fn unservable(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if ip == Ipv4Addr::BROADCAST {
        Some("the broadcast address")
    } else {
        None
    }
}

/// Why an address that users choose freely cannot be used: it would let them reach into the node or its link
/// (CVE-2020-8558, CVE-2021-25740), or take the cloud's metadata service over (CVE-2020-8554).
fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    unservable(ip).or(link_local.then_some("a link-local address"))
}
