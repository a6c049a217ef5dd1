//! Elements of one set or map as read back, in little room: there can be a million endpoints.

use foldhash::HashMap;

use super::{Bytes, Element, Value};

/// Elements by key.
///
/// Elements that differ in the last field of their keys only, a slot that counts from 0, are kept as one list of their
/// values: a tenth of the memory.
#[derive(Debug, Clone, Default)]
pub struct Elements {
    /// By what is before the slot.
    runs: HashMap<Bytes, Run>,
    others: HashMap<Bytes, Element>,
    /// Elements in `runs`.
    in_runs: usize,
}

/// Values that a list has room for at first.
const FIRST_ROOM: usize = 4;

/// Where an element was put.
enum Place {
    /// At the end of the list it belongs to; the key of the next one.
    Appended(Bytes),
    /// Nowhere: there is one in its slot.
    Taken,
    /// Nowhere yet: it is not the next one of a list.
    Elsewhere,
}

/// Values of the slots from 0 on, of the same length each.
#[derive(Debug, Clone)]
struct Run {
    value_len: usize,
    bytes: Vec<u8>,
}

impl Run {
    /// A list of one value, with room for some more; `None` when it has no bytes.
    fn new(value: &Bytes) -> Option<Self> {
        let value = value.as_slice();
        let mut bytes = Vec::with_capacity(value.len() * FIRST_ROOM);
        bytes.extend_from_slice(value);
        (!value.is_empty()).then_some(Self { value_len: value.len(), bytes })
    }

    /// Appends a value; `None` when it is not as long as the others.
    fn push(&mut self, value: &Bytes) -> Option<()> {
        let bytes = value.as_slice();
        (bytes.len() == self.value_len).then(|| self.bytes.extend_from_slice(bytes))
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.value_len
    }

    fn values(&self) -> impl Iterator<Item = Bytes> {
        self.bytes.chunks_exact(self.value_len).filter_map(Bytes::from_slice)
    }

    fn get(&self, slot: u32) -> Option<Bytes> {
        Bytes::from_slice(self.bytes.chunks_exact(self.value_len).nth(slot as usize)?)
    }
}

impl Elements {
    /// Puts an element in unless there is one with its key; whether there was none.
    pub fn insert(&mut self, element: Element) -> bool {
        if self.others.contains_key(&element.key) {
            return false;
        }
        let mut next = element;
        loop {
            match self.append(&next) {
                Place::Taken => return false,
                Place::Elsewhere => {
                    self.others.insert(next.key, next);
                    return true;
                }
                // What belongs behind it may have come before.
                Place::Appended(behind) => match self.others.remove(&behind) {
                    Some(element) => next = element,
                    None => return true,
                },
            }
        }
    }

    /// Puts an element at the end of the list it belongs to, if that is where it belongs.
    fn append(&mut self, element: &Element) -> Place {
        self.append_to_run(element).unwrap_or(Place::Elsewhere)
    }

    /// The same; `None` where it belongs to no list, or not at its end.
    fn append_to_run(&mut self, element: &Element) -> Option<Place> {
        let (prefix, slot) = split(&element.key)?;
        let behind = prefix.u32_host(slot.checked_add(1)?);
        let value = match element {
            Element { end: None, value: Value::Data(value), comment: None, .. } => Some(value),
            _ => None,
        };
        match self.runs.get_mut(&prefix) {
            Some(run) if run.len() > slot as usize => return Some(Place::Taken),
            Some(run) if run.len() == slot as usize => run.push(value?)?,
            None if slot == 0 => drop(self.runs.insert(prefix, Run::new(value?)?)),
            _ => return None,
        }
        self.in_runs += 1;
        Some(Place::Appended(behind))
    }

    /// The element with a key.
    pub fn get(&self, key: &Bytes) -> Option<Element> {
        let in_run = || {
            let (prefix, slot) = split(key)?;
            Some(in_slot(&prefix, slot, self.runs.get(&prefix)?.get(slot)?))
        };
        in_run().or_else(|| self.others.get(key).cloned())
    }

    /// Whether there is an element with a key.
    pub fn contains_key(&self, key: &Bytes) -> bool {
        self.get(key).is_some()
    }

    /// The values in the slots 0, 1, ... behind a prefix of keys, up to the first that is empty.
    pub fn slots(&self, prefix: &Bytes) -> impl Iterator<Item = Bytes> {
        self.runs.get(prefix).into_iter().flat_map(Run::values)
    }

    /// All elements, in no order.
    pub fn values(&self) -> impl Iterator<Item = Element> {
        let in_runs = self
            .runs
            .iter()
            .flat_map(|(prefix, run)| (0..).zip(run.values()).map(move |(slot, value)| in_slot(prefix, slot, value)));
        in_runs.chain(self.others.values().cloned())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.in_runs + self.others.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.values().all(|element| other.get(&element.key) == Some(element))
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut this = Self::default();
        for element in elements {
            this.insert(element);
        }
        this
    }
}

/// A key as what is before its last field, and that one as a slot.
fn split(key: &Bytes) -> Option<(Bytes, u32)> {
    let at = key.as_slice().len().checked_sub(4)?;
    Some((Bytes::from_slice(&key.as_slice()[..at])?, key.u32_host_at(at)?))
}

fn in_slot(prefix: &Bytes, slot: u32, value: Bytes) -> Element {
    Element { key: prefix.u32_host(slot), end: None, value: Value::Data(value), comment: None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn element(frontend: u8, slot: u32, value: u32, long: bool) -> Element {
        let data = Bytes::new().u32_host(value);
        let data = if long { data.u16(80) } else { data };
        in_slot(&Bytes::new().u8(frontend), slot, data)
    }

    #[test]
    fn slots_end_at_the_first_that_is_empty() {
        let elements: Elements = [2, 0, 4, 1].into_iter().map(|slot| element(1, slot, slot, false)).collect();
        let prefix = Bytes::new().u8(1);
        let slots: Vec<Bytes> = elements.slots(&prefix).collect();
        assert_eq!(slots, [0, 1, 2].map(|value| Bytes::new().u32_host(value)));
        assert_eq!(elements.others.len(), 1, "what is behind");
        assert_eq!(elements.slots(&Bytes::new().u8(2)).count(), 0);
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0_u8..3, 0_u32..6, 0_u32..9, proptest::bool::weighted(0.1)), 0..60)) {
            let (mut elements, mut map) = (Elements::default(), HashMap::new());
            for (frontend, slot, value, long) in steps {
                let element = element(frontend, slot, value, long);
                let is_new = !map.contains_key(&element.key);
                map.entry(element.key).or_insert_with(|| element.clone());
                prop_assert_eq!(elements.insert(element), is_new);
            }
            prop_assert_eq!(elements.len(), map.len());
            prop_assert_eq!(elements.is_empty(), map.is_empty());
            let listed: HashMap<Bytes, Element> = elements.values().map(|element| (element.key, element)).collect();
            prop_assert_eq!(&listed, &map);
            for (frontend, slot) in (0..4).flat_map(|frontend| (0..7).map(move |slot| (frontend, slot))) {
                let key = element(frontend, slot, 0, false).key;
                prop_assert_eq!(elements.get(&key), map.get(&key).cloned());
            }
            prop_assert_eq!(elements, map.into_values().collect::<Elements>());
        }
    }
}
