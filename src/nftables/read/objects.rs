//! What a dump says of chains, rules, sets and other objects.

use crate::model::Family;
use crate::nftables::connection::KernelMessage;
use crate::nftables::set::{Declaration, padded};
use crate::ruleset::{ChainId, Expr, Foreign, ForeignKind, KernelError, SetId};
use crate::wire::attr::{Attr, Attrs};
use crate::wire::{abi, expr};

/// What is being done, for errors.
pub(super) const READING: &str = "reading the table back";

/// The name of a rule's chain, and its instructions; `None` when it is none we would write.
pub(crate) type ReadRule = (String, Option<Vec<Expr>>);

pub(super) fn garbled(what: &str) -> KernelError {
    KernelError::Garbled { doing: READING, what: what.to_owned() }
}

/// Reads a chain; `None` when it is in another table.
pub(super) fn read_chain(table: &str, attrs: &Attrs<'_>) -> Result<Option<Result<ChainId, Foreign>>, KernelError> {
    if attrs.str_of(abi::chain::TABLE) != Some(table) {
        return Ok(None);
    }
    let name = attrs.str_of(abi::chain::NAME).ok_or_else(|| garbled("a chain without name"))?;
    Ok(Some(match name.parse::<ChainId>() {
        Ok(chain) if is_as_declared(chain, attrs) => Ok(chain),
        Ok(_) => Err(Foreign::Other(format!("chain {name}"))),
        Err(_) => Err(Foreign::Object(ForeignKind::Chain, name.to_owned())),
    }))
}

pub(crate) fn read_rule(family: Family, table: &str, message: &KernelMessage<'_>) -> Option<ReadRule> {
    let attrs = &message.attrs;
    if attrs.str_of(abi::rule::TABLE) != Some(table) {
        return None;
    }
    let chain = attrs.str_of(abi::rule::CHAIN)?.to_owned();
    let expressions = attrs.nested_of(abi::rule::EXPRESSIONS).unwrap_or(Attrs::new(&[]));
    Some((chain, expr::decode_all(family, expressions)))
}

pub(super) fn read_object(kind: u16, table: &str, attrs: &Attrs<'_>) -> Option<Foreign> {
    if attrs.str_of(abi::table::NAME) != Some(table) {
        return None;
    }
    let is_flowtable = kind == abi::msg::GETFLOWTABLE;
    let name_attr = if is_flowtable { abi::flowtable::NAME } else { abi::object::NAME };
    let name = attrs.str_of(name_attr)?.to_owned();
    let kind =
        if is_flowtable { ForeignKind::Flowtable } else { ForeignKind::Stateful(attrs.u32_of(abi::object::TYPE)?) };
    Some(Foreign::Object(kind, name))
}

/// Whether a set is part of a rule.
pub(crate) fn is_anonymous(attrs: &Attrs<'_>) -> bool {
    attrs.u32_of(abi::set::FLAGS).is_some_and(|flags| flags & abi::set::F_ANONYMOUS != 0)
}

/// Whether hook, priority, type and policy are what the chain's name stands for.
pub(crate) fn is_as_declared(chain: ChainId, attrs: &Attrs<'_>) -> bool {
    let hook = attrs.nested_of(abi::chain::HOOK);
    match (chain.base(), hook) {
        (None, None) => true,
        (Some(base), Some(hook)) => {
            hook.u32_of(abi::chain::HOOK_NUM) == Some(base.hook)
                && hook.u32_of(abi::chain::HOOK_PRIORITY) == Some(base.priority as u32)
                && attrs.str_of(abi::chain::TYPE) == Some(base.kind)
                && attrs.u32_of(abi::chain::POLICY) == Some(abi::chain::POLICY_ACCEPT)
        }
        _ => false,
    }
}

/// The size the set was given where its declaration leaves that open, else 0; `None` when it is not as declared.
pub(super) fn size_as_declared(family: Family, set: SetId, attrs: &Attrs<'_>) -> Option<u32> {
    let (wanted, found) = (Declaration::of(family, &set.spec()), read_declaration(attrs)?);
    let size = if set.is_sizable() { found.size } else { 0 };
    (Declaration { size: found.size - size, ..found } == wanted).then_some(size)
}

pub(crate) fn read_declaration(attrs: &Attrs<'_>) -> Option<Declaration> {
    let data_type = attrs.u32_of(abi::set::DATA_TYPE);
    let verdict = data_type == Some(abi::set::VERDICT_TYPE);
    let data = match data_type.filter(|_| !verdict) {
        Some(data_type) => Some((data_type, attrs.u32_of(abi::set::DATA_LEN)?)),
        None => None,
    };
    let counter = attrs.nested_of(abi::set::EXPR).and_then(|expr| expr.str_of(abi::EXPR_NAME)) == Some("counter");
    let desc = attrs.nested_of(abi::set::DESC);
    let fields = desc.as_ref().and_then(|desc| desc.nested_of(abi::set::DESC_CONCAT));
    let len = |field: Attr<'_>| field.nested().u32_of(abi::set::FIELD_LEN).unwrap_or(0) as u8;
    let parts: Vec<u8> = fields.into_iter().flatten().map(len).collect();
    Some(Declaration {
        flags: attrs.u32_of(abi::set::FLAGS).unwrap_or(0),
        key_type: attrs.u32_of(abi::set::KEY_TYPE)?,
        key_len: attrs.u32_of(abi::set::KEY_LEN)?,
        data,
        verdict,
        size: desc.and_then(|desc| desc.u32_of(abi::set::DESC_SIZE)).unwrap_or(0),
        timeout: attrs.find_kind(abi::set::TIMEOUT).and_then(|attr| attr.u64()).unwrap_or(0),
        counter,
        parts: padded(&parts),
    })
}
