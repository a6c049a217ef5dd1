//! A table's own attributes.

use crate::model::Family;
use crate::nftables::connection::{Connection, RequestError};
use crate::ruleset::KernelError;
use crate::wire::{abi, attr, expr};

/// What a table says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableInfo {
    pub(crate) flags: u32,
    /// The netlink port of the socket that owns it.
    pub(crate) owner: Option<u32>,
}

/// Asks for a table of a family; `None` when there is none.
pub(crate) fn table_info(
    connection: &mut Connection,
    family: Family,
    name: &str,
) -> Result<Option<TableInfo>, KernelError> {
    let result = connection.get(
        abi::msg::GETTABLE,
        expr::nfproto(family),
        |buf| attr::put_str(buf, abi::table::NAME, name),
        |message| {
            let flags = message.attrs.u32_of(abi::table::FLAGS).unwrap_or(0);
            Ok(TableInfo { flags, owner: message.attrs.u32_of(abi::table::OWNER) })
        },
    );
    match result {
        Ok(info) => Ok(info),
        Err(RequestError::Errno(libc::ENOENT)) => Ok(None),
        Err(error) => Err(error.into_kernel("looking for the table")),
    }
}
