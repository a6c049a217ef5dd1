//! Set elements: the hot path, written and read without a detour through libnftnl's objects.

mod read;

use foldhash::{HashMap, HashMapExt as _};

use crate::model::Family;
use crate::ruleset::{Bytes, COMMENT_MAX, Element, SetName, SetSpec, Value, Verdict};
use crate::wire::abi::{self, elem};
use crate::wire::attr;
use crate::wire::batch::Batch;
use crate::wire::expr;
pub(super) use read::{ElementReader, ForeignElement, read_comment};

/// What to do with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementAction {
    /// Add.
    Add,
    /// Delete; an error when there is none.
    Delete,
    /// Delete if there is one (Linux 6.3).
    Destroy,
}

/// More than the longest element takes: two 40-byte keys, a value, flags and 256 bytes of user data.
const ELEMENT_MAX: usize = 512;
/// Bytes of a list of elements, as its 16-bit length can say.
const LIST_MAX: usize = u16::MAX as usize;

/// Writes messages for all elements.
pub(super) fn write(
    batch: &mut Batch,
    op: usize,
    (family, table, name): (Family, &str, SetName),
    action: ElementAction,
    elements: &[Element],
) {
    let (spec, name) = (name.set.spec(), name.to_string());
    let mut writer = ElementWriter { spec, adding: action == ElementAction::Add, verdicts: HashMap::new() };
    let (kind, flags) = match action {
        ElementAction::Add => (abi::msg::NEWSETELEM, libc::NLM_F_CREATE as u16),
        ElementAction::Delete => (abi::msg::DELSETELEM, 0),
        ElementAction::Destroy => (abi::msg::DESTROYSETELEM, 0),
    };
    let mut done = 0;
    while done < elements.len() {
        done += batch.request((op, done), (kind, expr::nfproto(family), flags), |buf| {
            attr::put_str(buf, elem::LIST_TABLE, table);
            attr::put_str(buf, elem::LIST_SET, &name);
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
            put_userdata(buf, element.comment.as_deref(), open);
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

/// Writes an element of which only the key counts.
pub(super) fn put_key(buf: &mut Vec<u8>, key: &Bytes) {
    let nest = attr::begin_nest(buf, abi::LIST_ELEM);
    put_data(buf, elem::KEY, key);
    attr::end_nest(buf, nest);
}

pub(super) fn put_data(buf: &mut Vec<u8>, kind: u16, bytes: &Bytes) {
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

/// User data for `nft`: the comment, and whether a range is open. Each is a tag, a length and bytes.
pub(super) fn put_userdata(buf: &mut Vec<u8>, comment: Option<&str>, open: bool) {
    if comment.is_none() && !open {
        return;
    }
    let mut userdata = [0_u8; COMMENT_MAX + 16];
    let mut len = 0;
    if let Some(comment) = comment {
        let mut end = comment.len().min(COMMENT_MAX);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        let text = &comment.as_bytes()[..end];
        userdata[0] = elem::UDATA_COMMENT;
        userdata[1] = (text.len() + 1) as u8;
        userdata[2..2 + text.len()].copy_from_slice(text);
        len = text.len() + 3;
    }
    if open {
        userdata[len] = elem::UDATA_FLAGS;
        userdata[len + 1] = 4;
        userdata[len + 2..len + 6].copy_from_slice(&elem::UDATA_F_OPEN.to_ne_bytes());
        len += 6;
    }
    attr::put(buf, elem::USERDATA, &userdata[..len]);
}

/// The key behind a single-field key; `None` behind the last.
fn next_key(key: &Bytes) -> Option<Bytes> {
    let mut bytes = key.as_slice().to_vec();
    step(&mut bytes, u8::overflowing_add).then_some(())?;
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

#[cfg(test)]
mod tests;
