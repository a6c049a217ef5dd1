//! EndpointSlices (specification 3.4).

use std::time::SystemTime;

use super::{Converted, Converter, Notes, Origin, list, names, options, special};
use crate::model::{Endpoint, EndpointSlice, Event, Family, ObjectKey, SlicePort};
use crate::source::api::{self, Hint};

impl Converter {
    /// An EndpointSlice. One that cannot be used (no Service, FQDN, headless) is delivered as deleted.
    pub fn slice(&mut self, object: &api::EndpointSlice) -> Converted {
        let key = match names("EndpointSlice", &object.metadata) {
            Ok((namespace, name)) => ObjectKey::new(namespace, name),
            Err(left_out) => return left_out,
        };
        let mut notes = Notes::new("EndpointSlice", Some(key.namespace()), key.name());
        let slice = self.usable_slice(object, &key, &mut notes);
        let problems = notes.finish();
        let event = match slice {
            Some(slice) => Event::Slice(slice.into()),
            None => Event::SliceDeleted(key),
        };
        Converted { event: Some(event), problems }
    }

    fn usable_slice(
        &mut self,
        object: &api::EndpointSlice,
        key: &ObjectKey,
        notes: &mut Notes<'_>,
    ) -> Option<EndpointSlice> {
        let labels = object.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.headless) {
            return None;
        }
        let Some(service) = labels.and_then(|l| l.service_name.as_deref()).filter(|name| !name.is_empty()) else {
            notes.add(
                "metadata.labels[kubernetes.io/service-name]",
                "is missing, so it belongs to no Service; the slice is left out",
            );
            return None;
        };
        let family = match object.address_type.as_deref().unwrap_or_default() {
            "IPv4" => Family::Ipv4,
            "IPv6" => Family::Ipv6,
            "FQDN" => {
                notes.add("addressType", "is FQDN, which no proxy serves; the slice is left out");
                return None;
            }
            other => {
                notes.add(
                    "addressType",
                    format_args!("{other:?} is neither IPv4, IPv6 nor FQDN; the slice is left out"),
                );
                return None;
            }
        };
        Some(EndpointSlice {
            key: key.clone(),
            service: self.interner.key(key.namespace(), service),
            family,
            ports: self.slice_ports(object, notes),
            endpoints: self.endpoints(object, family, notes),
            weights: options::of_slice(object.metadata.annotations.as_ref(), notes),
            changed_at: object.metadata.annotations.as_ref().and_then(changed_at),
        })
    }

    fn slice_ports(&mut self, object: &api::EndpointSlice, notes: &mut Notes<'_>) -> Vec<SlicePort> {
        let mut ports = Vec::with_capacity(list(&object.ports).len());
        for (index, entry) in list(&object.ports).iter().enumerate() {
            let name = match (entry.name.as_deref(), self.origin) {
                (Some(name), _) => name,
                // The API server's default, which nobody filled in.
                (None, Origin::Manifest) => "",
                (None, Origin::Api) => {
                    notes.add(format_args!("ports[{index}].name"), "is missing; the port is left out");
                    continue;
                }
            };
            let Some(number) = entry.port.filter(|port| *port != 0) else {
                notes.add(
                    format_args!("ports[{index}].port"),
                    "has no number, which means all ports; no proxy can serve that, so the port is left out: give it the \
                     number the pods listen on",
                );
                continue;
            };
            let protocol = notes.protocol(entry.protocol.as_deref(), format_args!("ports[{index}].protocol"));
            let port = notes.port(number, format_args!("ports[{index}].port"));
            if let (Some(protocol), Some(port)) = (protocol, port) {
                ports.push(SlicePort { name: self.interner.string(name), protocol, port });
            }
        }
        ports
    }

    fn endpoints(&mut self, object: &api::EndpointSlice, family: Family, notes: &mut Notes<'_>) -> Vec<Endpoint> {
        let entries = list(&object.endpoints);
        let mut endpoints = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let Some(text) = list(&entry.addresses).first() else {
                notes.add(format_args!("endpoints[{index}].addresses"), "is empty; the endpoint is left out");
                continue;
            };
            if let [_, more @ ..] = list(&entry.addresses)
                && !more.is_empty()
            {
                notes.add(
                    format_args!("endpoints[{index}].addresses[1]"),
                    format_args!(
                        "{} is not used: only the first address of an endpoint counts, give each address an endpoint of \
                         its own",
                        more.join(", ")
                    ),
                );
            }
            let field = format_args!("endpoints[{index}].addresses[0]");
            let Some(address) = notes.ip(text, field) else { continue };
            if Family::of(address) != family {
                notes.add(field, format_args!("{address} is not an {family} address; the endpoint is left out"));
                continue;
            }
            if let Some(what) = special(address) {
                notes.add(
                    field,
                    format_args!("{address} is {what}, where no connection is sent; the endpoint is left out"),
                );
                continue;
            }
            let conditions = entry.conditions.as_ref();
            let condition = |value: Option<bool>, absent: bool| value.unwrap_or(absent);
            let hints = entry.hints.as_ref();
            endpoints.push(Endpoint {
                address,
                ready: condition(conditions.and_then(|c| c.ready), true),
                serving: condition(conditions.and_then(|c| c.serving), true),
                terminating: condition(conditions.and_then(|c| c.terminating), false),
                placement: self.interner.placement(
                    entry.node_name.as_deref().filter(|name| !name.is_empty()),
                    hinted(hints.map(|h| list(&h.for_zones)).unwrap_or_default()),
                    hinted(hints.map(|h| list(&h.for_nodes)).unwrap_or_default()),
                ),
            });
        }
        endpoints.shrink_to_fit();
        endpoints
    }
}

/// Only a measurement: a value nobody can read is nobody's problem.
fn changed_at(annotations: &api::Annotations) -> Option<SystemTime> {
    let text = annotations.last_change_trigger_time.as_deref()?;
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn hinted(hints: &[Hint]) -> impl Iterator<Item = &str> {
    hints.iter().filter_map(|hint| hint.name.as_deref())
}
