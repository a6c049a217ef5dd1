//! The counters of frontends.

use super::abi::{self, elem};
use super::attr::{self, Attr};
use super::elements::read_comment;
use super::expr;
use super::link::{Link, RequestError};
use crate::model::{Family, Protocol};
use crate::plan::FrontendKey;
use crate::ruleset::{FieldType, KernelError, SetId, TABLE_NAME};

const DOING: &str = "reading the counters of frontends";

/// A frontend and the connections it has been asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendCount {
    /// The frontend.
    pub key: FrontendKey,
    /// `namespace/service:port`; long ones are cut.
    pub label: String,
    /// New connections since the element was written: the chains see the first packet of each, and every packet of those
    /// that are refused.
    pub connections: u64,
}

/// Reads counters on a socket of its own: the kernel lists sets without holding up transactions.
pub struct FrontendCounters(Link);

impl FrontendCounters {
    /// Opens the socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, KernelError> {
        Link::open().map(Self).map_err(|source| KernelError::Io { doing: DOING, source })
    }

    /// All frontends of a family. While the table changes, one may be missing or come twice.
    pub fn read(&mut self, family: Family) -> Result<Vec<FrontendCount>, KernelError> {
        let mut found = Vec::new();
        for set in [SetId::Services, SetId::Nodeports] {
            let dump = self.0.dump(
                abi::msg::GETSETELEM,
                expr::nfproto(family),
                |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, TABLE_NAME);
                    attr::put_str(buf, elem::LIST_SET, set.spec().name);
                },
                |message| {
                    let list = message.attrs.nested_of(elem::LIST_ELEMENTS);
                    found.extend(list.into_iter().flatten().filter_map(|element| count(element, family, set)));
                    Ok(())
                },
            );
            match dump {
                // No table yet.
                Ok(_) | Err(RequestError::Errno(libc::ENOENT)) => {}
                Err(error) => return Err(error.into_kernel(DOING)),
            }
        }
        Ok(found)
    }
}

fn count(element: Attr<'_>, family: Family, set: SetId) -> Option<FrontendCount> {
    let attrs = element.nested();
    let key = attrs.nested_of(elem::KEY)?.find_kind(abi::DATA_VALUE)?.value;
    let counter = attrs.nested_of(elem::EXPR).filter(|expr| expr.str_of(abi::EXPR_NAME) == Some("counter"))?;
    Some(FrontendCount {
        key: frontend(key, family, set)?,
        label: attrs
            .find_kind(elem::USERDATA)
            .and_then(|notes| read_comment(notes.value))
            .unwrap_or_default()
            .to_owned(),
        connections: counter.nested_of(abi::EXPR_DATA)?.find_kind(abi::COUNTER_PACKETS)?.u64()?,
    })
}

fn frontend(key: &[u8], family: Family, set: SetId) -> Option<FrontendKey> {
    let key = crate::ruleset::Bytes::from_slice(key)?;
    let has_address = set.spec().key.contains(&FieldType::Address);
    let after = if has_address { family.address_len() } else { 0 };
    let (protocol, port) = (Protocol::from_number(key.u8_at(after)?)?, key.u16_at(after + 4)?);
    if !has_address {
        return Some(FrontendKey::NodePort { protocol, port });
    }
    let ip = match family {
        Family::Ipv4 => key.ipv4_at(0)?,
        Family::Ipv6 => key.ipv6_at(0)?,
    };
    Some(FrontendKey::Address { ip, protocol, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_written() {
        for (key, family, set) in [
            ("10.96.0.1", Family::Ipv4, SetId::Services),
            ("fd00::1", Family::Ipv6, SetId::Services),
            ("", Family::Ipv6, SetId::Nodeports),
        ]
        .map(|(ip, family, set)| {
            let (protocol, port) = (Protocol::Sctp, 4711);
            let key = match ip.parse() {
                Ok(ip) => FrontendKey::Address { ip, protocol, port },
                Err(_) => FrontendKey::NodePort { protocol, port },
            };
            (key, family, set)
        }) {
            let bytes = key.bytes();
            assert_eq!(frontend(bytes.as_slice(), family, set), Some(key));
            assert_eq!(frontend(&bytes.as_slice()[..4], family, set), None);
        }
    }
}
