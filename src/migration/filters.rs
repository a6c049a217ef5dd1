//! Filters of other programs that drop forwarded connections. kube-proxy accepts connections to Services by its packet
//! mark; Portway sets no mark and accepts nothing.

use std::collections::BTreeMap;
use std::fmt;

use super::leftovers;
use crate::model::Family;
use crate::nftables::{NftKernel, retry_interrupted};
use crate::ruleset::{KernelError, TABLE_NAME};
use crate::wire::abi;
use crate::wire::attr::Attrs;

const DOING: &str = "listing filters of forwarded packets";
/// Families that filter, as the kernel numbers and `nft` calls them.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_DROP`, as a policy and as a verdict.
const DROP: u32 = 0;
/// What a rule that meets all packets may consist of; `target` is how iptables-nft keeps some of its targets.
const UNCONDITIONAL: [&str; 5] = ["counter", "log", "immediate", "reject", "target"];
/// `NFTA_TARGET_NAME`.
const TARGET_NAME: u16 = 1;

/// A chain that drops forwarded packets unless a rule of it accepts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardFilter {
    /// `inet`, `ip` or `ip6`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// It belongs to legacy iptables, and `nft` does not show it.
    pub is_legacy: bool,
}

impl fmt::Display for ForwardFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.is_legacy { " of legacy iptables" } else { "" };
        write!(f, "chain {} of table {} {}{of}", self.chain, self.family, self.table)
    }
}

impl ForwardFilter {
    /// A command that lets connections to Services pass.
    pub fn remedy(&self) -> String {
        let Self { family, table, chain, is_legacy } = self;
        match (is_legacy, *family) {
            (true, "ip6") => format!("ip6tables-legacy -I {chain} -m conntrack --ctstate DNAT -j ACCEPT"),
            (true, _) => format!("iptables-legacy -I {chain} -m conntrack --ctstate DNAT -j ACCEPT"),
            (false, _) => format!("nft insert rule {family} {table} {chain} ct status dnat accept"),
        }
    }
}

type ChainName = (String, String);

impl NftKernel {
    /// Chains of others where forwarded packets end that no rule accepts: those with policy drop, and those with a rule that
    /// drops or rejects all. Whether one of their rules accepts Services is not looked at.
    pub fn forward_filters(&mut self) -> Result<Vec<ForwardFilter>, KernelError> {
        let mut all = Vec::new();
        for (number, family) in FAMILIES {
            let chains = self.forward_chains(number)?;
            let closed = if chains.is_empty() { Vec::new() } else { self.chains_that_end(number)? };
            let drops = chains.into_iter().filter(|(chain, by_policy)| *by_policy || closed.contains(chain));
            all.extend(drops.map(|((table, chain), _)| ForwardFilter { family, table, chain, is_legacy: false }));
        }
        for family in Family::ALL {
            match leftovers::legacy_forward_drops(family) {
                Ok(false) => {}
                Ok(true) => all.push(ForwardFilter {
                    family: family.nft(),
                    table: "filter".to_owned(),
                    chain: "FORWARD".to_owned(),
                    is_legacy: true,
                }),
                // Only root may look; who removes kube-proxy's chains is told so then.
                Err(cause) => tracing::debug!(%cause, %family, "cannot read legacy iptables"),
            }
        }
        Ok(all)
    }

    /// Filters at the hook, and whether their policy is drop.
    fn forward_chains(&mut self, family: u8) -> Result<BTreeMap<ChainName, bool>, KernelError> {
        retry_interrupted(DOING, || {
            let dump = self.connection.dump(
                abi::msg::GETCHAIN,
                family,
                |_| {},
                |message| {
                    let attrs = &message.attrs;
                    let chain = || {
                        (attrs.str_of(abi::chain::TYPE)? == "filter").then_some(())?;
                        let hook = attrs.nested_of(abi::chain::HOOK)?.u32_of(abi::chain::HOOK_NUM)?;
                        let table = attrs.str_of(abi::chain::TABLE)?;
                        // kube-proxy's own goes with it.
                        (hook == FORWARD && ![TABLE_NAME, "kube-proxy"].contains(&table)).then_some(())?;
                        let chain = (table.to_owned(), attrs.str_of(abi::chain::NAME)?.to_owned());
                        Some((chain, attrs.u32_of(abi::chain::POLICY) == Some(DROP)))
                    };
                    Ok(chain())
                },
            );
            let (chains, interrupted) = dump.map_err(|error| error.into_kernel(DOING))?;
            Ok((!interrupted).then(|| chains.into_iter().flatten().collect()))
        })
    }

    /// Chains with a rule that drops or rejects whatever comes to it.
    fn chains_that_end(&mut self, family: u8) -> Result<Vec<ChainName>, KernelError> {
        retry_interrupted(DOING, || {
            let dump = self.connection.dump(
                abi::msg::GETRULE,
                family,
                |_| {},
                |message| {
                    let attrs = &message.attrs;
                    let chain = || {
                        let expressions = attrs.nested_of(abi::rule::EXPRESSIONS)?;
                        ends_all(&expressions).then_some(())?;
                        Some((attrs.str_of(abi::rule::TABLE)?.to_owned(), attrs.str_of(abi::rule::CHAIN)?.to_owned()))
                    };
                    Ok(chain())
                },
            );
            let (rules, interrupted) = dump.map_err(|error| error.into_kernel(DOING))?;
            Ok((!interrupted).then(|| rules.into_iter().flatten().collect()))
        })
    }
}

/// Whether a rule has no condition, and drops or rejects.
fn ends_all(expressions: &Attrs<'_>) -> bool {
    let name = |expression: &Attrs<'_>| expression.str_of(abi::EXPR_NAME).unwrap_or_default().to_owned();
    let drops = |expression: &Attrs<'_>| {
        let data = || {
            let data = expression.nested_of(abi::EXPR_DATA)?.nested_of(abi::IMMEDIATE_DATA)?;
            data.nested_of(abi::DATA_VERDICT)?.u32_of(abi::VERDICT_CODE)
        };
        let target = || expression.nested_of(abi::EXPR_DATA)?.str_of(TARGET_NAME);
        match name(expression).as_str() {
            "reject" => true,
            "immediate" => data() == Some(DROP),
            "target" => target() == Some("REJECT"),
            _ => false,
        }
    };
    let parts: Vec<Attrs<'_>> = expressions.clone().map(|expression| expression.nested()).collect();
    parts.iter().all(|part| UNCONDITIONAL.contains(&name(part).as_str())) && parts.iter().any(drops)
}
