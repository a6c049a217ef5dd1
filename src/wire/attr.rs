//! Writing and reading netlink attributes: a 16-bit length (with the 4-byte head), a 16-bit type, the value, padding to
//! 4 bytes. Lengths and types are in host order; values of nf_tables are in network order.

use std::net::IpAddr;

/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// Flags in the type field (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;

/// The longest value, with room for a terminating zero.
const VALUE_MAX: usize = u16::MAX as usize - 5;

/// Appends an attribute. Writers keep values shorter than a 16-bit length can say; a longer one is cut, so that what follows
/// is read as what it is.
pub(crate) fn put(buf: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = limited(value);
    put_head(buf, kind, value.len());
    buf.extend_from_slice(value);
    pad(buf);
}

fn put_head(buf: &mut Vec<u8>, kind: u16, value_len: usize) {
    buf.extend_from_slice(&((value_len + 4) as u16).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
}

fn limited(value: &[u8]) -> &[u8] {
    debug_assert!(value.len() <= VALUE_MAX, "value of {} bytes", value.len());
    &value[..value.len().min(VALUE_MAX)]
}

/// Appends a 32-bit attribute in network order.
pub(crate) fn put_u32(buf: &mut Vec<u8>, kind: u16, value: u32) {
    put(buf, kind, &value.to_be_bytes());
}

/// Appends a zero-terminated string.
pub(crate) fn put_str(buf: &mut Vec<u8>, kind: u16, value: &str) {
    let value = limited(value.as_bytes());
    put_head(buf, kind, value.len() + 1);
    buf.extend_from_slice(value);
    buf.push(0);
    pad(buf);
}

/// Begins an attribute that holds attributes; give the result to [`end_nest`].
pub(crate) fn begin_nest(buf: &mut Vec<u8>, kind: u16) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0, 0]);
    buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    start
}

/// Closes a nest. Writers keep nests below the 64 KiB a 16-bit length can say.
pub(crate) fn end_nest(buf: &mut [u8], start: usize) {
    let len = buf.len() - start;
    debug_assert!(len <= usize::from(u16::MAX), "nest of {len} bytes");
    buf[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
}

fn pad(buf: &mut Vec<u8>) {
    buf.resize(buf.len().next_multiple_of(4), 0);
}

/// An attribute as read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr<'a> {
    /// Its type, without flags.
    pub(crate) kind: u16,
    /// Its value.
    pub(crate) value: &'a [u8],
    /// Where it begins in the slice that is read.
    pub(crate) offset: usize,
}

impl<'a> Attr<'a> {
    /// A 32-bit value in network order.
    pub(crate) fn u32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    /// A 64-bit value in network order.
    pub(crate) fn u64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    /// A one-byte value.
    pub(crate) fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// A string, with or without terminating zero.
    pub(crate) fn str(&self) -> Option<&'a str> {
        let bytes = self.value.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(bytes).ok()
    }

    /// An IP address, of the family that has its length.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => Some(<[u8; 4]>::try_from(self.value).ok()?.into()),
            16 => Some(<[u8; 16]>::try_from(self.value).ok()?.into()),
            _ => None,
        }
    }

    /// The attributes inside.
    pub(crate) fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.value)
    }
}

/// Reads attributes one after the other; ends at the first that is malformed.
#[derive(Debug, Clone)]
pub(crate) struct Attrs<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Attrs<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The first attribute of a type.
    pub(crate) fn find_kind(&self, kind: u16) -> Option<Attr<'a>> {
        self.clone().find(|attr| attr.kind == kind)
    }

    /// The value of the first attribute of a type, as a 32-bit number.
    pub(crate) fn u32_of(&self, kind: u16) -> Option<u32> {
        self.find_kind(kind)?.u32()
    }

    /// The value of the first attribute of a type, as a string.
    pub(crate) fn str_of(&self, kind: u16) -> Option<&'a str> {
        self.find_kind(kind)?.str()
    }

    /// The attributes inside the first attribute of a type.
    pub(crate) fn nested_of(&self, kind: u16) -> Option<Attrs<'a>> {
        Some(self.find_kind(kind)?.nested())
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let rest = self.bytes.get(self.offset..)?;
        let head: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = rest.get(4..len)?;
        let attr = Attr { kind, value, offset: self.offset };
        self.offset += len.next_multiple_of(4);
        Some(attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let mut buf = Vec::new();
        put_str(&mut buf, 1, "portway");
        let nest = begin_nest(&mut buf, 2);
        put_u32(&mut buf, 3, 0xffff_fffc);
        put(&mut buf, 4, &[1, 2, 3, 4, 5]);
        end_nest(&mut buf, nest);
        put(&mut buf, 5, &[9]);
        assert_eq!(buf.len() % 4, 0);

        let attrs = Attrs::new(&buf);
        assert_eq!(attrs.str_of(1), Some("portway"));
        let inner = attrs.nested_of(2).expect("written");
        assert_eq!(inner.u32_of(3), Some(0xffff_fffc));
        assert_eq!(inner.find_kind(4).expect("written").value, [1, 2, 3, 4, 5]);
        assert_eq!(attrs.find_kind(5).expect("written").u8(), Some(9));
        assert_eq!(attrs.count(), 3);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "value of 70000 bytes"))]
    fn a_value_that_is_too_long_spoils_nothing_behind_it() {
        let mut buf = Vec::new();
        put(&mut buf, 1, &[7; 70_000]);
        put_u32(&mut buf, 2, 5);
        assert_eq!(Attrs::new(&buf).u32_of(2), Some(5));
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        // Lengths below the head, beyond the end, and a cut head.
        for (len, present) in [(3_u16, 4), (9, 8), (4, 3)] {
            let bytes = [&len.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &[0; 4]].concat();
            assert_eq!(Attrs::new(&bytes[..present]).count(), 0, "{len} of {present}");
        }
    }
}
