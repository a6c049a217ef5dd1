//! The kernel's table of flows: a streamed walk that deletes in batches.

use std::io;

use mnl::Bus;

use super::FlowEntry;
use super::wire::{DumpFilter, put_delete, put_dump, put_stats, read_entry};
use crate::model::{Family, Protocol};
use crate::plan::Target;
use crate::wire::message::{errno, messages};
use crate::wire::socket::{self, Socket};

/// The kernel hands out a dump in pieces of at most 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;
/// Entries deleted by one `sendmsg`: about 30 KiB, well below the least room of a socket.
const BATCH: usize = 256;
/// `NLM_F_DUMP_INTR`: the table changed so that the walk may have missed entries.
const DUMP_INTERRUPTED: u16 = 0x10;

/// What a walk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Entries the kernel told of.
    pub scanned: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// The kernel says that the walk may have missed entries.
    pub interrupted: bool,
}

/// Looks once more at entries that are about to be deleted, and clears the mark of those that may stay.
pub type Still<'a> = dyn FnMut(&mut [(FlowEntry, bool)]) + 'a;

/// A table that can be cleaned; the kernel's, or a double in tests.
pub trait FlowTable: Send {
    /// Walks over the entries a filter selects (or more) and deletes those that are stale. `still` is asked right before
    /// deletion, with a whole batch at a time, and clears the mark of entries that may stay after all.
    fn sweep(
        &mut self,
        filter: &DumpFilter,
        stale: &mut dyn FnMut(&FlowEntry) -> bool,
        still: &mut Still<'_>,
    ) -> io::Result<Counts>;
}

/// What to do where [`reach`] fails.
pub const UNREACHABLE: &str = "load the kernel module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK): without it UDP flows keep \
                               going to endpoints that are gone";

/// Whether the kernel lets its table of flows be listed and changed; asking loads the module where there is one.
pub fn reach() -> io::Result<()> {
    let mut socket = Socket::open(Bus::Netfilter)?;
    let mut request = Vec::new();
    put_stats(&mut request, socket.next_seq());
    socket.send(&request)?;
    let mut buffer = vec![0; RECEIVE_LEN];
    let answer = messages(socket.receive(&mut buffer)?).next();
    match answer {
        Some((header, body)) if i32::from(header.kind) == libc::NLMSG_ERROR && errno(body) != 0 => {
            Err(io::Error::from_raw_os_error(errno(body)))
        }
        Some(_) => Ok(()),
        None => Err(io::Error::other("the kernel gave no answer")),
    }
}

/// The kernel's table in one network namespace.
#[derive(Debug)]
pub struct KernelTable {
    /// Walks and deletions have a socket each, so that their answers do not mix.
    walker: Socket,
    remover: Socket,
    buffer: Vec<u8>,
    answers: Vec<u8>,
    batch: DeleteBatch,
    /// The kernel refuses filters.
    plain: bool,
}

#[derive(Debug, Default)]
struct DeleteBatch {
    requests: Vec<u8>,
    /// Each entry, and whether it is to be deleted.
    entries: Vec<(FlowEntry, bool)>,
    /// Where each request ends.
    ends: Vec<usize>,
}

