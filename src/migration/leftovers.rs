//! What kube-proxy leaves behind (specification 9.7): its own tables, the chains of its other modes in nf_tables and in
//! [`legacy`] iptables, and what its IPVS mode makes beside them ([`ipvs`]).

mod blob;
mod in_force;
mod ipvs;
mod legacy;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::ffi::Scratch;
use crate::model::Family;
use crate::nftables::{Connection, KernelAnswer, NftKernel, read, reason, retry_interrupted};
use crate::ruleset::KernelError;
use crate::wire::abi::{self, msg};
use crate::wire::attr::{self, Attrs};
use crate::wire::batch::Batch;
use crate::wire::expr;

/// The chain of its iptables mode that names every ClusterIP: in `nat` those with endpoints, in `filter` the others.
const SERVICES_CHAIN: &str = "KUBE-SERVICES";
const SERVICES_TABLES: [&str; 2] = ["nat", "filter"];
/// kube-proxy's tables in its nftables mode, in families ip and ip6.
const KUBE_PROXY_TABLE: &str = "kube-proxy";
/// The tables iptables-nft keeps kube-proxy's chains in.
const IPTABLES_TABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Chains of kube-proxy; those of the kubelet (KUBE-FIREWALL, KUBE-KUBELET-CANARY) are not among them.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// How the names of its other chains begin.
const CHAIN_PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];
const DOING: &str = "removing what kube-proxy left";

pub(super) use legacy::forward_drops as legacy_forward_drops;

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// Families in which there was a table `kube-proxy`.
    pub tables: Vec<Family>,
    /// Number of chains of its iptables and IPVS modes.
    pub chains: usize,
    /// Whether the virtual services of its IPVS mode were flushed.
    pub virtual_services: bool,
    /// Number of IP sets of its IPVS mode.
    pub ip_sets: usize,
    /// Whether the interface of its IPVS mode was there.
    pub interface: bool,
    /// What could not be removed, and what to do about it.
    pub failures: Vec<String>,
}

impl Leftovers {
    /// There was nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn failed(&mut self, sentence: String) {
        self.failures.push(sentence);
    }
}

impl fmt::Display for Leftovers {
    /// What was removed, a line each; not the failures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "kube-proxy left nothing");
        }
        for family in &self.tables {
            writeln!(f, "deleted table {} {KUBE_PROXY_TABLE}", family.nft())?;
        }
        if self.chains > 0 {
            writeln!(f, "deleted {} iptables chains of kube-proxy", self.chains)?;
        }
        if self.virtual_services {
            writeln!(f, "deleted the virtual services of IPVS")?;
        }
        if self.ip_sets > 0 {
            writeln!(f, "deleted {} IP sets of kube-proxy", self.ip_sets)?;
        }
        if self.interface {
            writeln!(f, "deleted kube-proxy's interface of IPVS")?;
        }
        Ok(())
    }
}

impl NftKernel {
    /// What of nf_tables [`NftKernel::remove_kube_proxy`] would remove.
    pub fn find_kube_proxy(&mut self) -> Result<Leftovers, KernelError> {
        let mut found = Leftovers::default();
        for family in Family::ALL {
            if read::table_info(&mut self.connection, family, KUBE_PROXY_TABLE)?.is_some() {
                found.tables.push(family);
            }
            found.chains += kube_proxy_chains(&mut self.connection, family)?.len();
        }
        Ok(found)
    }

    /// Removes what kube-proxy left, part by part: its tables, its iptables chains, and what its IPVS mode made. Nothing
    /// there is no error. What fails outside of nf_tables is in [`Leftovers::failures`].
    pub fn remove_kube_proxy(&mut self) -> Result<Leftovers, KernelError> {
        let mut found = Leftovers { tables: self.delete_tables(KUBE_PROXY_TABLE)?, ..Leftovers::default() };
        for family in Family::ALL {
            found.chains += remove_chains(&mut self.connection, family)?;
        }
        legacy::remove(&mut found);
        ipvs::remove(&mut found);
        Ok(found)
    }
}

/// A chain of iptables.
type IptablesChain = (String, String);

