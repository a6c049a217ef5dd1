//! Address families, protocols and the lenient address syntax of old API objects.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IP family; each has a table of its own in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, nftables family `ip`.
    Ipv4,
    /// IPv6, nftables family `ip6`.
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }

    /// The family of a network.
    pub fn of_net(net: &IpNet) -> Self {
        Family::of(net.addr())
    }

    /// What nftables calls it: `ip` or `ip6`.
    pub fn nft(self) -> &'static str {
        match self {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        }
    }

    /// Bytes of an address: 4 or 16.
    pub fn address_len(self) -> usize {
        match self {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }
}

impl fmt::Display for Family {
    /// The name Kubernetes uses in objects and metrics: `IPv4` or `IPv6`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// A transport protocol a Service port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this IANA number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == number)
    }

    /// Parses the Kubernetes spelling (`TCP`, `UDP`, `SCTP`), in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)]
            .into_iter()
            .find_map(|(name, protocol)| text.eq_ignore_ascii_case(name).then_some(protocol))
    }

    /// What nftables calls it.
    pub fn nft(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    /// The Kubernetes spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// Why a string is not an address or a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an IPv4 or IPv6 address.
    #[error("{0:?} is not an IP address")]
    Ip(String),
    /// Not `address/prefix-length`.
    #[error("{0:?} is not a CIDR (want address/prefix-length, as in 10.0.0.0/8)")]
    Cidr(String),
}

/// Parses an address as kube-proxy does (specification 3.3): zero-padded octets are decimal, IPv4-mapped IPv6 is IPv4.
pub fn parse_ip(text: &str) -> Result<IpAddr, AddressError> {
    let error = || AddressError::Ip(text.to_owned());
    if text.contains(':') {
        // A zero-padded IPv4 tail (`::ffff:010.0.0.1`) is legal in the lenient syntax too.
        let text6 = match text.rfind(':') {
            Some(colon) if text[colon..].contains('.') => {
                format!("{}{}", &text[..=colon], parse_ipv4(&text[colon + 1..]).ok_or_else(error)?)
            }
            _ => text.to_owned(),
        };
        let ip: Ipv6Addr = text6.parse().map_err(|_| error())?;
        Ok(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
    } else {
        parse_ipv4(text).map(IpAddr::V4).ok_or_else(error)
    }
}

fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next()?.trim_start_matches('0');
        let part = if digits.is_empty() { "0" } else { digits };
        if !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    // "1..2.3" has an empty octet: only zeros may have been trimmed to nothing.
    (parts.next().is_none() && text.split('.').all(|part| !part.is_empty())).then_some(octets.into())
}

/// Parses a CIDR leniently (specification 3.3) and reduces it to its network address.
pub fn parse_cidr(text: &str) -> Result<IpNet, AddressError> {
    let error = || AddressError::Cidr(text.to_owned());
    let (address, length) = text.split_once('/').ok_or_else(error)?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    let length: u8 = length.parse().map_err(|_| error())?;
    let net = match parse_ip(address).map_err(|_| error())? {
        // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
        IpAddr::V4(ip) if address.contains(':') => {
            Ipv4Net::new(ip, length.checked_sub(96).ok_or_else(error)?).map(IpNet::V4)
        }
        IpAddr::V4(ip) => Ipv4Net::new(ip, length).map(IpNet::V4),
        IpAddr::V6(ip) => Ipv6Net::new(ip, length).map(IpNet::V6),
    };
    net.map(|net| net.trunc()).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_padded_octets_are_decimal() {
        assert_eq!(parse_ip("010.1.2.003").expect("valid"), IpAddr::from([10, 1, 2, 3]));
        assert_eq!(parse_ip("0.0.0.0").expect("valid"), IpAddr::from([0, 0, 0, 0]));
        assert_eq!(parse_ip("::ffff:10.0.0.1").expect("valid"), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(parse_ip("fd00::0001").expect("valid").to_string(), "fd00::1");
    }

    #[test]
    fn malformed_addresses_are_errors() {
        for text in ["", "1.2.3", "1.2.3.4.5", "1..2.3", "256.0.0.1", "1.2.3.x", "fe80::1%eth0", " 1.2.3.4", "+1.2.3.4"]
        {
            assert!(parse_ip(text).is_err(), "{text:?} must not parse");
        }
    }

    #[test]
    fn cidrs_are_reduced_to_the_network() {
        assert_eq!(parse_cidr("10.1.2.3/08").expect("valid").to_string(), "10.0.0.0/8");
        assert_eq!(parse_cidr("fd00::1/64").expect("valid").to_string(), "fd00::/64");
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "x/8"] {
            assert!(parse_cidr(text).is_err(), "{text:?} must not parse");
        }
    }
}
