//! Which addresses kube-proxy's rules answer for, in whatever mode it runs: what the way back waits for.
//!
//! The addresses are in the keys of its nftables maps, in the conditions of its chain `KUBE-SERVICES` (either iptables), or on
//! its interface (IPVS). Ports need no look: kube-proxy loads all that it knows in one transaction, when it knows all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{KUBE_PROXY_TABLE, SERVICES_CHAIN, SERVICES_TABLES, address, ipvs, legacy};
use crate::model::Family;
use crate::nftables::{Connection, NftKernel, RequestError, retry_interrupted};
use crate::ruleset::KernelError;
use crate::wire::abi::{self, elem, msg};
use crate::wire::attr::{self, Attrs};
use crate::wire::expr;

/// Maps of its nftables mode whose keys begin with an address: Services with endpoints, and without.
const MAPS: [&str; 2] = ["service-ips", "no-endpoint-services"];
const DOING: &str = "looking for kube-proxy's rules";

impl NftKernel {
    /// The addresses of Services that kube-proxy's rules answer for, whoever of its modes made them.
    pub fn kube_proxy_addresses(&mut self) -> Result<BTreeSet<IpAddr>, KernelError> {
        let mut found = BTreeSet::new();
        for family in Family::ALL {
            for map in MAPS {
                found.extend(keys(&mut self.connection, family, map)?);
            }
            for table in SERVICES_TABLES {
                found.extend(destinations(&mut self.connection, family, table)?);
            }
            let legacy = legacy::destinations(family);
            found.extend(legacy.map_err(|source| KernelError::Io { doing: DOING, source })?);
        }
        found.extend(ipvs::addresses().map_err(|source| KernelError::Io { doing: DOING, source })?);
        Ok(found)
    }
}

fn keys(connection: &mut Connection, family: Family, map: &str) -> Result<Vec<IpAddr>, KernelError> {
    retry_interrupted(DOING, || {
        let request = |buf: &mut Vec<u8>| {
            attr::put_str(buf, elem::LIST_TABLE, KUBE_PROXY_TABLE);
            attr::put_str(buf, elem::LIST_SET, map);
        };
        let dump = connection.dump(msg::GETSETELEM, expr::nfproto(family), request, |message| {
            let key =
                |element: Attrs<'_>| address(family, element.nested_of(elem::KEY)?.find_kind(abi::DATA_VALUE)?.value);
            let list = message.attrs.nested_of(elem::LIST_ELEMENTS).into_iter().flatten();
            Ok(list.filter_map(|element| key(element.nested())).collect::<Vec<_>>())
        });
        match dump {
            Ok((lists, interrupted)) => Ok((!interrupted).then(|| lists.into_iter().flatten().collect())),
            // There is no such table, or no such map.
            Err(RequestError::Errno(libc::ENOENT)) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into_kernel(DOING)),
        }
    })
}

fn destinations(connection: &mut Connection, family: Family, table: &str) -> Result<Vec<IpAddr>, KernelError> {
    retry_interrupted(DOING, || {
        let request = |buf: &mut Vec<u8>| {
            attr::put_str(buf, abi::rule::TABLE, table);
            attr::put_str(buf, abi::rule::CHAIN, SERVICES_CHAIN);
        };
        let dump = connection.dump(msg::GETRULE, expr::nfproto(family), request, |message| {
            // Kernels may send more than was asked for.
            let is_wanted = message.attrs.str_of(abi::rule::TABLE) == Some(table)
                && message.attrs.str_of(abi::rule::CHAIN) == Some(SERVICES_CHAIN);
            let expressions = message.attrs.nested_of(abi::rule::EXPRESSIONS).filter(|_| is_wanted);
            Ok(expressions.and_then(|list| destination(family, &list)))
        });
        match dump {
            Ok((found, interrupted)) => Ok((!interrupted).then(|| found.into_iter().flatten().collect())),
            Err(RequestError::Errno(libc::ENOENT)) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into_kernel(DOING)),
        }
    })
}

/// The one destination address of a rule, as iptables-nft writes it: a load from the network header, then a comparison.
fn destination(family: Family, expressions: &Attrs<'_>) -> Option<IpAddr> {
    /// `NFTA_PAYLOAD_BASE`, `NFTA_PAYLOAD_OFFSET`, `NFTA_CMP_OP`, `NFTA_CMP_DATA`.
    const PAYLOAD_BASE: u16 = 2;
    const PAYLOAD_OFFSET: u16 = 3;
    const CMP_OP: u16 = 2;
    const CMP_DATA: u16 = 3;
    let (offset, len) = match family {
        Family::Ipv4 => (16, 4),
        Family::Ipv6 => (24, 16),
    };
    let mut is_loaded = false;
    for expression in expressions.clone() {
        let expression = expression.nested();
        let data = expression.nested_of(abi::EXPR_DATA);
        match (expression.str_of(abi::EXPR_NAME), data) {
            (Some("payload"), Some(data)) => {
                is_loaded = data.u32_of(PAYLOAD_BASE) == Some(abi::expr::NETWORK_HEADER)
                    && data.u32_of(PAYLOAD_OFFSET) == Some(offset);
            }
            (Some("cmp"), Some(data)) if is_loaded && data.u32_of(CMP_OP) == Some(abi::expr::CMP_EQ) => {
                let value = data.nested_of(CMP_DATA)?.find_kind(abi::DATA_VALUE)?.value;
                // A range would be compared in part, or behind a mask.
                return if value.len() == len { address(family, value) } else { None };
            }
            _ => is_loaded = false,
        }
    }
    None
}
