//! First packets of connections, made and recognised byte by byte.
//!
//! All protocols are treated alike: a TCP SYN, a UDP datagram, an SCTP INIT or an echo request carries a 32-bit tag in a
//! place that no address translation touches, so a packet is known again wherever it turns up and under whichever
//! addresses, also when only an ICMP error quotes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// What echo requests begin with, in either family.
const ECHO_REQUESTS: [u8; 2] = [8, 128];
/// Announces a tag in the payload of a datagram or an echo request.
const MAGIC: &[u8; 8] = b"portway!";
/// The length of an SCTP INIT packet without parameters.
const SCTP_INIT_LENGTH: usize = 32;

/// A protocol of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A SYN is sent.
    Tcp,
    /// A small datagram is sent.
    Udp,
    /// An INIT is sent.
    Sctp,
    /// An echo request is sent; its identifier and sequence number stand where others have ports.
    Icmp,
}

impl Protocol {
    /// Those that Services can have.
    pub const TRANSPORTS: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The number in the IP header; in that of IPv4 for ICMP.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => ICMP,
        }
    }

    /// The protocol with this name, in Kubernetes objects if they have it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::TRANSPORTS.into_iter().chain([Self::Icmp]).find(|protocol| protocol.to_string() == name)
    }

    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            ICMP | ICMPV6 => Some(Self::Icmp),
            _ => Self::TRANSPORTS.into_iter().find(|protocol| protocol.number() == number),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        })
    }
}

/// One packet that opens one connection. Both addresses are of one family.
#[derive(Clone, Debug)]
pub struct Probe {
    /// By which the packet is known again.
    pub tag: u32,
    /// What kind of connection.
    pub protocol: Protocol,
    /// Who opens it.
    pub source: SocketAddr,
    /// To what.
    pub target: SocketAddr,
}

/// A probe, or an error about it, as seen somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The probe itself, with the addresses it carries here.
    Packet { tag: u32, source: SocketAddr, target: SocketAddr },
    /// An ICMP or ICMPv6 error that quotes the probe.
    Error { tag: u32, to: IpAddr, port_unreachable: bool, kind: (u8, u8) },
}

impl Probe {
    /// The IP packet.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = match self.protocol {
            Protocol::Tcp => self.tcp_syn(),
            Protocol::Udp => self.udp_datagram(),
            Protocol::Sctp => self.sctp_init(),
            Protocol::Icmp => self.echo_request(),
        };
        let number = match (self.protocol, self.target) {
            (Protocol::Icmp, SocketAddr::V6(_)) => ICMPV6,
            (protocol, _) => protocol.number(),
        };
        match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let pseudo_header = pseudo_header_v4(source, target, number, body.len());
                self.finish(&mut body, &pseudo_header);
                let mut packet = ipv4_header(source, target, number, body.len());
                packet.append(&mut body);
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let pseudo_header = pseudo_header_v6(source, target, number, body.len());
                self.finish(&mut body, &pseudo_header);
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(length16(body.len()));
                packet.extend([number, 64]);
                packet.extend(source.octets());
                packet.extend(target.octets());
                packet.append(&mut body);
                packet
            }
            (source, target) => panic!("{source} and {target} are not of one family"),
        }
    }

    fn ports(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.source.port().to_be_bytes(), self.target.port().to_be_bytes());
        [a, b, c, d]
    }

    fn tcp_syn(&self) -> Vec<u8> {
        let mut segment = self.ports().to_vec();
        segment.extend(self.tag.to_be_bytes());
        segment.extend([0, 0, 0, 0]); // acknowledgement
        segment.extend([0x60, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]); // six words, SYN, window, checksum, urgent
        segment.extend([2, 4, 0x05, 0xb4]); // maximum segment size 1460
        segment
    }

    fn udp_datagram(&self) -> Vec<u8> {
        let mut datagram = self.ports().to_vec();
        datagram.extend(length16(8 + MAGIC.len() + 4));
        datagram.extend([0, 0]); // checksum
        datagram.extend(MAGIC);
        datagram.extend(self.tag.to_be_bytes());
        datagram
    }

    fn sctp_init(&self) -> Vec<u8> {
        let mut packet = self.ports().to_vec();
        packet.extend([0; 8]); // verification tag, checksum
        packet.extend([1, 0, 0, 20]); // INIT of twenty bytes
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0, 1, 0, 0, 0, 1, 0, 1]); // window, one stream each way
        packet.extend(self.tag.to_be_bytes()); // first TSN
        packet
    }

    fn echo_request(&self) -> Vec<u8> {
        let mut message = vec![ECHO_REQUESTS[usize::from(self.target.is_ipv6())], 0, 0, 0];
        message.extend(self.ports());
        message.extend(MAGIC);
        message.extend(self.tag.to_be_bytes());
        message
    }

    /// Fills in the checksum of the protocol.
    fn finish(&self, body: &mut [u8], pseudo_header: &[u8]) {
        match self.protocol {
            Protocol::Tcp => {
                let checksum = internet_checksum(&[pseudo_header, body]);
                body[16..18].copy_from_slice(&checksum.to_be_bytes());
            }
            Protocol::Udp => {
                // Zero would mean "no checksum".
                let checksum = Some(internet_checksum(&[pseudo_header, body])).filter(|sum| *sum != 0);
                body[6..8].copy_from_slice(&checksum.unwrap_or(0xffff).to_be_bytes());
            }
            Protocol::Sctp => {
                let checksum = crc32c(body);
                body[8..12].copy_from_slice(&checksum.to_le_bytes());
            }
            Protocol::Icmp => {
                let covered = if self.target.is_ipv6() { pseudo_header } else { &[] };
                let checksum = internet_checksum(&[covered, body]);
                body[2..4].copy_from_slice(&checksum.to_be_bytes());
            }
        }
    }
}

