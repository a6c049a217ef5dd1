//! What the benchmark programs share; each uses the part it needs.

#![allow(dead_code, unreachable_pub)]

pub mod api_server;
pub mod commits;
pub mod kube_proxy;
pub mod lane;
pub use ::support::netns;
pub mod objects;
pub mod peer;
pub mod phases;
pub mod plot;
pub mod pods;
pub mod process;
pub mod report;
pub mod stats;
pub mod tables;
pub mod upkeep;
