//! Set elements: the hot path, written and read without a detour through libnftnl's objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::abi::{self, elem};
use super::attr::{self, Attr, Attrs};
use super::batch::{self, Batch};
use super::expr;
use crate::model::Family;
use crate::ruleset::{Bytes, Element, SetId, SetSpec, Value, ValueType, Verdict};

/// What to do with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Add.
    Add,
    /// Delete; an error when there is none.
    Delete,
    /// Delete if there is one (Linux 6.3).
    Destroy,
}

/// More than the longest element takes: two 40-byte keys, a value, flags and 256 bytes of notes.
const ELEMENT_MAX: usize = 512;
/// Bytes of a list of elements, as its 16-bit length can say.
const LIST_MAX: usize = u16::MAX as usize;
/// The longest comment `nft` reads, without its terminating zero.
const COMMENT_MAX: usize = 128;

/// Writes messages for all elements.
pub(super) fn write(
    batch: &mut Batch,
    op: usize,
    (family, table, set): (Family, &str, SetId),
    action: Action,
    elements: &[Element],
) {
    let spec = set.spec();
    let mut writer = ElementWriter { spec, adding: action == Action::Add, verdicts: HashMap::new() };
    let (kind, flags) = match action {
        Action::Add => (abi::msg::NEWSETELEM, libc::NLM_F_CREATE as u16),
        Action::Delete => (abi::msg::DELSETELEM, 0),
        Action::Destroy => (abi::msg::DESTROYSETELEM, 0),
    };
    let mut done = 0;
    while done < elements.len() {
        done += batch.message(op, done, |buf, _, seq| {
            let start = buf.len();
            batch::put_head(buf, abi::SUBSYSTEM << 8 | kind, expr::nfproto(family), flags, seq, 0);
            attr::put_str(buf, elem::LIST_TABLE, table);
            attr::put_str(buf, elem::LIST_SET, spec.name);
            let list = attr::begin_nest(buf, elem::LIST_ELEMENTS);
            let mut written = 0;
            for element in &elements[done..] {
                if buf.len() - list + ELEMENT_MAX > LIST_MAX {
                    break;
                }
                writer.element(buf, element);
                written += 1;
            }
            attr::end_nest(buf, list);
            batch::set_len(buf, start);
            written
        });
    }
}

struct ElementWriter {
    spec: SetSpec,
    /// Values and comments are of no use when deleting.
    adding: bool,
    /// Encoded verdicts: there are few different ones, and formatting a chain's name for each element would dominate.
    verdicts: HashMap<Verdict, Vec<u8>>,
}

impl ElementWriter {
    fn element(&mut self, buf: &mut Vec<u8>, element: &Element) {
        let nest = attr::begin_nest(buf, abi::LIST_ELEM);
        put_data(buf, elem::KEY, &element.key);
        let (mut open, mut behind) = (false, None);
        if self.spec.interval {
            let last = element.end.as_ref().unwrap_or(&element.key);
            if self.spec.key.len() > 1 {
                put_data(buf, elem::KEY_END, last);
            } else {
                behind = next_key(last);
                open = behind.is_none();
            }
        }
        if self.adding {
            self.value(buf, &element.value);
            put_notes(buf, element.comment.as_deref(), open);
        }
        attr::end_nest(buf, nest);
        if let Some(behind) = behind {
            let nest = attr::begin_nest(buf, abi::LIST_ELEM);
            attr::put_u32(buf, elem::FLAGS, elem::F_INTERVAL_END);
            put_data(buf, elem::KEY, &behind);
            attr::end_nest(buf, nest);
        }
    }

    fn value(&mut self, buf: &mut Vec<u8>, value: &Value) {
        match value {
            Value::None => {}
            Value::Data(data) => put_data(buf, elem::DATA, data),
            Value::Verdict(verdict) => {
                let encoded = self.verdicts.entry(*verdict).or_insert_with(|| encode_verdict(*verdict));
                buf.extend_from_slice(encoded);
            }
        }
    }
}

fn put_data(buf: &mut Vec<u8>, kind: u16, bytes: &Bytes) {
    let nest = attr::begin_nest(buf, kind);
    attr::put(buf, abi::DATA_VALUE, bytes.as_slice());
    attr::end_nest(buf, nest);
}

fn encode_verdict(verdict: Verdict) -> Vec<u8> {
    let (code, chain) = expr::verdict_code(verdict);
    let mut buf = Vec::with_capacity(64);
    let data = attr::begin_nest(&mut buf, elem::DATA);
    let nest = attr::begin_nest(&mut buf, abi::DATA_VERDICT);
    attr::put_u32(&mut buf, abi::VERDICT_CODE, code);
    if let Some(chain) = chain {
        attr::put_str(&mut buf, abi::VERDICT_CHAIN, &chain.to_string());
    }
    attr::end_nest(&mut buf, nest);
    attr::end_nest(&mut buf, data);
    buf
}

