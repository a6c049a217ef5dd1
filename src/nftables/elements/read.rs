//! Reading elements back.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::step;
use crate::model::Family;
use crate::ruleset::{Bytes, Element, Elements, SetId, SetSpec, Value, ValueType, Verdict};
use crate::wire::abi::{self, elem};
use crate::wire::attr::{Attr, Attrs};
use crate::wire::expr;

/// Folds the dump of one set into elements.
pub(in crate::nftables) struct ElementReader {
    spec: SetSpec,
    key_len: usize,
    value_len: usize,
    elements: Elements,
    /// First keys behind ranges (single-field interval sets).
    ends: Vec<Bytes>,
    duplicates: bool,
    /// Chains of verdicts by their name: parsing it for each element would dominate.
    verdicts: HashMap<Vec<u8>, Option<Verdict>>,
    comments: HashSet<Arc<str>>,
}

/// An element that Portway would not write, described as text.
#[derive(Debug)]
pub(in crate::nftables) struct ForeignElement(pub(in crate::nftables) String);

impl ElementReader {
    pub(in crate::nftables) fn new(family: Family, set: SetId) -> Self {
        let spec = set.spec();
        Self {
            key_len: spec.key_len(family),
            value_len: spec.value_fields().iter().map(|field| field.padded_len(family)).sum(),
            spec,
            elements: Elements::default(),
            ends: Vec::new(),
            duplicates: false,
            verdicts: HashMap::new(),
            comments: HashSet::new(),
        }
    }

    /// Reads the attributes of one message.
    pub(in crate::nftables) fn message(&mut self, attrs: &Attrs<'_>) -> Result<(), ForeignElement> {
        let Some(list) = attrs.nested_of(elem::LIST_ELEMENTS) else { return Ok(()) };
        for element in list {
            self.element(element).ok_or_else(|| {
                let key = element.nested().nested_of(elem::KEY).and_then(|key| key.find_kind(abi::DATA_VALUE));
                ForeignElement(format!("an element of {} with key {:02x?}", self.spec.name, key.map(|key| key.value)))
            })?;
        }
        Ok(())
    }

    fn element(&mut self, element: Attr<'_>) -> Option<()> {
        let (mut key, mut end, mut data, mut flags, mut comment) = (None, None, None, 0, None);
        for attr in element.nested() {
            match attr.kind {
                elem::KEY => key = Some(self.key(attr)?),
                elem::KEY_END => end = Some(self.key(attr)?),
                elem::DATA => data = Some(attr),
                elem::FLAGS => flags = attr.u32()?,
                elem::USERDATA => comment = read_comment(attr.value),
                // Counters, timeouts and what is left of them.
                _ => {}
            }
        }
        let key = key?;
        match flags {
            0 => {}
            elem::F_INTERVAL_END => {
                self.ends.push(key);
                return Some(());
            }
            // A catch-all element, or something this program does not know.
            _ => return None,
        }
        if self.spec.interval && self.spec.key.len() > 1 {
            end = end.or(Some(key));
        }
        let value = match (self.spec.value, data) {
            (ValueType::None, None) => Value::None,
            (ValueType::Verdict, Some(data)) => Value::Verdict(self.verdict(data)?),
            (ValueType::Endpoint | ValueType::ClassId, Some(data)) => {
                let bytes = Bytes::from_slice(data.nested().find_kind(abi::DATA_VALUE)?.value)?;
                (bytes.as_slice().len() == self.value_len).then_some(Value::Data(bytes))?
            }
            _ => return None,
        };
        let comment = comment.map(|comment| self.intern(comment));
        self.duplicates |= !self.elements.insert(Element { key, end, value, comment });
        Some(())
    }

    fn key(&self, attr: Attr<'_>) -> Option<Bytes> {
        let bytes = attr.nested().find_kind(abi::DATA_VALUE)?.value;
        (bytes.len() == self.key_len).then(|| Bytes::from_slice(bytes))?
    }

    fn verdict(&mut self, data: Attr<'_>) -> Option<Verdict> {
        if let Some(known) = self.verdicts.get(data.value) {
            return *known;
        }
        let verdict = data.nested().nested_of(abi::DATA_VERDICT).and_then(|data| expr::decode_verdict(&data));
        self.verdicts.insert(data.value.to_vec(), verdict);
        verdict
    }

    fn intern(&mut self, comment: &str) -> Arc<str> {
        if let Some(known) = self.comments.get(comment) {
            return known.clone();
        }
        let new: Arc<str> = comment.into();
        self.comments.insert(new.clone());
        new
    }

    /// Whether a key came twice: the kernel rearranged the set during the dump.
    pub(in crate::nftables) fn has_duplicates(&self) -> bool {
        self.duplicates
    }

    /// Elements of the kernel's kind that were read.
    pub(in crate::nftables) fn count(&self) -> usize {
        self.elements.len() + self.ends.len()
    }

    /// The elements by key; ranges that the kernel holds as two keys are one again. Single keys in interval sets are
    /// ranges from a key to itself.
    pub(in crate::nftables) fn finish(mut self) -> Elements {
        if !(self.spec.interval && self.spec.key.len() == 1) {
            return self.elements;
        }
        self.ends.sort_unstable();
        let last = Bytes::from_slice(&[0xff; 16][..self.key_len]);
        let with_end = |element: Element| {
            let behind = self.ends.partition_point(|end| *end <= element.key);
            Element { end: self.ends.get(behind).map_or(last, previous_key), ..element }
        };
        self.elements.values().map(with_end).collect()
    }
}

/// The comment in an element's user data.
pub(in crate::nftables) fn read_comment(userdata: &[u8]) -> Option<&str> {
    let mut rest = userdata;
    loop {
        let (&[tag, len], tail) = rest.split_first_chunk()?;
        let value = tail.get(..usize::from(len))?;
        if tag == elem::UDATA_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0])?).ok();
        }
        rest = &tail[value.len()..];
    }
}

/// The key before a single-field key; `None` before the first.
fn previous_key(key: &Bytes) -> Option<Bytes> {
    let mut bytes = key.as_slice().to_vec();
    step(&mut bytes, u8::overflowing_sub).then_some(())?;
    Bytes::from_slice(&bytes)
}
