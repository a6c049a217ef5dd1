//! Messages of one nf_tables transaction, and which change each belongs to.

use super::abi;
use super::attr::Attrs;
use super::message::{self, PREFIX_LEN};
use crate::ffi::{Head, Scratch};

/// Bytes of a page. A transaction is one `sendmsg` of at most IOV_MAX (1024) pages: 1 GiB.
const PAGE_LEN: usize = 1 << 20;
/// A message begins only where this much room is left; elements fill at most 64 KiB, all else is shorter.
const MESSAGE_MAX: usize = 80 * 1024;
/// What small transactions need.
const FIRST_PAGE_LEN: usize = 8 * 1024;

/// What a message does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageOrigin {
    /// Index of the change in the transaction.
    pub(crate) op: usize,
    /// For elements: index of the first one in the change.
    pub(crate) first: usize,
    page: usize,
    offset: usize,
}

/// A transaction as netlink messages.
pub(crate) struct Batch {
    pages: Vec<Vec<u8>>,
    origins: Vec<MessageOrigin>,
    first_seq: u32,
    scratch: Scratch,
}

impl Batch {
    /// An empty batch whose begin message has sequence number `first_seq`.
    pub(crate) fn new(first_seq: u32, scratch: Scratch) -> Self {
        let mut page = Vec::with_capacity(FIRST_PAGE_LEN);
        let start = message::begin_netfilter(&mut page, abi::BATCH_BEGIN, 0, 0, first_seq, abi::SUBSYSTEM);
        message::end(&mut page, start);
        Self { pages: vec![page], origins: Vec::new(), first_seq, scratch }
    }

    /// Begins a message for a change; write its bytes with the buffer and head given to `write`, whole and in one go.
    pub(crate) fn message(
        &mut self,
        op: usize,
        first: usize,
        write: impl FnOnce(&mut Vec<u8>, &mut Scratch, u32) -> usize,
    ) -> usize {
        let seq = self.seq_of(self.origins.len());
        if self.page().len() + MESSAGE_MAX > PAGE_LEN {
            self.pages.push(Vec::with_capacity(PAGE_LEN));
        }
        let page = self.pages.len() - 1;
        let buf = &mut self.pages[page];
        self.origins.push(MessageOrigin { op, first, page, offset: buf.len() });
        write(buf, &mut self.scratch, seq)
    }

    /// As [`Batch::message`]: a request of nf_tables (`NFT_MSG_*`, `NFPROTO_*`, `NLM_F_*`) with the attributes that `write`
    /// appends.
    pub(crate) fn request(
        &mut self,
        (op, first): (usize, usize),
        (kind, family, flags): (u16, u8, u16),
        write: impl FnOnce(&mut Vec<u8>) -> usize,
    ) -> usize {
        self.message(op, first, |buf, _, seq| {
            let start = message::begin_netfilter(buf, abi::SUBSYSTEM << 8 | kind, family, flags, seq, 0);
            let written = write(buf);
            message::end(buf, start);
            written
        })
    }

    /// As [`Batch::message`] for objects that libnftnl builds.
    pub(crate) fn object(&mut self, op: usize, head: Head, build: impl FnOnce(&mut Scratch, Head, &mut Vec<u8>)) {
        self.message(op, 0, |buf, scratch, seq| {
            build(scratch, Head { seq, ..head }, buf);
            0
        });
    }

    /// Asks for an acknowledgement of the last change and of the end, and appends the end unless the batch is a trial:
    /// without an end the kernel checks everything and applies nothing.
    pub(crate) fn finish(&mut self, trial: bool) {
        if let Some(last) = self.origins.last().copied() {
            let flags = last.offset + 6;
            let page = &mut self.pages[last.page];
            let value = u16::from_ne_bytes([page[flags], page[flags + 1]]) | libc::NLM_F_ACK as u16;
            page[flags..flags + 2].copy_from_slice(&value.to_ne_bytes());
        }
        if !trial {
            let seq = self.seq_of(self.origins.len());
            let flags = libc::NLM_F_ACK as u16;
            let page = self.page();
            let start = message::begin_netfilter(page, abi::BATCH_END, 0, flags, seq, abi::SUBSYSTEM);
            message::end(page, start);
        }
    }

    /// The pages to send.
    pub(crate) fn pages(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pages.iter().map(Vec::as_slice)
    }

    /// Bytes to send.
    pub(crate) fn len(&self) -> usize {
        self.pages.iter().map(Vec::len).sum()
    }

    /// Whether a sequence number is one of this batch, begin and end included.
    pub(crate) fn contains(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.first_seq) as usize <= self.origins.len() + 1
    }

    /// The sequence number behind this batch.
    pub(crate) fn next_seq(&self) -> u32 {
        self.seq_of(self.origins.len() + 1)
    }

    /// The message with a sequence number; `None` for begin and end.
    pub(crate) fn origin(&self, seq: u32) -> Option<MessageOrigin> {
        let index = seq.wrapping_sub(self.first_seq).checked_sub(1)?;
        self.origins.get(index as usize).copied()
    }

    /// Which element of the change an offset within the message is about. A range of two keys counts as one element.
    pub(crate) fn element_at(&self, origin: MessageOrigin, offset: usize) -> Option<usize> {
        let message = self.pages.get(origin.page)?.get(origin.offset..)?;
        let attrs = Attrs::new(message.get(PREFIX_LEN..)?);
        let list = attrs.find_kind(abi::elem::LIST_ELEMENTS)?;
        let list_at = PREFIX_LEN + list.offset + 4;
        let mut index = origin.first;
        for (position, element) in list.nested().enumerate() {
            let is_end = element.nested().u32_of(abi::elem::FLAGS) == Some(abi::elem::F_INTERVAL_END);
            if position > 0 && !is_end {
                index += 1;
            }
            if list_at + element.offset == offset {
                return Some(index);
            }
        }
        None
    }

    /// Gives the memory back for the next batch.
    pub(crate) fn into_scratch(self) -> Scratch {
        self.scratch
    }

    fn page(&mut self) -> &mut Vec<u8> {
        let last = self.pages.len() - 1;
        &mut self.pages[last]
    }

    fn seq_of(&self, index: usize) -> u32 {
        self.first_seq.wrapping_add(index as u32).wrapping_add(1)
    }
}
