//! File descriptors: how many the relay may have. The rest of the process must never run out of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Left to the rest of the process: servers, the API server, the kernel.
const RESERVE: usize = 1024;
/// Where the limit cannot be read.
const UNKNOWN: usize = 1024;
/// More than this is never needed.
const MOST: usize = 1 << 20;

/// Descriptors that are left.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// Descriptors that are taken; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Budget {
    /// Raises this process' limit as far as it may, and has all that but a reserve.
    pub(super) fn raised() -> Self {
        let limit = raise_limit();
        // Half of a small limit is better than nothing.
        Self::new(limit.saturating_sub(RESERVE).max(limit / 2))
    }

    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    /// Some descriptors, unless there are too few.
    pub(super) fn take(&self, count: usize) -> Option<Held> {
        let take = |left: usize| left.checked_sub(count);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Held { left: self.0.clone(), count })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// Raises the soft limit to the hard one; the limit that counts then.
fn raise_limit() -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(cause) => {
            warn!(%cause, "cannot read the limit of open files");
            return UNKNOWN;
        }
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(cause) => {
            warn!(%cause, "cannot raise the limit of open files from {soft} to {hard}");
            soft
        }
    };
    debug!(limit, "limit of open files");
    usize::try_from(limit).unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let budget = Budget::new(3);
        let two = budget.take(2).expect("two of three");
        assert!(budget.take(2).is_none());
        let one = budget.take(1).expect("the third");
        drop(two);
        assert!(budget.take(2).is_some());
        drop(one);
        assert!(budget.take(3).is_some());
    }
}
