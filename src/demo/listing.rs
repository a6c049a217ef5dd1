//! The step that shows what all this looks like in the kernel.

use anyhow::Result;

use super::steps::Story;

impl Story<'_> {
    /// Shows the part of the table that serves the Service.
    pub(super) fn listing(&mut self) -> Result<()> {
        Ok(())
    }
}
