//! Netlink messages of netfilter: what nf_tables, conntrack and IPVS have in common, and how nf_tables encodes transactions
//! and expressions.
//!
//! [`socket::Socket`] is the only netlink socket of the program, besides those of rtnetlink.

pub(crate) mod abi;
pub(crate) mod attr;
pub(crate) mod batch;
pub(crate) mod expr;
pub(crate) mod message;
pub(crate) mod socket;

#[cfg(test)]
mod tests;
