//! Direct return: this node hands packets to load balancer and external addresses on to the node of their endpoint, which
//! translates them and answers the client itself. No connection depends on the node it came in by.
//!
//! [`DirectObserver`] follows the sync loop: which slot of which frontend leads to which node. A thread of its own knows the
//! interfaces and routes, and keeps the table `netdev portway`. What that table does not hand on goes the ordinary way, and
//! there the same slot leads to the same endpoint. Whatever fails here is a fault of `portway status`, and nothing else.

mod follow;
mod manifests;
mod slots;
mod status;
mod table;

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::manifests::of_manifests;
pub use self::slots::DirectObserver;
pub use self::status::{DirectStatus, DirectStatusHandle};

use self::follow::Follower;
use crate::instruments::FaultCounts;
use crate::nftables::KernelOptions;

/// Keeps the table on these interfaces of the calling thread's network namespace until the observer is dropped; then it stays
/// as it is. Begins with the first sync.
pub fn start(
    devices: Vec<Arc<str>>,
    kernel: KernelOptions,
    faults: FaultCounts,
) -> io::Result<(DirectObserver, DirectStatusHandle)> {
    let (sender, wanted) = watch::channel(None);
    let status = DirectStatusHandle::new(faults);
    let follower = Follower { devices, wanted, status: status.clone(), options: kernel };
    std::thread::Builder::new().name("direct-return".to_owned()).spawn(move || follower.run())?;
    Ok((DirectObserver::new(sender), status))
}
