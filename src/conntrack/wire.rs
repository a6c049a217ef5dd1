//! ctnetlink on the wire: requests written, entries read. Numbers of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;

use super::Entry;
use crate::model::{Family, Protocol};
use crate::netlink::attr::{Attrs, begin_nest, end_nest, put};
use crate::netlink::message::{HEADER_LEN, PREFIX_LEN};
use crate::plan::Target;

/// `NFNL_SUBSYS_CTNETLINK` in the upper byte of a message type.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 2;

/// `IPCTNL_MSG_CT_GET_STATS`: one answer, whatever the size of the table.
const GET_STATS: u16 = 5;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Entries to ask the kernel for. Kernels before 5.8 know the family only and tell of all its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// The family.
    pub family: Family,
    /// The protocol.
    pub protocol: Protocol,
    /// The original destination's port; any when `None`.
    pub port: Option<u16>,
    /// The original destination's address; any when `None`.
    pub ip: Option<IpAddr>,
}

impl Filter {
    /// Entries with one port and one of some addresses, and perhaps others: several addresses cannot be asked for.
    pub fn to_any<'a>(
        family: Family,
        protocol: Protocol,
        port: u16,
        mut ips: impl ExactSizeIterator<Item = &'a IpAddr>,
    ) -> Self {
        // By an IPv6 address the kernel (6.18) tells of all entries but those with that address.
        let single = ips.len() == 1;
        let ip = ips.next().copied().filter(|ip| single && ip.is_ipv4());
        Self { family, protocol, port: Some(port), ip }
    }
}

/// An entry as the kernel told it.
pub(super) struct Told<'a> {
    pub(super) entry: Entry,
    /// What names the entry: the original tuple's attributes, its zone, and the number that no later entry has.
    pub(super) name: Name<'a>,
}

/// What names an entry in a request to delete it.
pub(super) struct Name<'a> {
    original: &'a [u8],
    zone: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
}

/// Appends a request for all entries; for those of the filter unless `plain`.
pub(super) fn put_dump(buf: &mut Vec<u8>, filter: &Filter, plain: bool, seq: u32) {
    let start = put_head(buf, GET, filter.family, libc::NLM_F_DUMP as u16, seq);
    if !plain {
        let mut flags = FILTER_PROTO_NUM;
        let tuple = begin_nest(buf, CTA_TUPLE_ORIG);
        if let Some(ip) = filter.ip {
            flags |= FILTER_IP_DST;
            let nest = begin_nest(buf, CTA_TUPLE_IP);
            match ip {
                IpAddr::V4(ip) => put(buf, CTA_IP_V4_DST, &ip.octets()),
                IpAddr::V6(ip) => put(buf, CTA_IP_V6_DST, &ip.octets()),
            }
            end_nest(buf, nest);
        }
        let nest = begin_nest(buf, CTA_TUPLE_PROTO);
        put(buf, CTA_PROTO_NUM, &[filter.protocol.number()]);
        if let Some(port) = filter.port {
            flags |= FILTER_PROTO_DST_PORT;
            put(buf, CTA_PROTO_DST_PORT, &port.to_be_bytes());
        }
        end_nest(buf, nest);
        end_nest(buf, tuple);
        let nest = begin_nest(buf, CTA_FILTER);
        // In host order, unlike everything else.
        put(buf, CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
        end_nest(buf, nest);
    }
    set_len(buf, start);
}

/// Appends a request for the number of entries, answered at once.
pub(super) fn put_stats(buf: &mut Vec<u8>, seq: u32) {
    let start = put_head(buf, GET_STATS, Family::Ipv4, 0, seq);
    set_len(buf, start);
}

/// Appends a request to delete an entry. Not acknowledged; only failures are answered.
pub(super) fn put_delete(buf: &mut Vec<u8>, family: Family, name: &Name<'_>, seq: u32) {
    let start = put_head(buf, DELETE, family, 0, seq);
    let nest = begin_nest(buf, CTA_TUPLE_ORIG);
    buf.extend_from_slice(name.original);
    end_nest(buf, nest);
    if let Some(zone) = name.zone {
        put(buf, CTA_ZONE, zone);
    }
    if let Some(id) = name.id {
        put(buf, CTA_ID, id);
    }
    set_len(buf, start);
}

/// Reads an entry from the part behind `struct nlmsghdr`; `None` for protocols without ports and for what makes no sense.
pub(super) fn read_entry(body: &[u8]) -> Option<Told<'_>> {
    let family = match i32::from(*body.first()?) {
        libc::AF_INET => Family::Ipv4,
        libc::AF_INET6 => Family::Ipv6,
        _ => return None,
    };
    let (mut original, mut reply, mut zone, mut id) = (None, None, None, None);
    for attr in Attrs::new(body.get(PREFIX_LEN - HEADER_LEN..)?) {
        match attr.kind {
            CTA_TUPLE_ORIG => original = Some(attr.value),
            CTA_TUPLE_REPLY => reply = Some(attr.value),
            CTA_ZONE => zone = Some(attr.value),
            CTA_ID => id = Some(attr.value),
            _ => {}
        }
    }
    let original = original?;
    let sent = read_tuple(original)?;
    let answer = read_tuple(reply?)?;
    let Tuple { protocol, source, destination } = sent;
    let entry = Entry { family, protocol, source, destination, answers_from: answer.source };
    Some(Told { entry, name: Name { original, zone, id } })
}

