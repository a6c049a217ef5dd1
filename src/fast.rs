//! The fast path: established connections to Services are forwarded by the kernel's flow table, past all hooks but the first.
//!
//! A thread of its own keeps the table `inet portway`, and the interfaces of its flow table as they come and go. What it does
//! not take over, and everything where the kernel has no flow tables, takes the ordinary path. Whatever fails here is a fault of
//! `portway status`, and nothing else.

mod devices;
mod follow;
mod status;

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::devices::chosen;
pub use self::status::{FastStatus, FastStatusHandle};

use self::follow::Follower;
use crate::controller::Report;
use crate::host::sysctl::Roots;
use crate::instruments::FaultCounts;
use crate::nftables::KernelOptions;

/// What to do where the kernel has no flow tables.
pub const UNABLE: &str = "needs CONFIG_NF_FLOW_TABLE, CONFIG_NF_FLOW_TABLE_INET and CONFIG_NFT_FLOW_OFFLOAD: load the modules \
                          nf_flow_table_inet and nft_flow_offload, or take a kernel that has them";

/// Keeps the table on the interfaces of the calling thread's network namespace that these patterns name, from the first sync
/// on until the sync loop ends; then it stays as it is. `roots` are where the kernel's settings are read.
pub fn start(
    patterns: Vec<Arc<str>>,
    kernel: KernelOptions,
    roots: Roots,
    reports: watch::Receiver<Report>,
    faults: FaultCounts,
) -> io::Result<FastStatusHandle> {
    let status = FastStatusHandle::new(faults);
    let follower = Follower { patterns, options: kernel, roots, reports, status: status.clone() };
    follower.probe();
    std::thread::Builder::new().name("fast-path".to_owned()).spawn(move || follower.run())?;
    Ok(status)
}
