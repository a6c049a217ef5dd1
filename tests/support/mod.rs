//! Helpers of the integration tests; each test uses some of them.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod cluster;
