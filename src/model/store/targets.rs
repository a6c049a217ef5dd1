//! How many slices have each TCP endpoint, so that one that leaves a slice is looked for at once.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::model::EndpointSlice;

/// By address and port. A clone shares the numbers until one of the two changes.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetCounts(Arc<HashMap<(IpAddr, u16), u32>>);

impl TargetCounts {
    /// Counts the endpoints of a slice.
    pub(super) fn add(&mut self, slice: &EndpointSlice) {
        let counts = Arc::make_mut(&mut self.0);
        for target in slice.tcp_targets() {
            *counts.entry(target).or_default() += 1;
        }
    }

    /// Undoes it.
    pub(super) fn remove(&mut self, slice: &EndpointSlice) {
        let counts = Arc::make_mut(&mut self.0);
        for target in slice.tcp_targets() {
            if let Some(count) = counts.get_mut(&target) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&target);
                }
            }
        }
    }

    /// Whether some slice has it.
    pub(super) fn has(&self, target: &(IpAddr, u16)) -> bool {
        self.0.contains_key(target)
    }
}
