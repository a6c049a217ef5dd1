//! What the relay counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Family, Protocol};

/// Counters and gauges of the relay, read by the metrics.
#[derive(Debug)]
pub struct Stats {
    families: Vec<Family>,
    listeners: [AtomicU64; 2],
    failures: [AtomicU64; 2],
    unrelayed: AtomicU64,
    open: [AtomicU64; 2],
    refused: [AtomicU64; 2],
}

impl Stats {
    /// All at zero, for a relay of these families.
    pub fn new(families: &[Family]) -> Self {
        Self {
            families: families.to_vec(),
            listeners: Default::default(),
            failures: Default::default(),
            unrelayed: AtomicU64::new(0),
            open: Default::default(),
            refused: Default::default(),
        }
    }

    /// The families whose NodePorts are relayed.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Ports that are open.
    pub fn listeners(&self, family: Family) -> u64 {
        self.listeners[index(family)].load(Ordering::Relaxed)
    }

    /// Attempts to open a port that failed.
    pub fn failures(&self, family: Family) -> u64 {
        self.failures[index(family)].load(Ordering::Relaxed)
    }

    /// Connections (TCP) or flows (UDP) at this moment.
    pub fn open(&self, protocol: Protocol) -> u64 {
        self.open[usize::from(protocol == Protocol::Udp)].load(Ordering::Relaxed)
    }

    /// Connections and flows that were refused for want of file descriptors or room.
    pub fn refused(&self, protocol: Protocol) -> u64 {
        self.refused[usize::from(protocol == Protocol::Udp)].load(Ordering::Relaxed)
    }

    /// Some NodePort has a protocol that is not relayed.
    pub fn has_unrelayed(&self) -> bool {
        self.unrelayed.load(Ordering::Relaxed) > 0
    }

    pub(super) fn set_unrelayed(&self, count: usize) {
        self.unrelayed.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn set_listeners(&self, family: Family, count: usize) {
        self.listeners[index(family)].store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, family: Family) {
        self.failures[index(family)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, protocol: Protocol) {
        self.refused[usize::from(protocol == Protocol::Udp)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more connection or flow until the result is dropped.
    pub(super) fn count(self: &Arc<Self>, protocol: Protocol) -> OpenCount {
        self.open[usize::from(protocol == Protocol::Udp)].fetch_add(1, Ordering::Relaxed);
        OpenCount { stats: self.clone(), protocol }
    }
}

/// See [`Stats::count`].
#[derive(Debug)]
pub(super) struct OpenCount {
    stats: Arc<Stats>,
    protocol: Protocol,
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.stats.open[usize::from(self.protocol == Protocol::Udp)].fetch_sub(1, Ordering::Relaxed);
    }
}

fn index(family: Family) -> usize {
    usize::from(family == Family::Ipv6)
}
