//! YAML and JSON text as plain values, and back. For what must tolerate more than serde's derived readers do.

use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Splits a YAML stream at its document markers, so that a fault in one document spares the others. Gives each
/// document's first line; documents without content are left out.
pub(crate) fn split(text: &str) -> Vec<(usize, &str)> {
    let marker = |line: &str, marker: &str| {
        line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut has_content) = (0, 1, false);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let begins = marker(line, "---");
        if begins || marker(line, "...") {
            if has_content {
                documents.push((start_line, &text[start..offset]));
            }
            has_content = begins && !line[3..].trim().is_empty() && !line[3..].trim_start().starts_with('#');
            (start, start_line) = if begins { (offset, index + 1) } else { (offset + line.len(), index + 2) };
        } else if !has_content {
            let trimmed = line.trim_start();
            // A comment above an object is not where the object is.
            if trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%') {
                (start, start_line) = (offset + line.len(), index + 2);
            } else {
                has_content = true;
            }
        }
        offset += line.len();
    }
    if has_content {
        documents.push((start_line, &text[start..]));
    }
    documents
}

/// Reads one document, YAML or JSON. Of a key that comes twice the last one counts; its path is added to `duplicates`.
/// Keys whose value is null are left out.
pub(crate) fn read(text: &str, duplicates: &mut Vec<String>) -> Result<Value, ReadError> {
    let seed = Lenient { path: String::new(), duplicates };
    if text.trim_start().starts_with('{')
        && let Ok(value) = seed.deserialize(&mut serde_json::Deserializer::from_str(text))
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    {
        return Ok(value);
    }
    duplicates.clear();
    let seed = Lenient { path: String::new(), duplicates };
    Ok(seed.deserialize(serde_yaml::Deserializer::from_str(text))?)
}

/// Writes a value as YAML.
pub(crate) fn write(value: &impl Serialize) -> Result<String, ReadError> {
    Ok(serde_yaml::to_string(value)?)
}

/// The text is no YAML.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct ReadError(#[from] serde_yaml::Error);

struct Lenient<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl Lenient<'_> {
    fn below(&mut self, step: &str) -> Lenient<'_> {
        let path = match (self.path.is_empty(), step.starts_with('[')) {
            (false, false) => format!("{}.{step}", self.path),
            _ => format!("{}{step}", self.path),
        };
        Lenient { path, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for Lenient<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lenient<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(format!("{value} is not a usable number")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.below(&format!("[{}]", items.len())))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let (mut seen, mut fields, mut merged) = (Vec::new(), Map::new(), Map::new());
        while let Some(key) = map.next_key::<Key>()?.map(|key| key.0) {
            let mut below = self.below(&key);
            if seen.contains(&key) {
                let path = std::mem::take(&mut below.path);
                below.duplicates.push(path.clone());
                below.path = path;
            }
            let value = map.next_value_seed(below)?;
            match value {
                Value::Object(other) if key == "<<" => merged.extend(other),
                // Also when a value came before: the last one counts.
                Value::Null => drop(fields.remove(&key)),
                value => drop(fields.insert(key.clone(), value)),
            }
            seen.push(key);
        }
        merged.retain(|key, _| !seen.contains(key));
        fields.extend(merged);
        Ok(Value::Object(fields))
    }
}

/// A key; YAML has others than strings.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Lenient { path: String::new(), duplicates: &mut Vec::new() }.deserialize(deserializer)?;
        match value {
            Value::String(key) => Ok(Self(key)),
            other => Ok(Self(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lenient(text: &str) -> (Value, Vec<String>) {
        let mut duplicates = Vec::new();
        let value = read(text, &mut duplicates).expect("readable");
        (value, duplicates)
    }

    #[test]
    fn documents_are_split_at_markers_only() {
        let text = "# head\n---\na: 1\n--- # again\nb: |\n  ---\n...\n\nc: 3\n---\n---\n# nothing\n";
        let found = split(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], (2, "---\na: 1\n"));
        assert_eq!(found[1], (4, "--- # again\nb: |\n  ---\n"));
        assert_eq!(found[2], (9, "c: 3\n"));
        assert_eq!(split("a: 1"), [(1, "a: 1")]);
        assert_eq!(split("--- {a: 1}\r\n---\r\nb: 2\r\n").len(), 2);
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_is_named() {
        let (value, duplicates) = lenient("a: 1\nb:\n  c: [1, {d: 2, d: 3}]\na: null\nb2: {x: 1, x: 2}\n");
        assert_eq!(value, json!({"b": {"c": [1, {"d": 3}]}, "b2": {"x": 2}}));
        assert_eq!(duplicates, ["b.c[1].d", "a", "b2.x"]);
        let (value, duplicates) = lenient("\t{\"a\": 1,\n\t\"a\": {\"b\": null, \"c\": \"yes\"}}");
        assert_eq!((value, duplicates), (json!({"a": {"c": "yes"}}), vec!["a".to_owned()]));
    }

    #[test]
    fn anchors_and_merge_keys() {
        let (value, duplicates) = lenient("base: &b {x: 1, y: 2}\nuse:\n  y: 3\n  <<: *b\n");
        assert_eq!(value["use"], json!({"x": 1, "y": 3}));
        assert!(duplicates.is_empty());
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = read("a: 1\nb: [\nc: 2\n", &mut Vec::new()).expect_err("broken");
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(read("{\"a\": 1", &mut Vec::new()).is_err());
    }
}