impl KernelTable {
    /// Opens the table of the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            walker: Socket::open(Bus::Netfilter)?,
            remover: Socket::open(Bus::Netfilter)?,
            buffer: vec![0; RECEIVE_LEN],
            answers: vec![0; RECEIVE_LEN],
            batch: DeleteBatch::default(),
            plain: false,
        })
    }

    /// The entries of flows to a destination.
    pub fn flows_to(&mut self, protocol: Protocol, destination: Target) -> io::Result<Vec<FlowEntry>> {
        let filter =
            DumpFilter::to_any(Family::of(destination.ip), protocol, destination.port, [destination.ip].iter());
        let mut found = Vec::new();
        let mut look = |entry: &FlowEntry| {
            if entry.destination == destination && entry.protocol == protocol.number() {
                found.push(*entry);
            }
            false
        };
        self.sweep(&filter, &mut look, &mut |_| {})?;
        Ok(found)
    }

    fn walk(
        &mut self,
        filter: &DumpFilter,
        stale: &mut dyn FnMut(&FlowEntry) -> bool,
        still: &mut Still<'_>,
    ) -> io::Result<Counts> {
        let mut counts = Counts::default();
        let seq = self.walker.next_seq();
        let mut request = Vec::with_capacity(128);
        put_dump(&mut request, filter, self.plain, seq);
        self.walker.send(&request)?;
        loop {
            let received = match self.walker.receive(&mut self.buffer) {
                Ok(received) => received,
                // What got lost is lost, but the walk goes on.
                Err(error) if socket::is_lost(&error) => {
                    counts.interrupted = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut end = None;
            for (header, body) in messages(received).filter(|(header, _)| header.seq == seq) {
                counts.interrupted |= header.flags & DUMP_INTERRUPTED != 0;
                match i32::from(header.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => end = Some(errno(body)),
                    _ => {
                        counts.scanned += 1;
                        let Some(told) = read_entry(body) else { continue };
                        if !told.foreign && told.entry.protocol == filter.protocol.number() && stale(&told.entry) {
                            let seq = self.remover.next_seq();
                            put_delete(&mut self.batch.requests, told.entry.family, &told.name, seq);
                            self.batch.ends.push(self.batch.requests.len());
                            self.batch.entries.push((told.entry, true));
                        }
                    }
                }
            }
            if self.batch.entries.len() >= BATCH || (end.is_some() && !self.batch.entries.is_empty()) {
                counts.deleted += self.batch.send(&mut self.remover, &mut self.answers, still)?;
            }
            match end {
                None => {}
                Some(0) => return Ok(counts),
                Some(libc::EINTR) => return Ok(Counts { interrupted: true, ..counts }),
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl FlowTable for KernelTable {
    fn sweep(
        &mut self,
        filter: &DumpFilter,
        stale: &mut dyn FnMut(&FlowEntry) -> bool,
        still: &mut Still<'_>,
    ) -> io::Result<Counts> {
        self.batch.clear();
        match self.walk(filter, stale, still) {
            Err(error) if !self.plain && refuses_filters(&error) => {
                tracing::debug!(%error, "the kernel does not filter its table of flows");
                self.plain = true;
                self.batch.clear();
                self.walker = Socket::open(Bus::Netfilter)?;
                self.walk(filter, stale, still)
            }
            Err(error) => {
                // The rest of a walk may still be in the socket, or hold it occupied.
                self.walker = Socket::open(Bus::Netfilter)?;
                Err(error)
            }
            result => result,
        }
    }
}

fn refuses_filters(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ERANGE))
}

impl DeleteBatch {
    /// Deletes what is still to be deleted; how many entries that were.
    fn send(&mut self, remover: &mut Socket, answers: &mut [u8], still: &mut Still<'_>) -> io::Result<u64> {
        still(&mut self.entries);
        let mut deleted = 0;
        let (mut start, mut from) = (0, 0);
        // Closes the gaps that withdrawn requests leave.
        for (index, (_, wanted)) in self.entries.iter().enumerate() {
            let end = self.ends[index];
            if *wanted {
                self.requests.copy_within(start..end, from);
                from += end - start;
                deleted += 1;
            }
            start = end;
        }
        self.requests.truncate(from);
        if deleted > 0 {
            remover.send(&self.requests)?;
            let mut failed = None;
            loop {
                let received = match remover.try_receive(answers) {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    // Failures that got lost are of entries that stay until the next sweep.
                    Err(error) if socket::is_lost(&error) => continue,
                    Err(error) => return Err(error),
                };
                for (header, body) in messages(received) {
                    match errno(body) {
                        _ if i32::from(header.kind) != libc::NLMSG_ERROR => {}
                        0 => {}
                        // It has gone by itself; whatever has its addresses now is another flow. Or a flow table has
                        // it (kernels before 5.13).
                        libc::ENOENT | libc::EBUSY => deleted = u64::saturating_sub(deleted, 1),
                        errno => failed = Some(errno),
                    }
                }
            }
            if let Some(errno) = failed {
                self.clear();
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        self.clear();
        Ok(deleted)
    }

    fn clear(&mut self) {
        self.requests.clear();
        self.entries.clear();
        self.ends.clear();
    }
}
