//! Faults of everything around the sync loop: the kernel's errors, sudden ends of the program, other programs and the host,
//! the API server. See tests/README.md.

mod answers;
mod api;
mod churn;
mod foreign;
mod history;
mod injected;
mod kernel;
mod kills;
mod plot;
mod probes;
mod services;
mod soak;
mod testbed;
