//! Portway keeps a node's nftables equal to the cluster's Services, without kube-proxy and without the `nft` program.
//!
//! Data flows one way: `source` -> `model` -> `plan` -> `diff` -> `nftables`; `controller` runs the flow and `cli` starts
//! it. `ruleset` has the types that the last three share, `render` prints them as nft text.

pub mod admin;
pub mod cli;
pub mod config;
pub mod conntrack;
pub mod controller;
pub mod demo;
pub mod diff;
pub mod direct;
pub mod events;
pub mod fast;
mod ffi;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod handover;
pub mod health;
pub mod host;
pub mod instruments;
pub mod localhost;
pub mod logging;
pub mod metrics;
pub mod migration;
pub mod model;
pub mod nftables;
pub mod plan;
pub mod programmer;
pub mod render;
pub mod ruleset;
pub mod serve;
pub mod source;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
mod wire;
mod yaml;
