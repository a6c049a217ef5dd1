//! Faults of everything around the sync loop: the kernel's errors, sudden ends of the program, other programs and the host,
//! the API server. See tests/README.md.

#[path = "../support/mod.rs"]
mod support;

mod churn;
mod city;
mod history;
mod injected;
mod kernel;
mod kills;
mod probes;
mod services;
