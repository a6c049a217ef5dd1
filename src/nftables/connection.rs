//! The conversation with the kernel: batches and their answers, dumps, and what errors say.

use std::io::{self, IoSlice};
use std::time::Duration;

use mnl::Bus;

use super::watch::Announcements;
use crate::model::Family;
use crate::ruleset::{ChangedParts, KernelError, Keys, SetName};
use crate::wire::abi;
use crate::wire::attr::Attrs;
use crate::wire::batch::Batch;
use crate::wire::message::{self, HEADER_LEN, Header, messages};
use crate::wire::socket::{self, Socket};

/// Wanted room for answers: errors of thousands of messages at once.
const RECEIVE_ROOM: usize = 4 << 20;
/// Room for messages that most transactions fit in.
const SEND_ROOM: usize = 4 << 20;
/// What the kernel takes of the send buffer besides the data.
const SEND_OVERHEAD: usize = 4096;
/// Longer than any part of a dump the kernel sends at once.
const RECEIVE_LEN: usize = 128 * 1024;
/// A dump that is interrupted this often is given up.
const DUMP_TRIES: u32 = 20;
/// Pause before a dump is tried again; grows with every try.
const DUMP_PAUSE: Duration = Duration::from_millis(2);
/// `IOV_MAX`.
const PAGES_MAX: usize = 1024;

/// What is being done, for errors.
pub(crate) const READING_GENERATION: &str = "reading the generation of nf_tables";

/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the error does not repeat the message.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the error has attributes.
const ACK_TLVS: u16 = 0x200;

/// A kernel error about one message.
#[derive(Debug, Clone)]
pub(crate) struct MessageError {
    /// Sequence number of the message.
    pub(crate) seq: u32,
    /// The error.
    pub(crate) errno: i32,
    /// Offset of the offending attribute within the message, where the kernel says it.
    pub(crate) offset: Option<usize>,
    /// The kernel's extended error message, if any.
    pub(crate) words: Option<String>,
}

/// What the kernel answered to a batch.
#[derive(Debug)]
pub(crate) enum KernelAnswer {
    /// Done.
    Done,
    /// The first error; nothing was changed.
    Failed(MessageError),
    /// Answers were lost, or none came.
    Unknown,
}

/// One message of an answer.
pub(crate) struct KernelMessage<'a> {
    /// Attributes behind `struct nfgenmsg`.
    pub(crate) attrs: Attrs<'a>,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The kernel's errno.
    Errno(i32),
    /// The answer could not be read.
    Other(KernelError),
}

impl RequestError {
    /// As an error of [`crate::ruleset::Kernel`].
    pub(crate) fn into_kernel(self, doing: &'static str) -> KernelError {
        match self {
            RequestError::Errno(libc::EPERM) => KernelError::NotPermitted { doing },
            RequestError::Errno(errno) => KernelError::Io { doing, source: io::Error::from_raw_os_error(errno) },
            RequestError::Other(error) => error,
        }
    }
}

/// The socket with its buffers and sequence numbers.
pub(crate) struct Connection {
    socket: Socket,
    send_room: usize,
    buffer: Vec<u8>,
    next_seq: u32,
    /// What others change, from [`Connection::listen`] to [`Connection::end_listening`].
    announcements: Option<Announcements>,
}

