//! What is in force of one Service.

use super::shared::SharedElement;
use crate::plan::{Frontend, FrontendKey};

/// A Service as it is in force; targets are in the order of their slots, and affinity is numbered. There are many, and
/// most have few of anything.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceState {
    pub(super) frontends: Box<[Frontend]>,
    /// Frontends it claims that are not in force: others have them, or it is set aside or too large.
    pub(super) lost: Box<[FrontendKey]>,
    /// Where its health check server answers.
    pub(super) checks: Box<[FrontendKey]>,
    pub(super) shared: Box<[SharedElement]>,
}
