//! Where servers and sources run.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Threads that may block at the same time for those who ask for metrics.
const BLOCKING: usize = 4;

/// Two runtimes, so that nothing an operator or Prometheus asks for can hold up what load balancers, the kubelet and the
/// cluster wait for.
#[derive(Debug)]
pub struct Runtimes {
    /// The watches, the health port, and the health check ports of Services. Nothing here may block.
    pub vital: Runtime,
    /// The metrics port, and housekeeping.
    pub operator: Runtime,
}

impl Runtimes {
    /// Starts their threads.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            vital: Builder::new_multi_thread().worker_threads(2).thread_name("vital").enable_all().build()?,
            operator: Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(BLOCKING)
                .thread_name("operator")
                .enable_all()
                .build()?,
        })
    }

    /// Ends both without waiting for anybody.
    pub fn shut_down(self) {
        self.vital.shutdown_background();
        self.operator.shutdown_background();
    }
}
