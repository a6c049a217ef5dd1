//! Base chains of other programs that take part in address translation.

use crate::nftables::{NftKernel, retry_interrupted};
use crate::ruleset::{KernelError, TABLE_NAME};
use crate::wire::abi;

const DOING: &str = "listing base chains";
/// Families that translate, as the kernel numbers and `nft` calls them.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// A base chain of another table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `inet`, `ip` or `ip6`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook, as the kernel numbers it.
    pub hook: u32,
    /// Lower ones come first.
    pub priority: i32,
}

impl NftKernel {
    /// Chains of type nat in tables other than ours. Only names are read.
    pub fn nat_chains_of_others(&mut self) -> Result<Vec<BaseChain>, KernelError> {
        let mut all = Vec::new();
        for (number, family) in FAMILIES {
            all.extend(retry_interrupted(DOING, || {
                let dump = self.connection.dump(
                    abi::msg::GETCHAIN,
                    number,
                    |_| {},
                    |message| {
                        let attrs = &message.attrs;
                        let chain = || {
                            (attrs.str_of(abi::chain::TYPE)? == "nat").then_some(())?;
                            let hook = attrs.nested_of(abi::chain::HOOK)?;
                            Some(BaseChain {
                                family,
                                table: attrs.str_of(abi::chain::TABLE).filter(|table| *table != TABLE_NAME)?.to_owned(),
                                name: attrs.str_of(abi::chain::NAME)?.to_owned(),
                                hook: hook.u32_of(abi::chain::HOOK_NUM)?,
                                priority: hook.u32_of(abi::chain::HOOK_PRIORITY)? as i32,
                            })
                        };
                        Ok(chain())
                    },
                );
                let (chains, interrupted) = dump.map_err(|error| error.into_kernel(DOING))?;
                Ok((!interrupted).then(|| chains.into_iter().flatten().collect::<Vec<_>>()))
            })?);
        }
        Ok(all)
    }
}
