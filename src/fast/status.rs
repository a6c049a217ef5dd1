//! What is to be said of the fast path.

use std::sync::Arc;

use crate::instruments::{StatusHandle, Troubled};
use crate::ruleset::FastDevices;

/// How the fast path is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FastStatus {
    /// Interfaces, or beginnings of their names, that were named.
    pub configured: Vec<Arc<str>>,
    /// The table in force has these interfaces; `None`: there should be no table.
    pub devices: Option<FastDevices>,
    /// Why connections take the ordinary path that should not: a sentence each.
    pub troubles: Vec<String>,
}

impl Troubled for FastStatus {
    const OF: &'static str = "fast path";
    const REASON: &'static str = "FastPath";

    fn troubles(&self) -> &[String] {
        &self.troubles
    }
}

/// A [`FastStatus`] that is kept up to date.
pub type FastStatusHandle = StatusHandle<FastStatus>;

impl FastStatusHandle {
    /// Whether there may be flows in a flow table: before the first sync perhaps those of a process before this one.
    pub fn may_be_on(&self) -> bool {
        self.look(|status| status.is_none_or(|status| status.devices.is_some()))
    }
}
