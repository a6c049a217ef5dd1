//! Changes as messages.

use nftnl::nftnl_sys as sys;

use super::elements::{self, ElementAction};
use super::set;
use crate::ffi::{Chain, Head, Rule, Set, Table};
use crate::model::Family;
use crate::ruleset::{ChainId, ForeignKind, Op, encode_rule};
use crate::wire::abi::{self, msg};
use crate::wire::attr;
use crate::wire::batch::Batch;
use crate::wire::expr;

/// Writes the messages of one change. `table_flags` are for a new table, `surplus` are the rules that are to go where others
/// stay ([`super::surplus`]).
pub(super) fn write(
    batch: &mut Batch,
    index: usize,
    family: Family,
    table: &str,
    op: &Op,
    table_flags: u32,
    surplus: &[u64],
) {
    let head = |kind, flags: i32| Head { kind, family: expr::nfproto(family), flags: flags as u16, seq: 0 };
    let create = |kind| head(kind, libc::NLM_F_CREATE);
    match op {
        Op::AddTable => {
            let object = Table::new().str(sys::NFTNL_TABLE_NAME, table).u32(sys::NFTNL_TABLE_FLAGS, table_flags);
            batch.object(index, create(msg::NEWTABLE), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::DeleteTable => {
            let object = Table::new().str(sys::NFTNL_TABLE_NAME, table);
            batch.object(index, head(msg::DELTABLE, 0), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::AddSet(set, size) => {
            // The identifier only has to differ from that of other sets in the transaction.
            let object = set::object(family, table, *set, *size, index as u32 + 1);
            batch.object(index, create(msg::NEWSET), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::DeleteSet(set) => {
            let object = Set::new().str(sys::NFTNL_SET_TABLE, table).str(sys::NFTNL_SET_NAME, &set.to_string());
            batch.object(index, head(msg::DELSET, 0), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::AddChain(id) => {
            let object = chain(table, *id, true);
            batch.object(index, create(msg::NEWCHAIN), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::DeleteChain(id) => {
            let object = chain(table, *id, false);
            batch.object(index, head(msg::DELCHAIN, 0), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::AddRule(chain, terms) => {
            let mut object = rule(family, table, *chain);
            for code in encode_rule(family, terms) {
                expr::add(&mut object, family, &code);
            }
            let head = head(msg::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
            batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
        }
        Op::FlushChain(chain) => {
            let object = rule(family, table, *chain);
            batch.object(index, head(msg::DELRULE, 0), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::KeepRules { chain, .. } => delete_rules(batch, index, (family, table, *chain), surplus),
        Op::AddElements(set, list) => elements::write(batch, index, (family, table, *set), ElementAction::Add, list),
        Op::DeleteElements(set, list) => {
            elements::write(batch, index, (family, table, *set), ElementAction::Delete, list)
        }
        Op::FlushForeign(chain) => foreign(batch, index, family, msg::DELRULE, |buf| {
            attr::put_str(buf, abi::rule::TABLE, table);
            attr::put_str(buf, abi::rule::CHAIN, chain);
        }),
        Op::DeleteForeign(kind, name) => {
            let (message, name_attr) = match kind {
                ForeignKind::Set => (msg::DELSET, abi::set::NAME),
                ForeignKind::Chain => (msg::DELCHAIN, abi::chain::NAME),
                ForeignKind::Stateful(_) => (msg::DELOBJ, abi::object::NAME),
                ForeignKind::Flowtable => (msg::DELFLOWTABLE, abi::flowtable::NAME),
            };
            foreign(batch, index, family, message, |buf| {
                attr::put_str(buf, abi::table::NAME, table);
                attr::put_str(buf, name_attr, name);
                if let ForeignKind::Stateful(kind) = kind {
                    attr::put_u32(buf, abi::object::TYPE, *kind);
                }
            });
        }
    }
}

fn delete_rules(batch: &mut Batch, index: usize, (family, table, chain): (Family, &str, ChainId), handles: &[u64]) {
    let chain = chain.to_string();
    for handle in handles {
        foreign(batch, index, family, msg::DELRULE, |buf| {
            attr::put_str(buf, abi::rule::TABLE, table);
            attr::put_str(buf, abi::rule::CHAIN, &chain);
            attr::put(buf, abi::rule::HANDLE, &handle.to_be_bytes());
        });
    }
}

/// A message about an object with a name that libnftnl's wrappers need not know.
fn foreign(batch: &mut Batch, index: usize, family: Family, kind: u16, attrs: impl FnOnce(&mut Vec<u8>)) {
    batch.request((index, 0), (kind, expr::nfproto(family), 0), |buf| {
        attrs(buf);
        0
    });
}

fn chain(table: &str, id: ChainId, with_hook: bool) -> Chain {
    let chain = Chain::new().str(sys::NFTNL_CHAIN_TABLE, table).str(sys::NFTNL_CHAIN_NAME, &id.to_string());
    match id.base() {
        Some(base) if with_hook => chain
            .str(sys::NFTNL_CHAIN_TYPE, base.kind)
            .u32(sys::NFTNL_CHAIN_HOOKNUM, base.hook)
            .i32(sys::NFTNL_CHAIN_PRIO, base.priority)
            .u32(sys::NFTNL_CHAIN_POLICY, abi::chain::POLICY_ACCEPT),
        _ => chain,
    }
}

fn rule(family: Family, table: &str, chain: ChainId) -> Rule {
    let nfproto = u32::from(expr::nfproto(family));
    Rule::new()
        .u32(sys::NFTNL_RULE_FAMILY, nfproto)
        .str(sys::NFTNL_RULE_TABLE, table)
        .str(sys::NFTNL_RULE_CHAIN, &chain.to_string())
}