struct Tuple {
    protocol: u8,
    source: Target,
    destination: Target,
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for part in Attrs::new(bytes) {
        for attr in part.nested() {
            match (part.kind, attr.kind) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => source = address(attr.value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => destination = address(attr.value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = attr.u8(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = port(attr.value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = port(attr.value),
                _ => {}
            }
        }
    }
    Some(Tuple {
        protocol: protocol?,
        source: Target { ip: source?, port: source_port? },
        destination: Target { ip: destination?, port: destination_port? },
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Appends both heads; where the message begins.
fn put_head(buf: &mut Vec<u8>, kind: u16, family: Family, flags: u16, seq: u32) -> usize {
    let start = buf.len();
    let family = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    buf.extend_from_slice(&0_u32.to_ne_bytes());
    buf.extend_from_slice(&(SUBSYSTEM | kind).to_ne_bytes());
    buf.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    buf.extend_from_slice(&seq.to_ne_bytes());
    buf.extend_from_slice(&0_u32.to_ne_bytes());
    buf.extend_from_slice(&[family as u8, 0, 0, 0]);
    start
}

fn set_len(buf: &mut [u8], start: usize) {
    let len = (buf.len() - start) as u32;
    buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::put_u32;

    /// An entry as the kernel writes it: 10.1.0.9:4000 -> 10.96.0.10:53, answers from 10.1.0.1:5353.
    fn told(protocol: u8) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        for (kind, source, destination) in [
            (CTA_TUPLE_ORIG, ([10, 1, 0, 9], 4000_u16), ([10, 96, 0, 10], 53_u16)),
            (CTA_TUPLE_REPLY, ([10, 1, 0, 1], 5353), ([10, 1, 0, 9], 4000)),
        ] {
            let tuple = begin_nest(&mut body, kind);
            let nest = begin_nest(&mut body, CTA_TUPLE_IP);
            put(&mut body, CTA_IP_V4_SRC, &source.0);
            put(&mut body, CTA_IP_V4_DST, &destination.0);
            end_nest(&mut body, nest);
            let nest = begin_nest(&mut body, CTA_TUPLE_PROTO);
            put(&mut body, CTA_PROTO_NUM, &[protocol]);
            put(&mut body, CTA_PROTO_SRC_PORT, &source.1.to_be_bytes());
            put(&mut body, CTA_PROTO_DST_PORT, &destination.1.to_be_bytes());
            end_nest(&mut body, nest);
            end_nest(&mut body, tuple);
        }
        put_u32(&mut body, CTA_ID, 0x1234_5678);
        put(&mut body, CTA_ZONE, &7_u16.to_be_bytes());
        body
    }

    #[test]
    fn an_entry_is_read() {
        let body = told(17);
        let told = read_entry(&body).expect("well-formed");
        let target = |ip: [u8; 4], port| Target { ip: ip.into(), port };
        let expected = Entry {
            family: Family::Ipv4,
            protocol: 17,
            source: target([10, 1, 0, 9], 4000),
            destination: target([10, 96, 0, 10], 53),
            answers_from: target([10, 1, 0, 1], 5353),
        };
        assert_eq!(told.entry, expected);
        assert_eq!(told.name.id, Some(&0x1234_5678_u32.to_be_bytes()[..]));
        assert_eq!(told.name.zone, Some(&[0, 7][..]));
    }

    #[test]
    fn garbled_entries_are_skipped() {
        let body = told(17);
        for end in 0..body.len() - 24 {
            assert!(read_entry(&body[..end]).is_none() || end > 80, "{end}");
        }
        assert!(read_entry(&[libc::AF_UNIX as u8, 0, 0, 0]).is_none());
    }

    #[test]
    fn a_request_to_delete_always_names_the_entry() {
        let body = told(17);
        let told = read_entry(&body).expect("well-formed");
        let mut request = Vec::new();
        put_delete(&mut request, Family::Ipv4, &told.name, 1);
        let attrs = Attrs::new(&request[PREFIX_LEN..]);
        let kinds: Vec<u16> = attrs.clone().map(|attr| attr.kind).collect();
        // Without the first, the kernel would delete everything it knows.
        assert_eq!(kinds, [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID]);
        assert_eq!(attrs.find_kind(CTA_TUPLE_ORIG).map(|attr| attr.value), Some(told.name.original));
        assert_eq!(request.len(), u32::from_ne_bytes(request[..4].try_into().expect("4 bytes")) as usize);
    }
}
