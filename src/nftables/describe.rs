//! Objects and errors in words.

use std::io;

use crate::model::Family;
use crate::render;
use crate::ruleset::{Op, SetName};

/// The object of a change, as `element 10.96.0.1 . tcp . 443 of map ip portway services`.
pub(crate) fn object(family: Family, table: &str, op: &Op, element: Option<usize>) -> String {
    let nft = family.nft();
    match op {
        Op::AddTable | Op::DeleteTable => format!("table {nft} {table}"),
        Op::AddSet(set, _) | Op::DeleteSet(set) => self::set(family, table, *set),
        Op::AddChain(chain) | Op::DeleteChain(chain) => format!("chain {nft} {table} {chain}"),
        Op::AddRule(chain, _) => format!("a rule of chain {nft} {table} {chain}"),
        Op::FlushChain(chain) => format!("the rules of chain {nft} {table} {chain}"),
        Op::KeepRules { chain, .. } => format!("rules of chain {nft} {table} {chain}"),
        Op::FlushForeign(chain) => format!("the rules of chain {nft} {table} {chain}"),
        Op::DeleteForeign(kind, name) => format!("{kind} {nft} {table} {name}"),
        Op::AddElements(set, list) | Op::DeleteElements(set, list) => {
            let whole = self::set(family, table, *set);
            match element.and_then(|index| list.get(index)) {
                Some(element) => format!("element {} of {whole}", render::key_text(family, set.set, element)),
                None => format!("an element of {whole}"),
            }
        }
    }
}

fn set(family: Family, table: &str, name: SetName) -> String {
    format!("{} {} {table} {name}", render::kind(name.set), family.nft())
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
                | Op::KeepRules { .. }
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