fn remove_chains(connection: &mut Connection, family: Family) -> Result<usize, KernelError> {
    let chains = kube_proxy_chains(connection, family)?;
    if chains.is_empty() {
        return Ok(0);
    }
    let mut batch = Batch::new(connection.next_seq(), Scratch::new());
    let mut request = |kind: u16, attrs: &dyn Fn(&mut Vec<u8>)| {
        batch.request((0, 0), (kind, expr::nfproto(family), 0), |buf| {
            attrs(buf);
            0
        });
    };
    for (chain, handle) in rules_that_jump_to(connection, family, &chains)? {
        request(msg::DELRULE, &|buf| {
            attr::put_str(buf, abi::rule::TABLE, &chain.0);
            attr::put_str(buf, abi::rule::CHAIN, &chain.1);
            attr::put(buf, abi::rule::HANDLE, &handle.to_be_bytes());
        });
    }
    for (table, chain) in &chains {
        request(msg::DELRULE, &|buf| {
            attr::put_str(buf, abi::rule::TABLE, table);
            attr::put_str(buf, abi::rule::CHAIN, chain);
        });
    }
    for (table, chain) in &chains {
        request(msg::DELCHAIN, &|buf| {
            attr::put_str(buf, abi::chain::TABLE, table);
            attr::put_str(buf, abi::chain::NAME, chain);
        });
    }
    batch.finish(false);
    match connection.send_batch(&batch).map_err(|source| KernelError::Io { doing: DOING, source })? {
        KernelAnswer::Done | KernelAnswer::Unknown => Ok(chains.len()),
        KernelAnswer::Failed(failure) => Err(KernelError::Refused {
            op: 0,
            element: None,
            object: format!("the removal of kube-proxy's iptables chains in family {}", family.nft()),
            reason: reason(failure.errno, failure.words.as_deref(), None),
            errno: failure.errno,
        }),
    }
}

fn kube_proxy_chains(connection: &mut Connection, family: Family) -> Result<BTreeSet<IptablesChain>, KernelError> {
    retry_interrupted(DOING, || {
        let dump = connection.dump(
            msg::GETCHAIN,
            expr::nfproto(family),
            |_| {},
            |message| {
                let chain = name_of(&message.attrs, abi::chain::TABLE, abi::chain::NAME);
                Ok(chain.filter(|(table, name)| IPTABLES_TABLES.contains(&table.as_str()) && is_kube_proxys(name)))
            },
        );
        let (chains, interrupted) = dump.map_err(|error| error.into_kernel(DOING))?;
        Ok((!interrupted).then(|| chains.into_iter().flatten().collect()))
    })
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || CHAIN_PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// Rules outside these chains that lead into them, by chain and handle.
fn rules_that_jump_to(
    connection: &mut Connection,
    family: Family,
    chains: &BTreeSet<IptablesChain>,
) -> Result<Vec<(IptablesChain, u64)>, KernelError> {
    retry_interrupted(DOING, || {
        let dump = connection.dump(
            msg::GETRULE,
            expr::nfproto(family),
            |_| {},
            |message| {
                let Some(chain) = name_of(&message.attrs, abi::rule::TABLE, abi::rule::CHAIN) else { return Ok(None) };
                let handle = message.attrs.find_kind(abi::rule::HANDLE).and_then(|attr| attr.u64());
                let target = message.attrs.nested_of(abi::rule::EXPRESSIONS).and_then(|list| jump(&list));
                let leads_there = target.is_some_and(|target| chains.contains(&(chain.0.clone(), target)));
                let is_outside = !chains.contains(&chain);
                Ok(handle.filter(|_| leads_there && is_outside).map(|handle| (chain, handle)))
            },
        );
        let (rules, interrupted) = dump.map_err(|error| error.into_kernel(DOING))?;
        Ok((!interrupted).then(|| rules.into_iter().flatten().collect()))
    })
}

fn name_of(attrs: &Attrs<'_>, table: u16, chain: u16) -> Option<IptablesChain> {
    Some((attrs.str_of(table)?.to_owned(), attrs.str_of(chain)?.to_owned()))
}

/// The chain a rule's verdict leads to.
fn jump(expressions: &Attrs<'_>) -> Option<String> {
    let verdict = |expression: Attrs<'_>| {
        (expression.str_of(abi::EXPR_NAME)? == "immediate").then_some(())?;
        let data = expression.nested_of(abi::EXPR_DATA)?.nested_of(abi::IMMEDIATE_DATA)?;
        Some(data.nested_of(abi::DATA_VERDICT)?.str_of(abi::VERDICT_CHAIN)?.to_owned())
    };
    expressions.clone().find_map(|expression| verdict(expression.nested()))
}

/// An address of a family, from the bytes it begins.
fn address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::Ipv4 => IpAddr::from(*bytes.first_chunk::<4>()?),
        Family::Ipv6 => IpAddr::from(*bytes.first_chunk::<16>()?),
    })
}
