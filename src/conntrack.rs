//! Deletes conntrack entries of flows to endpoints that are gone (specification 8.1).
//!
//! The kernel decides about a flow once, at its first packet, and UDP has no end of connection: a client that keeps its
//! source port keeps its endpoint for ever, or keeps being sent nowhere. So after a sync that changed where a UDP frontend
//! may lead, the entries of that frontend that lead elsewhere are deleted, and the next packet is decided anew.
//!
//! [`ConntrackObserver`] follows the sync loop, keeps a compact memory of UDP frontends and their valid endpoints, and
//! turns changes into a [`Sweep`]. A thread of its own walks the kernel's table: requests that come while it is busy are
//! merged, so the sync loop never waits for it. The walk is streamed and filtered in the kernel as far as the kernel can,
//! deletions go out in batches; memory does not depend on the size of the table.
//!
//! While a flow table forwards connections past the rules ([`crate::fast`]), entries of TCP flows to endpoints that have left
//! all slices are deleted, too: the kernel takes a flow out of its flow table within a second after its entry is gone.
//!
//! Where kube-proxy differs, this does more: it also sweeps when the last endpoint or the whole Service goes, and when a
//! frontend comes to a Service whose endpoints stay; it keeps flows to unready endpoints that are published nevertheless,
//! and flows to the number of a NodePort on addresses that are not this node's.

mod cleaner;
mod departures;
mod entry;
mod frontends;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod observer;
#[cfg(test)]
mod stage;
mod sweep;
mod table;
mod wire;

pub use cleaner::Cleaning;
pub use entry::FlowEntry;
pub use frontends::UdpFrontends;
pub use observer::ConntrackObserver;
pub use sweep::{FamilySweep, Sweep};
pub use table::{Counts, FlowTable, KernelTable, Still, UNREACHABLE, reach};
pub use wire::DumpFilter;
