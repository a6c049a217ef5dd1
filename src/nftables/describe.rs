//! Objects and errors in words.

use std::io;
use std::net::IpAddr;

use crate::model::{Family, Protocol};
use crate::ruleset::{Bytes, Element, FieldType, Op, SetId, SetName};

/// The object of a change, as `element 10.96.0.1 . tcp . 443 of map ip portway services`.
pub(crate) fn object(family: Family, table: &str, op: &Op, element: Option<usize>) -> String {
    let nft = family.nft();
    match op {
        Op::AddTable | Op::DeleteTable => format!("table {nft} {table}"),
        Op::AddSet(set, _) | Op::DeleteSet(set) => self::set(family, table, *set),
        Op::AddChain(chain) | Op::DeleteChain(chain) => format!("chain {nft} {table} {chain}"),
        Op::AddRule(chain, _) => format!("a rule of chain {nft} {table} {chain}"),
        Op::FlushChain(chain) => format!("the rules of chain {nft} {table} {chain}"),
        Op::FlushForeign(chain) => format!("the rules of chain {nft} {table} {chain}"),
        Op::DeleteForeign(kind, name) => format!("{kind} {nft} {table} {name}"),
        Op::AddElements(set, list) | Op::DeleteElements(set, list) => {
            let whole = self::set(family, table, *set);
            match element.and_then(|index| list.get(index)) {
                Some(element) => format!("element {} of {whole}", key(family, set.set, element)),
                None => format!("an element of {whole}"),
            }
        }
    }
}

fn set(family: Family, table: &str, name: SetName) -> String {
    let kind = if name.set.spec().value == crate::ruleset::ValueType::None { "set" } else { "map" };
    format!("{kind} {} {table} {name}", family.nft())
}

/// The key of an element as `nft` writes it.
fn key(family: Family, set: SetId, element: &Element) -> String {
    let mut at = 0;
    let mut fields = Vec::new();
    for kind in set.spec().key {
        let first = field(family, *kind, &element.key, at);
        let last = element.end.as_ref().map(|end| field(family, *kind, end, at));
        fields.push(match last {
            Some(last) if last != first => format!("{first}-{last}"),
            _ => first,
        });
        at += kind.padded_len(family);
    }
    fields.join(" . ")
}

fn field(family: Family, kind: FieldType, key: &Bytes, at: usize) -> String {
    let text = match kind {
        FieldType::Address => {
            let ip: Option<IpAddr> = match family {
                Family::Ipv4 => key.ipv4_at(at),
                Family::Ipv6 => key.ipv6_at(at),
            };
            ip.map(|ip| ip.to_string())
        }
        FieldType::Protocol => key.u8_at(at).map(|number| {
            Protocol::from_number(number).map_or_else(|| number.to_string(), |known| known.nft().to_owned())
        }),
        FieldType::Port => key.u16_at(at).map(|port| port.to_string()),
        FieldType::Slot => key.u32_host_at(at).map(|slot| slot.to_string()),
        FieldType::ClassId => key.u32_host_at(at).map(|id| format!("{:x}:{:x}", id >> 16, id & 0xffff)),
    };
    text.unwrap_or_else(|| "?".to_owned())
}

/// The error in words, with a hint where one is known.
pub(crate) fn reason(errno: i32, words: Option<&str>, op: Option<&Op>) -> String {
    let adds_elements = matches!(op, Some(Op::AddElements(..)));
    let deletes = matches!(
        op,
        Some(
            Op::DeleteElements(..)
                | Op::DeleteSet(_)
                | Op::DeleteChain(_)
                | Op::DeleteTable
                | Op::FlushChain(_)
                | Op::FlushForeign(_)
                | Op::DeleteForeign(..)
        )
    );
    let hint = match errno {
        libc::EPERM => "needs CAP_NET_ADMIN, and a table that no other process owns",
        libc::ENFILE if adds_elements => "the set is full",
        libc::EBUSY | libc::EEXIST if adds_elements => "the key is there with another value",
        libc::ENOTEMPTY if adds_elements => "the range overlaps another one",
        libc::EBUSY if deletes => "it is still in use",
        libc::ENOENT if deletes => "there is none",
        libc::ENOENT => "something it refers to does not exist, or the kernel lacks a module for it",
        libc::EOPNOTSUPP => "this kernel does not support it",
        libc::EINVAL => "this kernel does not understand it",
        libc::EMSGSIZE => "the transaction is too big for the socket's send buffer",
        libc::ELOOP => "chains jump in a circle",
        libc::EMLINK => "chains jump too deep",
        libc::EEXIST => "it exists and is different",
        _ => "",
    };
    let mut text = io::Error::from_raw_os_error(errno).to_string();
    for more in [words.unwrap_or_default(), hint] {
        if !more.is_empty() {
            text.push_str(": ");
            text.push_str(more);
        }
    }
    text
}
