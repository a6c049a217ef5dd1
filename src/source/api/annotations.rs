//! The annotations that are read. Which there are is not known beforehand: a misspelt one of ours is to be reported.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What annotations of ours begin with.
const OURS: &str = "portway.io/";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The annotations that mean something; others are not looked at.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    /// On an EndpointSlice: when the pod or Service changed that it was written for, RFC 3339.
    pub last_change_trigger_time: Option<String>,
    /// All `portway.io/NAME`, by NAME. No value: it is no text, as a number that a manifest has without quotes.
    pub ours: Vec<(String, Option<String>)>,
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnnotationsVisitor)
    }
}

struct AnnotationsVisitor;

impl<'de> Visitor<'de> for AnnotationsVisitor {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut annotations = Annotations::default();
        while let Some(key) = map.next_key()? {
            match key {
                Key::TriggerTime => annotations.last_change_trigger_time = map.next_value::<Text>()?.0,
                Key::Ours(name) => annotations.ours.push((name, map.next_value::<Text>()?.0)),
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(annotations)
    }
}

/// Only the keys that count are kept.
enum Key {
    TriggerTime,
    Ours(String),
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key of an annotation")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key.strip_prefix(OURS) {
            Some(name) => Key::Ours(name.to_owned()),
            None if key == TRIGGER_TIME => Key::TriggerTime,
            None => Key::Other,
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_unit<E>(self) -> Result<Key, E> {
        Ok(Key::Other)
    }
}

/// A text, or nothing for whatever else it is: an annotation must not make its object unreadable.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of an annotation")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(Some(text)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }
}