impl Connection {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::open(Bus::Netfilter)?;
        socket.ask_for_precise_errors();
        socket.reserve_receiving(RECEIVE_ROOM)?;
        let send_room = if socket.reserve_sending(SEND_ROOM) { SEND_ROOM } else { 0 };
        Ok(Self { socket, send_room, buffer: vec![0; RECEIVE_LEN], next_seq: 1, announcements: None })
    }

    /// Begins to collect what others change.
    pub(crate) fn listen(&mut self) -> io::Result<()> {
        self.announcements = Some(Announcements::open(self.port_id())?);
        Ok(())
    }

    /// Ends what [`Connection::listen`] began.
    pub(crate) fn end_listening(&mut self) -> Option<Announcements> {
        self.announcements.take()
    }

    /// The keys of a set that others have touched since the last question; `None` when they have not.
    pub(crate) fn take_touched(&mut self, family: Family, set: SetName) -> Result<Option<Keys>, RequestError> {
        let Some(announcements) = &mut self.announcements else { return Ok(None) };
        announcements.collect().map_err(request_error)?;
        Ok(match announcements.take().0 {
            ChangedParts::Everything => Some(Keys::All),
            ChangedParts::Parts(mut parts) => parts.remove(&family).and_then(|mut part| part.sets.remove(&set)),
        })
    }

    /// The netlink port of this socket, by which the kernel knows the owner of a table.
    pub(crate) fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// The sequence number of the next message.
    pub(crate) fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// Sends a batch in one piece and waits for the kernel's answer.
    pub(crate) fn send_batch(&mut self, batch: &Batch) -> io::Result<KernelAnswer> {
        self.next_seq = batch.next_seq();
        self.send(batch.pages(), batch.len())?;
        // The kernel has handled the batch by the time `sendmsg` returns: all answers are there.
        let mut answer = KernelAnswer::Unknown;
        loop {
            let received = match self.socket.try_receive(&mut self.buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(answer),
                // Some answers did not fit; those before them may still say what happened.
                Err(error) if socket::is_lost(&error) => continue,
                Err(error) => return Err(error),
            };
            for (header, body) in messages(received) {
                if !batch.contains(header.seq) || header.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                match (&answer, read_error(&header, body)) {
                    // A failed commit is reported first, and the last change acknowledged nevertheless.
                    (KernelAnswer::Failed(_), _) => {}
                    (_, Some(failure)) if failure.errno != 0 => answer = KernelAnswer::Failed(failure),
                    (_, Some(_)) => answer = KernelAnswer::Done,
                    (_, None) => {}
                }
            }
        }
    }

    /// Asks for one object.
    pub(crate) fn get<T>(
        &mut self,
        kind: u16,
        family: u8,
        attrs: impl FnOnce(&mut Vec<u8>),
        read: impl FnMut(KernelMessage<'_>) -> Result<T, KernelError>,
    ) -> Result<Option<T>, RequestError> {
        let seq = self.request(kind, family, 0, attrs)?;
        let (mut found, interrupted) = self.answers(seq, true, read)?;
        debug_assert!(!interrupted, "only dumps are interrupted");
        Ok(found.pop())
    }

    /// Asks for several objects in one message, and has the end acknowledged; an error when one is not there.
    pub(crate) fn get_many(
        &mut self,
        kind: u16,
        family: u8,
        attrs: impl FnOnce(&mut Vec<u8>),
        mut read: impl FnMut(KernelMessage<'_>),
    ) -> Result<(), RequestError> {
        let seq = self.request(kind, family, libc::NLM_F_ACK as u16, attrs)?;
        self.answers(seq, false, |message| {
            read(message);
            Ok(())
        })?;
        Ok(())
    }

    /// Asks for all objects, again when somebody changed nf_tables between two parts of the answer. Where that happens
    /// all the time the last answer counts, so the request must be one that the kernel limits to our table: it resumes a
    /// dump by counting objects, and else it would count those of others too.
    pub(crate) fn dump_again<T>(
        &mut self,
        kind: u16,
        family: u8,
        attrs: impl Fn(&mut Vec<u8>),
        mut read: impl FnMut(KernelMessage<'_>) -> Result<T, KernelError>,
    ) -> Result<Vec<T>, RequestError> {
        for _ in 1..DUMP_TRIES {
            let (found, interrupted) = self.dump(kind, family, &attrs, &mut read)?;
            if !interrupted {
                return Ok(found);
            }
        }
        let seq = self.request(kind, family, libc::NLM_F_DUMP as u16, attrs)?;
        Ok(self.answers(seq, false, read)?.0)
    }

    /// Asks for all objects; whether somebody changed nf_tables meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        family: u8,
        attrs: impl FnOnce(&mut Vec<u8>),
        read: impl FnMut(KernelMessage<'_>) -> Result<T, KernelError>,
    ) -> Result<(Vec<T>, bool), RequestError> {
        let seq = self.request(kind, family, libc::NLM_F_DUMP as u16, attrs)?;
        match self.answers(seq, false, read) {
            // The kernel can end a dump this way when something changes under it.
            Err(RequestError::Errno(libc::EINTR)) => Ok((Vec::new(), true)),
            result => result,
        }
    }

    /// The number of the current generation of nf_tables in this network namespace.
    pub(crate) fn generation(&mut self) -> Result<u32, RequestError> {
        let garbled = || KernelError::Garbled { doing: READING_GENERATION, what: "no generation".to_owned() };
        self.get(abi::msg::GETGEN, 0, |_| {}, |message| message.attrs.u32_of(abi::GEN_ID).ok_or_else(garbled))?
            .ok_or_else(|| RequestError::Other(garbled()))
    }

    fn request(
        &mut self,
        kind: u16,
        family: u8,
        flags: u16,
        attrs: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u32, RequestError> {
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        let mut message = Vec::with_capacity(128);
        let start = message::begin_netfilter(&mut message, abi::SUBSYSTEM << 8 | kind, family, flags, seq, 0);
        attrs(&mut message);
        message::end(&mut message, start);
        self.send([message.as_slice()].into_iter(), message.len()).map_err(request_error)?;
        Ok(seq)
    }

    fn send<'a>(&mut self, pages: impl ExactSizeIterator<Item = &'a [u8]>, len: usize) -> io::Result<()> {
        let room = len + SEND_OVERHEAD;
        if pages.len() > PAGES_MAX || room > i32::MAX as usize / 2 {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        if room > self.send_room {
            // The system may allow less than asked for: then sending fails with EMSGSIZE, and the next transaction asks
            // again.
            if self.socket.reserve_sending(room) {
                self.send_room = room;
            }
        }
        let slices: Vec<IoSlice<'_>> = pages.map(IoSlice::new).collect();
        self.socket.send_slices(&slices)
    }

    /// Reads a failed dump to its end; until then the kernel refuses a new one.
    fn drain(&mut self) {
        while !matches!(self.socket.try_receive(&mut self.buffer), Ok(None)) {}
    }

    /// Reads the answers to a request until its end, also behind an error of `read`.
    fn answers<T>(
        &mut self,
        seq: u32,
        single: bool,
        mut read: impl FnMut(KernelMessage<'_>) -> Result<T, KernelError>,
    ) -> Result<(Vec<T>, bool), RequestError> {
        let (mut found, mut interrupted, mut failed) = (Vec::new(), false, None);
        loop {
            let received = match self.socket.receive(&mut self.buffer) {
                Ok(received) => received,
                Err(error) => {
                    self.drain();
                    return Err(request_error(error));
                }
            };
            if let Some(announcements) = &mut self.announcements {
                // A long dump must not let them overflow.
                announcements.collect().map_err(request_error)?;
            }
            for (header, body) in messages(received) {
                if header.seq != seq {
                    continue;
                }
                interrupted |= header.flags & DUMP_INTERRUPTED != 0;
                let end = match i32::from(header.kind) {
                    libc::NLMSG_ERROR => Some(read_error(&header, body).map_or(0, |failure| failure.errno)),
                    libc::NLMSG_DONE => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        Some(i32::saturating_neg(code))
                    }
                    _ => {
                        let attrs = Attrs::new(body.get(4..).unwrap_or_default());
                        match read(KernelMessage { attrs }) {
                            Ok(object) => found.push(object),
                            Err(error) => failed = failed.or(Some(error)),
                        }
                        single.then_some(0)
                    }
                };
                match (end, failed.take()) {
                    (None, still) => failed = still,
                    (Some(0), None) => return Ok((found, interrupted)),
                    (Some(0), Some(error)) => return Err(RequestError::Other(error)),
                    (Some(errno), _) => return Err(RequestError::Errno(errno)),
                }
            }
        }
    }
}

/// Runs `read` until it gives a result: `None` means that somebody interfered.
pub(crate) fn retry_interrupted<T>(
    doing: &'static str,
    mut read: impl FnMut() -> Result<Option<T>, KernelError>,
) -> Result<T, KernelError> {
    for attempt in 0..DUMP_TRIES {
        if let Some(result) = read()? {
            return Ok(result);
        }
        std::thread::sleep(DUMP_PAUSE * (attempt + 1));
    }
    Err(KernelError::Io { doing, source: io::Error::from_raw_os_error(libc::EINTR) })
}

fn request_error(error: io::Error) -> RequestError {
    RequestError::Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Reads `struct nlmsgerr`; errno 0 is an acknowledgement.
pub(crate) fn read_error(header: &Header, body: &[u8]) -> Option<MessageError> {
    let errno = i32::from_ne_bytes(*body.first_chunk()?).saturating_neg();
    let mut failure = MessageError { seq: header.seq, errno, offset: None, words: None };
    if header.flags & ACK_TLVS != 0 {
        // Behind errno comes the head of the message in question, and the whole of it unless capped.
        let len: [u8; 4] = body.get(4..8)?.try_into().ok()?;
        let len = u32::from_ne_bytes(len) as usize;
        let copied = if header.flags & CAPPED != 0 || errno == 0 { HEADER_LEN } else { len.next_multiple_of(4) };
        for attr in Attrs::new(body.get(4 + copied..)?) {
            match attr.kind {
                abi::ERROR_MESSAGE => failure.words = attr.str().map(str::to_owned),
                // In host order, unlike everything of nf_tables.
                abi::ERROR_OFFSET => {
                    failure.offset = attr.value.first_chunk().map(|offset| u32::from_ne_bytes(*offset) as usize);
                }
                _ => {}
            }
        }
    }
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_no_kernel_has_is_an_error() {
        let header = Header { kind: libc::NLMSG_ERROR as u16, flags: ACK_TLVS, seq: 1 };
        let mut body = i32::MIN.to_ne_bytes().to_vec();
        assert!(read_error(&header, &body).is_none(), "cut off");
        body.extend_from_slice(&u32::MAX.to_ne_bytes());
        assert!(read_error(&header, &body).is_none(), "a copy longer than the message");
        let plain = Header { flags: 0, ..header };
        assert_eq!(read_error(&plain, &body).map(|failure| failure.errno), Some(i32::MAX));
    }
}
