//! Shared by the integration tests. Each uses only a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod netns;
pub mod nft;
pub mod sample;
