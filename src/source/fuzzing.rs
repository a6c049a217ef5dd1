//! The way of an object from a watch to the model.

use super::Converter;
use super::api::{EndpointSlice, Node, Service, ServiceCidr};
use super::convert::{Convert, Converted};
use super::guard::Guarded;

/// Reads an object; `None` when it cannot be read or is of no kind that is watched.
pub fn watched(converter: &mut Converter, object: &[u8]) -> Option<Converted> {
    let value: serde_json::Value = serde_json::from_slice(object).ok()?;
    match value.get("kind")?.as_str()? {
        "Service" => read::<Service>(converter, object),
        "EndpointSlice" => read::<EndpointSlice>(converter, object),
        "Node" => read::<Node>(converter, object),
        "ServiceCIDR" => read::<ServiceCidr>(converter, object),
        _ => None,
    }
}

fn read<T: Convert>(converter: &mut Converter, object: &[u8]) -> Option<Converted> {
    let guarded: Guarded<T> = serde_json::from_slice(object).ok()?;
    Some(guarded.object.ok()?.convert(converter))
}