/// Notes for people and for `nft`: tag, length, bytes each.
fn put_notes(buf: &mut Vec<u8>, comment: Option<&str>, open: bool) {
    if comment.is_none() && !open {
        return;
    }
    let mut notes = [0_u8; COMMENT_MAX + 16];
    let mut len = 0;
    if let Some(comment) = comment {
        let mut end = comment.len().min(COMMENT_MAX);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        let text = &comment.as_bytes()[..end];
        notes[0] = elem::UDATA_COMMENT;
        notes[1] = (text.len() + 1) as u8;
        notes[2..2 + text.len()].copy_from_slice(text);
        len = text.len() + 3;
    }
    if open {
        notes[len] = elem::UDATA_FLAGS;
        notes[len + 1] = 4;
        notes[len + 2..len + 6].copy_from_slice(&elem::UDATA_F_OPEN.to_ne_bytes());
        len += 6;
    }
    attr::put(buf, elem::USERDATA, &notes[..len]);
}

fn read_comment(notes: &[u8]) -> Option<&str> {
    let mut rest = notes;
    loop {
        let (&[tag, len], tail) = rest.split_first_chunk()?;
        let value = tail.get(..usize::from(len))?;
        if tag == elem::UDATA_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0])?).ok();
        }
        rest = &tail[value.len()..];
    }
}

/// The key behind a single-field key; `None` behind the last.
fn next_key(key: &Bytes) -> Option<Bytes> {
    let mut bytes = key.as_slice().to_vec();
    step(&mut bytes, u8::overflowing_add).then_some(())?;
    Bytes::from_slice(&bytes)
}

/// The key before a single-field key; `None` before the first.
fn previous_key(key: &Bytes) -> Option<Bytes> {
    let mut bytes = key.as_slice().to_vec();
    step(&mut bytes, u8::overflowing_sub).then_some(())?;
    Bytes::from_slice(&bytes)
}

/// Adds or subtracts one in network order; whether it did not wrap around.
fn step(bytes: &mut [u8], by: fn(u8, u8) -> (u8, bool)) -> bool {
    bytes.iter_mut().rev().any(|byte| {
        let (value, carry) = by(*byte, 1);
        *byte = value;
        !carry
    })
}

/// Folds the dump of one set into elements.
pub(super) struct ElementReader {
    spec: SetSpec,
    key_len: usize,
    value_len: usize,
    elements: HashMap<Bytes, Element>,
    /// First keys behind ranges (single-field interval sets).
    ends: Vec<Bytes>,
    duplicates: bool,
    /// Chains of verdicts by their name: parsing it for each element would dominate.
    verdicts: HashMap<Vec<u8>, Option<Verdict>>,
    comments: HashSet<Arc<str>>,
}

/// An element that none of ours can be; in words.
#[derive(Debug)]
pub(super) struct ForeignElement(pub(super) String);

impl ElementReader {
    pub(super) fn new(family: Family, set: SetId) -> Self {
        let spec = set.spec();
        Self {
            key_len: spec.key_len(family),
            value_len: spec.value_fields().iter().map(|field| field.padded_len(family)).sum(),
            spec,
            elements: HashMap::new(),
            ends: Vec::new(),
            duplicates: false,
            verdicts: HashMap::new(),
            comments: HashSet::new(),
        }
    }

    /// Reads the attributes of one message.
    pub(super) fn message(&mut self, attrs: &Attrs<'_>) -> Result<(), ForeignElement> {
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
            (ValueType::Endpoint, Some(data)) => {
                let bytes = Bytes::from_slice(data.nested().find_kind(abi::DATA_VALUE)?.value)?;
                (bytes.as_slice().len() == self.value_len).then_some(Value::Data(bytes))?
            }
            _ => return None,
        };
        let comment = comment.map(|comment| self.intern(comment));
        let old = self.elements.insert(key, Element { key, end, value, comment });
        self.duplicates |= old.is_some();
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
    pub(super) fn has_duplicates(&self) -> bool {
        self.duplicates
    }

    /// Elements of the kernel's kind that were read.
    pub(super) fn count(&self) -> usize {
        self.elements.len() + self.ends.len()
    }

    /// The elements by key; ranges that the kernel holds as two keys are one again. Single keys in interval sets are
    /// ranges from a key to itself.
    pub(super) fn finish(mut self) -> HashMap<Bytes, Element> {
        if self.spec.interval && self.spec.key.len() == 1 {
            self.ends.sort_unstable();
            let last = Bytes::from_slice(&[0xff; 16][..self.key_len]);
            for element in self.elements.values_mut() {
                let behind = self.ends.partition_point(|end| *end <= element.key);
                element.end = self.ends.get(behind).map_or(last, previous_key);
            }
        }
        self.elements
    }
}

#[cfg(test)]
mod tests;
