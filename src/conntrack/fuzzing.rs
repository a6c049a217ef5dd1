//! Answers of ctnetlink.

use super::wire;
use crate::model::Family;
use crate::wire::message::messages;

/// Reads what may be answers to a dump, and asks to delete what they tell of.
pub fn answers(bytes: &[u8]) {
    for (_, body) in messages(bytes) {
        if let Some(told) = wire::read_entry(body) {
            let mut request = Vec::new();
            wire::put_delete(&mut request, Family::Ipv4, &told.name, 1);
            assert!(messages(&request).count() == 1, "the request is one message");
        }
    }
}
