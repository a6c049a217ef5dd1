//! Heads of netlink messages, written and read, whatever the subsystem.

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
pub(crate) const PREFIX_LEN: usize = 20;

/// Begins a request: appends `struct nlmsghdr`; where it begins, for [`end`].
pub(crate) fn begin(buf: &mut Vec<u8>, kind: u16, flags: u16, seq: u32) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&(HEADER_LEN as u32).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    buf.extend_from_slice(&seq.to_ne_bytes());
    buf.extend_from_slice(&0_u32.to_ne_bytes());
    start
}

/// The same with `struct nfgenmsg` behind it: `family` is `NFPROTO_*`, `resource` the subsystem of a batch, else 0.
pub(crate) fn begin_netfilter(buf: &mut Vec<u8>, kind: u16, family: u8, flags: u16, seq: u32, resource: u16) -> usize {
    let start = begin(buf, kind, flags, seq);
    buf.extend_from_slice(&[family, 0]);
    buf.extend_from_slice(&resource.to_be_bytes());
    start
}

/// Ends the message that begins at `start`: writes its length.
pub(crate) fn end(buf: &mut [u8], start: usize) {
    let len = (buf.len() - start) as u32;
    buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

/// The error at the beginning of a body, as a positive number; 0 is success.
pub(crate) fn errno(body: &[u8]) -> i32 {
    body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
}

/// Head of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
}

/// Splits what was received into heads and bodies; ends at the first that is cut off.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let head: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = bytes.get(HEADER_LEN..len)?;
        let header = Header {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_off_ends_it() {
        let mut bytes = Vec::new();
        for (seq, body) in [(1_u32, &b"abc"[..]), (2, b"abcd")] {
            bytes.extend_from_slice(&((HEADER_LEN + body.len()) as u32).to_ne_bytes());
            bytes.extend_from_slice(&[7, 0, 0, 0]);
            bytes.extend_from_slice(&seq.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let read = |bytes: &[u8]| messages(bytes).map(|(head, body)| (head.seq, body.to_vec())).collect::<Vec<_>>();
        assert_eq!(read(&bytes), [(1, b"abc".to_vec()), (2, b"abcd".to_vec())]);
        assert_eq!(read(&bytes[..bytes.len() - 1]), [(1, b"abc".to_vec())]);
        assert_eq!(read(&[0; 16]), [], "a length below that of the head");
    }
}
