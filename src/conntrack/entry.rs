//! One entry of the kernel's table, as far as the decision needs it.

use crate::model::Family;
use crate::plan::Target;

/// A flow the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Its family.
    pub family: Family,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The client.
    pub source: Target,
    /// Where the client sent its first packet: the original tuple's destination.
    pub destination: Target,
    /// Where answers come from: the reply tuple's source. The same as `destination` when nothing was translated.
    pub answers_from: Target,
}
