//! What is to be said of direct return.

use std::sync::Arc;

use crate::instruments::{StatusHandle, Troubled};
use crate::ruleset::DirectTable;

/// How direct return is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectStatus {
    /// Frontends that hand on packets.
    pub frontends: usize,
    /// Nodes these lead to.
    pub nodes: usize,
    /// Interfaces on which it is to happen.
    pub configured: Vec<String>,
    /// Interfaces on which that happens.
    pub devices: Vec<String>,
    /// Those of them with a strict `rp_filter`: IPv4 clients whose way back leaves by another interface go the ordinary way.
    pub strict: Vec<String>,
    /// The table that does it.
    pub table: Arc<DirectTable>,
    /// What goes the ordinary way although it should not, and why: a sentence each.
    pub troubles: Vec<String>,
}

impl Troubled for DirectStatus {
    const OF: &'static str = "direct return";
    const REASON: &'static str = "DirectReturn";

    fn troubles(&self) -> &[String] {
        &self.troubles
    }
}

/// A [`DirectStatus`] that is kept up to date.
pub type DirectStatusHandle = StatusHandle<DirectStatus>;
