//! Changes as messages.

use nftnl::nftnl_sys as sys;

use super::abi::msg;
use super::batch::Batch;
use super::elements::{self, Action};
use super::ffi::{Chain, Head, Rule, Set, Table};
use super::{declare, expr};
use crate::model::Family;
use crate::ruleset::{ChainId, Op, lower};

/// Writes the messages of one change. `table_flags` are for a new table.
pub(super) fn write(batch: &mut Batch, index: usize, family: Family, table: &str, op: &Op, table_flags: u32) {
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
            let object = declare::set(family, table, *set, *size, index as u32 + 1);
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
            for code in lower(family, terms) {
                expr::add(&mut object, family, &code);
            }
            let head = head(msg::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
            batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
        }
        Op::FlushChain(chain) => {
            let object = rule(family, table, *chain);
            batch.object(index, head(msg::DELRULE, 0), |scratch, head, out| object.build(scratch, head, out));
        }
        Op::AddElements(set, list) => elements::write(batch, index, (family, table, *set), Action::Add, list),
        Op::DeleteElements(set, list) => elements::write(batch, index, (family, table, *set), Action::Delete, list),
    }
}

fn chain(table: &str, id: ChainId, with_hook: bool) -> Chain {
    let chain = Chain::new().str(sys::NFTNL_CHAIN_TABLE, table).str(sys::NFTNL_CHAIN_NAME, &id.to_string());
    match id.base() {
        Some(base) if with_hook => chain
            .str(sys::NFTNL_CHAIN_TYPE, "nat")
            .u32(sys::NFTNL_CHAIN_HOOKNUM, base.hook)
            .i32(sys::NFTNL_CHAIN_PRIO, base.priority)
            .u32(sys::NFTNL_CHAIN_POLICY, super::abi::chain::POLICY_ACCEPT),
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
