//! The elements of sets and maps.

use std::sync::Arc;

use super::{Bytes, Verdict};

/// The value of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// In a set.
    None,
    /// In a verdict map.
    Verdict(Verdict),
    /// In a data map: concatenated fields.
    Data(Bytes),
}

/// The most bytes of a comment that `nft` reads, without the terminating zero (libnftnl's NFTNL_UDATA_COMMENT_MAXLEN).
pub const COMMENT_MAX: usize = 128;

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, or the first key of a range.
    pub key: Bytes,
    /// The last key of a range (inclusive, per field in a concatenation); only in interval sets.
    pub end: Option<Bytes>,
    /// What it maps to.
    pub value: Value,
    /// Which Service it belongs to, for people; at most [`COMMENT_MAX`] bytes.
    pub comment: Option<Arc<str>>,
}
