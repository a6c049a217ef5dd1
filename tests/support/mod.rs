//! Helpers shared by the tests that run against the outside world; each test uses the part it needs.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod api_double;
pub mod cluster;
pub(crate) mod netns;
