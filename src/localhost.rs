//! NodePorts on localhost (KEP-6032), where nodePortAddresses names it: a relay in user space. Rules cannot do it: a packet
//! from loopback may not leave the host, and the setting that would allow it (`route_localnet`) opens what listens on loopback.
//!
//! The plan says which ports have which endpoints (`Action::Relay`), and [`LocalhostObserver`] follows it. Rules just let such
//! packets pass, and count them. All else happens on threads of their own, so that no connection here is in the way of health checks.

mod budget;
mod choice;
mod ports;
mod pump;
mod stats;
mod tcp;
mod udp;
mod wanted;

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::unbounded_channel;

pub use stats::Stats;
pub use wanted::LocalhostObserver;

use self::budget::Budget;
use self::ports::Ports;
use self::pump::Pipes;
use self::udp::IdleTimes;
use crate::events::EventSink;
use crate::model::Family;

/// Threads that relay.
const THREADS: usize = 2;

/// What all ports share.
#[derive(Debug)]
struct RelayContext {
    budget: Budget,
    pipes: Pipes,
    stats: Arc<Stats>,
    events: EventSink,
    idle_times: IdleTimes,
}

/// Starts the relay for these families. It ends when the observer is dropped.
pub fn start(families: &[Family], events: EventSink) -> io::Result<(LocalhostObserver, Arc<Stats>)> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("localhost")
        .enable_all()
        .build()?;
    let (sender, changes) = unbounded_channel();
    let stats = Arc::new(Stats::new(families));
    let budget = Budget::raised();
    let shared = RelayContext {
        pipes: Pipes::new(budget.clone()),
        budget,
        stats: stats.clone(),
        events,
        idle_times: IdleTimes::KERNEL,
    };
    threads.spawn(Ports::new(shared).run(changes));
    Ok((LocalhostObserver::new(stats.clone(), sender, Some(threads)), stats))
}
