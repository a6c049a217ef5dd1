//! Coming from another proxy: what kube-proxy leaves behind, whether this kernel has what our tables need, and who else
//! translates addresses.

mod filters;
mod leftovers;
mod neighbours;
mod preflight;

pub use filters::ForwardFilter;
pub use leftovers::Leftovers;
pub use neighbours::BaseChain;
pub use preflight::{Feature, Missing};
