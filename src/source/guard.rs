//! A wrapper that lets one faulty object fail alone, not the list or the watch it arrives in.
//!
//! kube's own `DeserializeGuard` keeps a copy of the complete object while it parses, managed fields included; this one
//! looks at nothing but the fields that are read.

use std::borrow::Cow;
use std::fmt;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::api::ApiObject;

/// The parts of an object any kind may read.
const PARTS: [&str; 6] = ["metadata", "spec", "status", "addressType", "ports", "endpoints"];
/// The parts of `metadata` that are read, here or by kube.
const META: [&str; 6] = ["namespace", "name", "labels", "creationTimestamp", "deletionTimestamp", "resourceVersion"];

/// What is wrong with an object.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) message: String,
}

/// An object, or why it could not be read.
#[derive(Debug, Clone)]
pub(super) struct Guarded<T> {
    meta: ObjectMeta,
    pub(super) object: Result<T, Fault>,
}

impl<T: ApiObject> Resource for Guarded<T> {
    type DynamicType = ();
    type Scope = <T::Resource as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Resource::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Resource::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Resource::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Resource::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de, T: ApiObject> Deserialize<'de> for Guarded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Pick(&PARTS).deserialize(deserializer)?;
        let meta = |key: &str| value.get("metadata")?.get(key)?.as_str().map(str::to_owned);
        Ok(Self {
            meta: ObjectMeta {
                namespace: meta("namespace"),
                name: meta("name"),
                resource_version: meta("resourceVersion"),
                ..ObjectMeta::default()
            },
            object: serde_path_to_error::deserialize(&value)
                .map_err(|error| Fault { field: error.path().to_string(), message: error.into_inner().to_string() }),
        })
    }
}

/// Reads the named keys of an object and skips the rest. What is no object at all becomes null.
struct Pick(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Pick {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pick {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut picked = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if !self.0.contains(&&*key) {
                map.next_value::<IgnoredAny>()?;
            } else if key == "metadata" {
                picked.insert(key.into_owned(), map.next_value_seed(Pick(&META))?);
            } else {
                picked.insert(key.into_owned(), map.next_value()?);
            }
        }
        Ok(Value::Object(picked))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::source::api::Service;

    #[test]
    fn a_faulty_object_keeps_its_name_and_names_the_field() {
        let object = json!({
            "metadata": {"namespace": "ns", "name": "web", "resourceVersion": "7", "managedFields": [{"x": 1}]},
            "spec": {"ports": [{"port": 80}, {"port": "http"}]},
        });
        let guarded: Guarded<Service> = from_value(object).expect("never fails");
        assert_eq!(guarded.meta().name.as_deref(), Some("web"));
        assert_eq!(guarded.meta().resource_version.as_deref(), Some("7"));
        let fault = guarded.object.expect_err("faulty");
        assert_eq!(fault.field, "spec.ports[1].port");
        assert!(fault.message.contains("http"), "{}", fault.message);
    }

    #[test]
    fn things_that_are_no_objects_are_faults_too() {
        for garbage in [json!(null), json!(5), json!(-5), json!(0.5), json!("text"), json!([1, {}]), json!(true)] {
            assert!(from_value::<Guarded<Service>>(garbage.clone()).expect("never fails").object.is_err(), "{garbage}");
        }
    }

    #[test]
    fn a_good_object_is_read() {
        let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.0.0.1"}, "extra": [1]});
        let guarded: Guarded<Service> = from_value(object).expect("never fails");
        assert_eq!(guarded.object.expect("good").spec.and_then(|s| s.cluster_ip).as_deref(), Some("10.0.0.1"));
    }
}
