//! Finds the line of a field in a YAML text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::{Path, Segment};
use serde_yaml::Value;

/// One step of the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathStep {
    Key(String),
    Index(usize),
}

impl PathStep {
    /// The way as users write it: `items[3].spec.ports[0].port`.
    pub(super) fn join(path: &[PathStep]) -> String {
        path.iter().fold(String::new(), |mut text, step| {
            match step {
                PathStep::Key(key) if text.is_empty() => text.push_str(key),
                PathStep::Key(key) => text.extend([".", key]),
                PathStep::Index(index) => text.push_str(&format!("[{index}]")),
            }
            text
        })
    }
}

/// The steps serde took before an error.
pub(super) fn steps(path: &Path) -> impl Iterator<Item = PathStep> + '_ {
    path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(PathStep::Index(*index)),
        Segment::Map { key } => Some(PathStep::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// The line of the value at `path`, counted from 1.
pub(super) fn line_of(text: &str, path: &[PathStep]) -> Option<usize> {
    // Only errors carry positions in serde_yaml: walk to the value and fail there on purpose.
    let error = Seek(path).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|location| location.line())
}

struct Seek<'p>(&'p [PathStep]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    // Reached for scalars: their default visit methods fail with this text.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something else")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((PathStep::Key(wanted), rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<Value>()? {
            if key.as_str() == Some(wanted) {
                return map.next_value_seed(Seek(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("no such key"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((PathStep::Index(wanted), rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Seek(rest))?;
        Err(A::Error::custom("no such element"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_scalars_maps_and_items() {
        let text = "a: 1\nitems:\n- x: 1\n- y:\n    port: http\n    more: [1,\n      2]\n";
        let way = |text: &str| -> Vec<PathStep> {
            let step = |part: &str| part.parse().map_or_else(|_| PathStep::Key(part.into()), PathStep::Index);
            text.split('/').map(step).collect()
        };
        assert_eq!(line_of(text, &way("a")), Some(1));
        assert_eq!(line_of(text, &way("items/1/y/port")), Some(5));
        assert_eq!(line_of(text, &way("items/1/y/more/1")), Some(7));
        assert_eq!(line_of(text, &way("items/1")), Some(4));
        assert_eq!(PathStep::join(&way("items/1/y/more/1")), "items[1].y.more[1]");
    }
}
