//! ctnetlink on the wire: requests written, entries read. Numbers of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;

use super::FlowEntry;
use crate::model::{Family, Protocol};

use crate::plan::Target;
use crate::wire::attr::{Attrs, begin_nest, end_nest, put};
use crate::wire::message::{self, HEADER_LEN, PREFIX_LEN};

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

const FILTER_PROTO_NUM: u32 = 1 << 3;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Where an entry has the address and port of a filter.
struct Side {
    tuple: u16,
    ipv4: u16,
    ipv6: u16,
    port: u16,
    /// `CTA_FILTER_*_FLAGS`, and what stands there for address and port.
    flags: u16,
    ip_flag: u32,
    port_flag: u32,
}

/// The original destination.
const SENT: Side = Side {
    tuple: CTA_TUPLE_ORIG,
    ipv4: CTA_IP_V4_DST,
    ipv6: CTA_IP_V6_DST,
    port: CTA_PROTO_DST_PORT,
    flags: 1,
    ip_flag: 1 << 1,
    port_flag: 1 << 5,
};
/// The source of answers.
const ANSWERS: Side = Side {
    tuple: CTA_TUPLE_REPLY,
    ipv4: CTA_IP_V4_SRC,
    ipv6: CTA_IP_V6_SRC,
    port: CTA_PROTO_SRC_PORT,
    flags: 2,
    ip_flag: 1,
    port_flag: 1 << 4,
};

/// Entries to ask the kernel for. Kernels before 5.8 know the family only and tell of all its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpFilter {
    /// The family.
    pub family: Family,
    /// The protocol.
    pub protocol: Protocol,
    /// The original destination's port; any when `None`.
    pub port: Option<u16>,
    /// The original destination's address; any when `None`.
    pub ip: Option<IpAddr>,
    /// Port and address are those that answers come from, in the place of the original destination's.
    pub answers: bool,
}

impl DumpFilter {
    /// All entries of a protocol.
    pub fn all(family: Family, protocol: Protocol) -> Self {
        Self { family, protocol, port: None, ip: None, answers: false }
    }

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
        Self { family, protocol, port: Some(port), ip, answers: false }
    }
}

/// An entry as the kernel told it.
pub(super) struct ReadEntry<'a> {
    pub(super) entry: FlowEntry,
    /// What names the entry: the original tuple's attributes, and the number that no later entry has.
    pub(super) name: EntryId<'a>,
    /// It is in a zone of somebody else (`ct zone`), who may know the same addresses as other hosts.
    pub(super) foreign: bool,
}

/// What names an entry in a request to delete it.
pub(super) struct EntryId<'a> {
    original: &'a [u8],
    id: Option<&'a [u8]>,
}

/// Appends a request for all entries; for those of the filter unless `plain`.
pub(super) fn put_dump(buf: &mut Vec<u8>, filter: &DumpFilter, plain: bool, seq: u32) {
    let start = begin(buf, GET, filter.family, libc::NLM_F_DUMP as u16, seq);
    if !plain {
        let mut flags = FILTER_PROTO_NUM;
        let side = if filter.answers { ANSWERS } else { SENT };
        let tuple = begin_nest(buf, side.tuple);
        if let Some(ip) = filter.ip {
            flags |= side.ip_flag;
            let nest = begin_nest(buf, CTA_TUPLE_IP);
            match ip {
                IpAddr::V4(ip) => put(buf, side.ipv4, &ip.octets()),
                IpAddr::V6(ip) => put(buf, side.ipv6, &ip.octets()),
            }
            end_nest(buf, nest);
        }
        let nest = begin_nest(buf, CTA_TUPLE_PROTO);
        put(buf, CTA_PROTO_NUM, &[filter.protocol.number()]);
        if let Some(port) = filter.port {
            flags |= side.port_flag;
            put(buf, side.port, &port.to_be_bytes());
        }
        end_nest(buf, nest);
        end_nest(buf, tuple);
        let nest = begin_nest(buf, CTA_FILTER);
        // In host order, unlike everything else.
        put(buf, side.flags, &flags.to_ne_bytes());
        end_nest(buf, nest);
    }
    message::end(buf, start);
}

/// Appends a request for the number of entries, answered at once.
pub(super) fn put_stats(buf: &mut Vec<u8>, seq: u32) {
    let start = begin(buf, GET_STATS, Family::Ipv4, 0, seq);
    message::end(buf, start);
}

