//! When a read of a table is valid: when nobody else has changed meanwhile what was read.
//!
//! Nobody but us can change a table that we own. Of others the kernel announces every change; what others do to their own
//! tables does not matter.

use std::io;
use std::time::Duration;

use super::table::table_info;
use crate::ffi::Scratch;
use crate::model::Family;
use crate::nftables::connection::{Connection, KernelAnswer, RequestError};
use crate::ruleset::{ChangedParts, KernelError};
use crate::wire::batch::Batch;

/// Tries to read what others keep changing.
pub(super) const READ_TRIES: u32 = 20;
/// Pause before the next try; grows with every one.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(2);
/// Reads until nobody else changes meanwhile what was read: `concerns` says whether a change does.
pub(super) fn undisturbed<T>(
    connection: &mut Connection,
    doing: &'static str,
    (family, name): (Family, &str),
    concerns: impl Fn(&ChangedParts) -> bool,
    mut read: impl FnMut(&mut Connection) -> Result<Option<T>, KernelError>,
) -> Result<T, KernelError> {
    let mut by = None;
    for attempt in 0..READ_TRIES {
        let owned = table_info(connection, family, name)?.is_some_and(|info| info.owner == Some(connection.port_id()));
        if owned {
            if let Some(result) = read(connection)? {
                return Ok(result);
            }
        } else {
            let watch = ChangeWatch::begin(connection, doing)?;
            let result = read(connection);
            let (touched, who) = watch.end(connection)?;
            match result? {
                Some(result) if !concerns(&touched) => return Ok(result),
                _ => by = who.or(by),
            }
        }
        std::thread::sleep(READ_PAUSE * (attempt + 1));
    }
    let by = by.unwrap_or_else(|| "somebody".to_owned());
    let cause = format!("{by} changes table {} {name} all the time", family.nft());
    Err(KernelError::Io { doing, source: io::Error::other(cause) })
}

/// The announcements of what others change while something is read.
struct ChangeWatch {
    doing: &'static str,
    /// All transactions up to this generation were over when reading began.
    generation: u32,
}

impl ChangeWatch {
    fn begin(connection: &mut Connection, doing: &'static str) -> Result<Self, KernelError> {
        connection.listen().map_err(|source| KernelError::Io { doing, source })?;
        let generation = generation(connection)?;
        wait_for_commits(connection, doing)?;
        Ok(Self { doing, generation })
    }

    /// What was touched meanwhile, as far as it can have been seen, and by whom; everything when that is not known.
    fn end(self, connection: &mut Connection) -> Result<(ChangedParts, Option<String>), KernelError> {
        let end = generation(connection);
        let Some(mut announcements) = connection.end_listening() else { return Ok((ChangedParts::Everything, None)) };
        let end = end?;
        let all = end == self.generation || announcements.catch_up(end).map_err(|source| self.error(source))?;
        let (touched, by) = announcements.take();
        Ok((if all { touched } else { ChangedParts::Everything }, by))
    }

    fn error(&self, source: io::Error) -> KernelError {
        KernelError::Io { doing: self.doing, source }
    }
}

/// Waits until transactions that others have begun are over: nf_tables handles one at a time. Ours has nothing in it, so there
/// is nothing to commit, and nothing to undo for which the kernel would wait until all packets on their way have passed.
fn wait_for_commits(connection: &mut Connection, doing: &'static str) -> Result<(), KernelError> {
    let mut batch = Batch::new(connection.next_seq(), Scratch::new());
    batch.finish(false);
    match connection.send_batch(&batch).map_err(|source| KernelError::Io { doing, source })? {
        KernelAnswer::Failed(failure) => Err(RequestError::Errno(failure.errno).into_kernel(doing)),
        // Kernels before 6.10 do not acknowledge the end of a transaction.
        KernelAnswer::Done | KernelAnswer::Unknown => Ok(()),
    }
}

fn generation(connection: &mut Connection) -> Result<u32, KernelError> {
    connection.generation().map_err(|error| error.into_kernel("reading the generation of nf_tables"))
}
