//! Rules that are to go while others of their chain stay: the kernel knows them by handles.

use super::connection::Connection;
use crate::model::Family;
use crate::ruleset::{ChainId, KernelError, Op};
use crate::wire::{abi, attr, expr};

/// What is being done, for errors.
const DOING: &str = "looking for the rules of a chain";

/// The handles of the rules that [`Op::KeepRules`] deletes; none for other changes.
pub(super) fn handles(
    connection: &mut Connection,
    table: &str,
    index: usize,
    (family, op): &(Family, Op),
) -> Result<Vec<u64>, KernelError> {
    let Op::KeepRules { chain, kept, of } = op else { return Ok(Vec::new()) };
    let mut rules = of_chain(connection, *family, table, *chain)?;
    if rules.len() != *of {
        return Err(KernelError::Refused {
            op: index,
            element: None,
            object: super::describe::object(*family, table, op, None),
            reason: format!("somebody changed them: it has {} instead of {of}", rules.len()),
            errno: libc::ENOENT,
        });
    }
    rules.drain(kept.clone());
    Ok(rules)
}

/// The handles of a chain's rules, in their order.
fn of_chain(connection: &mut Connection, family: Family, table: &str, chain: ChainId) -> Result<Vec<u64>, KernelError> {
    let name = chain.to_string();
    let rules = connection.dump_again(
        abi::msg::GETRULE,
        expr::nfproto(family),
        |buf| {
            attr::put_str(buf, abi::rule::TABLE, table);
            attr::put_str(buf, abi::rule::CHAIN, &name);
        },
        |message| {
            let attrs = &message.attrs;
            let is_asked_for =
                attrs.str_of(abi::rule::TABLE) == Some(table) && attrs.str_of(abi::rule::CHAIN) == Some(&name);
            let handle = attrs.find_kind(abi::rule::HANDLE).and_then(|attr| attr.u64());
            Ok(handle.filter(|_| is_asked_for))
        },
    );
    let rules = rules.map_err(|error| error.into_kernel(DOING))?;
    Ok(rules.into_iter().flatten().collect())
}
