//! Faults of everything around the sync loop: the kernel's errors, sudden ends of the program, other programs and the host,
//! the API server. See tests/README.md.

#[path = "../support/mod.rs"]
mod support;

mod history;
mod injected;
mod kernel;
