//! Keys and data of set elements: a few 4-byte-aligned fields, stored inline.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest key: two IPv6 addresses, a protocol and a port.
const CAPACITY: usize = 40;

/// A concatenation as the kernel stores it: each field padded with zeros to a multiple of 4 bytes (one 32-bit register),
/// values in network byte order, except where a field is a host-order integer (numgen).
#[derive(Clone, Copy)]
pub struct Bytes {
    len: u8,
    buf: [u8; CAPACITY],
}

impl Bytes {
    /// No field.
    pub const fn new() -> Self {
        Self { len: 0, buf: [0; CAPACITY] }
    }

    /// From raw bytes, as dumped by the kernel. `None` when longer than any key of ours.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut this = Self::new();
        this.buf.get_mut(..bytes.len())?.copy_from_slice(bytes);
        this.len = u8::try_from(bytes.len()).ok()?;
        Some(this)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.buf[..usize::from(self.len)]
    }

    /// Appends an address (4 or 16 bytes).
    pub fn ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    /// Appends a one-byte field such as a protocol number.
    pub fn u8(self, value: u8) -> Self {
        self.push(&[value, 0, 0, 0])
    }

    /// Appends a 16-bit field in network order, such as a port.
    pub fn u16(self, value: u16) -> Self {
        let [high, low] = value.to_be_bytes();
        self.push(&[high, low, 0, 0])
    }

    /// Appends a 32-bit integer in host order, such as a numgen slot.
    pub fn u32_host(self, value: u32) -> Self {
        self.push(&value.to_ne_bytes())
    }

    /// Appends another concatenation.
    pub fn concat(self, other: &Bytes) -> Self {
        self.push(other.as_slice())
    }

    /// Reads an IPv4 address at a byte offset.
    pub fn ipv4_at(&self, offset: usize) -> Option<IpAddr> {
        let octets: [u8; 4] = self.as_slice().get(offset..offset + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    }

    /// Reads an IPv6 address at a byte offset.
    pub fn ipv6_at(&self, offset: usize) -> Option<IpAddr> {
        let octets: [u8; 16] = self.as_slice().get(offset..offset + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    }

    /// Reads a one-byte field at a byte offset.
    pub fn u8_at(&self, offset: usize) -> Option<u8> {
        self.as_slice().get(offset).copied()
    }

    /// Reads a 16-bit network-order field at a byte offset.
    pub fn u16_at(&self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.as_slice().get(offset..offset + 2)?.try_into().ok()?))
    }

    /// Reads a host-order integer at a byte offset.
    pub fn u32_host_at(&self, offset: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.as_slice().get(offset..offset + 4)?.try_into().ok()?))
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        let start = usize::from(self.len);
        // Keys are built by our own code from at most CAPACITY bytes of fields; more is a bug found by any test.
        self.buf[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
        self
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.as_slice().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
