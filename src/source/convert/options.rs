//! Annotations `portway.io/...`. What cannot be used is reported and leaves the default in force.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::{FAULTS_MAX, Notes, each_once, shortened};
use crate::model::{Balance, EndpointWeights, LabelSelector, ServiceOptions, parse_cidr, parse_ip};
use crate::source::api::Annotations;

const OF_SERVICES: [&str; 5] =
    ["balance", "external-traffic", "internal-traffic", "denied-source-ranges", "expose-on-nodes"];
const OF_SLICES: [&str; 1] = ["weights"];

/// The options of a Service; nothing when it has no annotation of ours.
pub(super) fn of_service(annotations: Option<&Annotations>, notes: &mut Notes<'_>) -> Option<Box<ServiceOptions>> {
    let mut options = Box::<ServiceOptions>::default();
    let mut reader = Reader { notes, faults: Vec::new() };
    for (name, value) in ours(annotations) {
        let Some(value) = reader.text(name, value.as_deref()) else { continue };
        match name {
            "balance" => match Balance::ALL.into_iter().find(|balance| balance.to_string() == value) {
                Some(balance) => options.balance = balance,
                None => reader.fault(
                    name,
                    format_args!("{value:?} is neither random, source-ip nor source-ip-port; random stays in force"),
                ),
            },
            "external-traffic" => options.external_prefer_local = reader.prefers_local(name, value),
            "internal-traffic" => options.internal_prefer_local = reader.prefers_local(name, value),
            "denied-source-ranges" => {
                for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                    match parse_cidr(text) {
                        Ok(net) => options.denied_sources.push(net),
                        Err(error) => {
                            reader.fault(name, format_args!("{error}; it denies nobody, the others hold: correct it"));
                        }
                    }
                }
                options.denied_sources = each_once(std::mem::take(&mut options.denied_sources));
            }
            "expose-on-nodes" => match LabelSelector::parse(value) {
                Ok(selector) => options.expose_on = Some(selector),
                Err(error) => reader
                    .fault(name, format_args!("{error}; all nodes expose the Service until the selector is corrected")),
            },
            other => reader.unknown(other, "a Service", &OF_SERVICES, "an EndpointSlice", &OF_SLICES),
        }
    }
    options.faults = reader.faults;
    (*options != ServiceOptions::DEFAULT).then_some(options)
}

/// The weights of a slice's endpoints; nothing when it has no annotation of ours.
pub(super) fn of_slice(annotations: Option<&Annotations>, notes: &mut Notes<'_>) -> Option<Box<EndpointWeights>> {
    let mut weights = Box::<EndpointWeights>::default();
    let mut reader = Reader { notes, faults: Vec::new() };
    for (name, value) in ours(annotations) {
        let Some(value) = reader.text(name, value.as_deref()) else { continue };
        if name != "weights" {
            reader.unknown(name, "an EndpointSlice", &OF_SLICES, "a Service", &OF_SERVICES);
            continue;
        }
        let entries = match serde_json::from_str::<Map<String, Value>>(value) {
            Ok(entries) => entries,
            Err(error) => {
                let want = r#"want JSON as {"10.1.0.1": 3}; all endpoints have weight 1"#;
                reader.fault(name, format_args!("{error} ({want})"));
                continue;
            }
        };
        for (address, weight) in entries {
            let in_bounds = weight.as_u64().and_then(|weight| u8::try_from(weight).ok());
            let in_bounds = in_bounds.filter(|weight| (1..=EndpointWeights::MAX).contains(weight));
            match (parse_ip(address.trim()), in_bounds) {
                (Ok(ip), Some(weight)) => drop(weights.of.insert(ip, weight)),
                (Err(error), _) => reader.fault(name, format_args!("{error}; the entry is left out")),
                (Ok(_), None) => reader.fault(
                    name,
                    format_args!("{weight} of {address} is no whole number from 1 to 100; its weight is 1"),
                ),
            }
        }
    }
    weights.faults = reader.faults;
    (*weights != EndpointWeights::default()).then_some(weights)
}

fn ours(annotations: Option<&Annotations>) -> impl Iterator<Item = (&str, &Option<String>)> {
    annotations.into_iter().flat_map(|all| all.ours.iter().map(|(name, value)| (name.as_str(), value)))
}

/// Reports faults, and keeps them for those who show the object.
struct Reader<'n, 'o> {
    notes: &'n mut Notes<'o>,
    faults: Vec<Box<str>>,
}

impl Reader<'_, '_> {
    fn fault(&mut self, name: &str, message: impl Display) {
        let name = shortened(name.escape_debug().to_string());
        let message = shortened(message.to_string());
        self.notes.add(format_args!("metadata.annotations[portway.io/{name}]"), &message);
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(format!("portway.io/{name}: {message}").into());
        }
    }

    fn text<'v>(&mut self, name: &str, value: Option<&'v str>) -> Option<&'v str> {
        if value.is_none() {
            self.fault(name, "is no text; it is not used, put the value into quotes");
        }
        value.map(str::trim)
    }

    fn prefers_local(&mut self, name: &str, value: &str) -> bool {
        if value != "prefer-local" {
            self.fault(name, format_args!("{value:?} is not prefer-local; the traffic policy alone stays in force"));
        }
        value == "prefer-local"
    }

    fn unknown(&mut self, name: &str, here: &str, known: &[&str], elsewhere: &str, known_elsewhere: &[&str]) {
        if known_elsewhere.contains(&name) {
            return self.fault(name, format_args!("means nothing on {here}; it belongs on {elsewhere}"));
        }
        let known = known.join(", ");
        self.fault(name, format_args!("is no annotation of Portway; correct its name ({here} can have {known})"));
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
