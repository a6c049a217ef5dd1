//! What elements are called in comments.

use std::sync::Arc;

use crate::model::{Service, ServicePort};
use crate::ruleset::COMMENT_MAX;

/// `namespace/service:port`, safe to stand between quotes in nft text. The end of a long one is a hash of all of it: a
/// restart knows by labels whose affinity numbers are whose.
pub(super) fn label(service: &Service, port: &ServicePort) -> Arc<str> {
    let text = match &*port.name {
        "" => service.key.to_string(),
        name => format!("{}:{name}", service.key),
    };
    let plain = |c: char| {
        if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '?' }
    };
    let mut label: String = text.chars().map(plain).collect();
    if label.len() > COMMENT_MAX {
        let hash = format!("~{:08x}", fnv1a(text.as_bytes()));
        label.truncate(COMMENT_MAX - hash.len());
        label += &hash;
    }
    label.into()
}

/// The FNV-1a hash, which stays the same in all versions of this program.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
