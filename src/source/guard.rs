//! A wrapper that lets one faulty object fail alone, not the list or the watch it arrives in.
//!
//! kube's own `DeserializeGuard` makes a value of the complete object while it parses, managed fields included; this one
//! looks at nothing but the fields that are read, and makes values of faulty objects only.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::api::ApiObject;

/// What is wrong with an object.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// The path of the field; empty when it is the object as a whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// An object, or why it could not be read.
#[derive(Debug, Clone)]
pub struct Guarded<T> {
    meta: ObjectMeta,
    /// All of it that is read.
    pub object: Result<T, Unreadable>,
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
    /// The text of the object is found first and read by itself, so only text that is no JSON is an error. Finding it needs
    /// the text: in a watch the type has to come before the object, as servers write it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Ok(object) = serde_json::from_str::<T>(text.get()) else { return Ok(Self::examined(&text)) };
        let metadata = object.metadata();
        let meta = ObjectMeta {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, object: Ok(object) })
    }
}

impl<T: ApiObject> Guarded<T> {
    /// Reads a faulty object again, slowly: where the fault is, and which object it is.
    fn examined(text: &RawValue) -> Self {
        // Text that no value can hold has no fields either, such as half of a surrogate pair.
        let value = match serde_json::from_str::<Value>(text.get()) {
            Ok(value) => value,
            Err(error) => {
                let fault = Unreadable { field: String::new(), message: error.to_string() };
                return Self { meta: ObjectMeta::default(), object: Err(fault) };
            }
        };
        let meta = |key: &str| value.get("metadata")?.get(key)?.as_str().map(str::to_owned);
        Self {
            meta: ObjectMeta {
                namespace: meta("namespace"),
                name: meta("name"),
                resource_version: meta("resourceVersion"),
                ..ObjectMeta::default()
            },
            object: serde_path_to_error::deserialize(&value).map_err(|error| Unreadable {
                field: error.path().to_string(),
                message: error.into_inner().to_string(),
            }),
        }
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