impl Sight {
    /// The tag of the probe that was seen.
    pub const fn tag(&self) -> u32 {
        match self {
            Self::Packet { tag, .. } | Self::Error { tag, .. } => *tag,
        }
    }

    /// Recognises an IP packet; `None` for everything that is neither a probe nor an error about one.
    pub fn in_ip_packet(packet: &[u8]) -> Option<Self> {
        let (source, target, number, body) = split_ip(packet)?;
        Self::in_ip_body(source, target, number, body)
    }

    /// The same for a packet whose IP header has already been taken off.
    pub fn in_ip_body(source: IpAddr, target: IpAddr, number: u8, body: &[u8]) -> Option<Self> {
        if let Some((tag, source_port, target_port)) = tag_and_ports(Protocol::from_number(number)?, body, false) {
            let (source, target) = (SocketAddr::new(source, source_port), SocketAddr::new(target, target_port));
            return Some(Self::Packet { tag, source, target });
        }
        let port_unreachable = match number {
            ICMP => (3, 3),
            ICMPV6 => (1, 4),
            _ => return None,
        };
        let kind = (*body.first()?, *body.get(1)?);
        let (_, _, quoted, quoted_body) = split_ip(body.get(8..)?)?;
        let (tag, ..) = tag_and_ports(Protocol::from_number(quoted)?, quoted_body, true)?;
        Some(Self::Error { tag, to: target, port_unreachable: kind == port_unreachable, kind })
    }
}

/// Takes the IP header off: source, destination, protocol and the rest.
fn split_ip(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let header_length = usize::from(packet[0] & 0x0f) * 4;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            Some((address(12)?.into(), address(16)?.into(), *packet.get(9)?, packet.get(header_length..)?))
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            Some((address(8)?.into(), address(24)?.into(), *packet.get(6)?, packet.get(40..)?))
        }
        _ => None,
    }
}

/// Reads tag, source port and destination port. An answer to a probe is not a probe; only in a `quoted` packet, which may
/// be cut short, the marks that tell them apart are not asked for.
fn tag_and_ports(protocol: Protocol, body: &[u8], quoted: bool) -> Option<(u32, u16, u16)> {
    let word = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let tag = match protocol {
        Protocol::Tcp if quoted || body.get(13)? & 0x3f == 0x02 => word(4)?,
        Protocol::Udp if body.get(8..16)? == MAGIC => word(16)?,
        Protocol::Sctp if *body.get(12)? == 1 => word(16)?,
        Protocol::Icmp if ECHO_REQUESTS.contains(body.first()?) && body.get(8..16)? == MAGIC => word(16)?,
        _ => return None,
    };
    let ports = word(if protocol == Protocol::Icmp { 4 } else { 0 })?;
    Some((tag, (ports >> 16) as u16, (ports & 0xffff) as u16))
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("probes are small").to_be_bytes()
}

fn ipv4_header(source: Ipv4Addr, target: Ipv4Addr, number: u8, body_length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(length16(20 + body_length));
    header.extend([0, 1, 0x40, 0, 64, number, 0, 0]); // id, don't fragment, hops, protocol, checksum
    header.extend(source.octets());
    header.extend(target.octets());
    let checksum = internet_checksum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn pseudo_header_v4(source: Ipv4Addr, target: Ipv4Addr, number: u8, body_length: usize) -> Vec<u8> {
    let mut header = [source.octets(), target.octets()].concat();
    header.extend([0, number]);
    header.extend(length16(body_length));
    header
}

fn pseudo_header_v6(source: Ipv6Addr, target: Ipv6Addr, number: u8, body_length: usize) -> Vec<u8> {
    let mut header = [source.octets(), target.octets()].concat();
    header.extend([0, 0]);
    header.extend(length16(body_length));
    header.extend([0, 0, 0, number]);
    header
}

/// The ones' complement sum of RFC 1071; every part but the last has an even length.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The Castagnoli CRC that SCTP uses (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    debug_assert_eq!(bytes.len(), SCTP_INIT_LENGTH);
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1)))
    })
}