/// Appends a request to delete an entry of the default zone. Not acknowledged; only failures are answered.
pub(super) fn put_delete(buf: &mut Vec<u8>, family: Family, name: &EntryId<'_>, seq: u32) {
    let start = begin(buf, DELETE, family, 0, seq);
    let nest = begin_nest(buf, CTA_TUPLE_ORIG);
    buf.extend_from_slice(name.original);
    end_nest(buf, nest);
    if let Some(id) = name.id {
        put(buf, CTA_ID, id);
    }
    message::end(buf, start);
}

/// Reads an entry from the part behind `struct nlmsghdr`; `None` for protocols without ports and for what makes no sense.
pub(super) fn read_entry(body: &[u8]) -> Option<ReadEntry<'_>> {
    let family = match i32::from(*body.first()?) {
        libc::AF_INET => Family::Ipv4,
        libc::AF_INET6 => Family::Ipv6,
        _ => return None,
    };
    // The kernel mentions a zone only where it is not the default one.
    let (mut original, mut reply, mut foreign, mut id) = (None, None, false, None);
    for attr in Attrs::new(body.get(PREFIX_LEN - HEADER_LEN..)?) {
        match attr.kind {
            CTA_TUPLE_ORIG => original = Some(attr.value),
            CTA_TUPLE_REPLY => reply = Some(attr.value),
            CTA_ZONE => foreign = true,
            CTA_ID => id = Some(attr.value),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    // A zone of one direction only stands in that direction's tuple.
    foreign |= [original, reply].iter().any(|tuple| Attrs::new(tuple).find_kind(CTA_TUPLE_ZONE).is_some());
    let sent = read_tuple(original)?;
    let answer = read_tuple(reply)?;
    let Tuple { protocol, source, destination } = sent;
    let entry = FlowEntry { family, protocol, source, destination, answers_from: answer.source };
    Some(ReadEntry { entry, name: EntryId { original, id }, foreign })
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
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => source = attr.ip(),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => destination = attr.ip(),
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

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Begins a request; where it begins.
fn begin(buf: &mut Vec<u8>, kind: u16, family: Family, flags: u16, seq: u32) -> usize {
    let family = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    message::begin_netfilter(buf, SUBSYSTEM | kind, family as u8, flags, seq, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::attr::put_u32;

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
        body
    }

    #[test]
    fn an_entry_is_read() {
        let body = told(17);
        let told = read_entry(&body).expect("well-formed");
        let target = |ip: [u8; 4], port| Target { ip: ip.into(), port };
        let expected = FlowEntry {
            family: Family::Ipv4,
            protocol: 17,
            source: target([10, 1, 0, 9], 4000),
            destination: target([10, 96, 0, 10], 53),
            answers_from: target([10, 1, 0, 1], 5353),
        };
        assert_eq!(told.entry, expected);
        assert_eq!(told.name.id, Some(&0x1234_5678_u32.to_be_bytes()[..]));
        assert!(!told.foreign);
    }

    #[test]
    fn entries_in_the_zones_of_others_are_told_apart() {
        let mut body = told(17);
        put(&mut body, CTA_ZONE, &7_u16.to_be_bytes());
        assert!(read_entry(&body).expect("well-formed").foreign);
        let mut body = told(17);
        // Behind the head is the original tuple, here with a zone of its own.
        let len = u16::from_ne_bytes([body[4], body[5]]) + 8;
        body[4..6].copy_from_slice(&len.to_ne_bytes());
        let mut zone = Vec::new();
        put(&mut zone, CTA_TUPLE_ZONE, &7_u16.to_be_bytes());
        body.splice(usize::from(len) - 4..usize::from(len) - 4, zone);
        assert!(read_entry(&body).expect("well-formed").foreign);
    }

    #[test]
    fn garbled_entries_are_skipped() {
        let body = told(17);
        for end in 0..body.len() - 16 {
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
        assert_eq!(kinds, [CTA_TUPLE_ORIG, CTA_ID]);
        assert_eq!(attrs.find_kind(CTA_TUPLE_ORIG).map(|attr| attr.value), Some(told.name.original));
        assert_eq!(request.len(), u32::from_ne_bytes(request[..4].try_into().expect("4 bytes")) as usize);
    }
}
