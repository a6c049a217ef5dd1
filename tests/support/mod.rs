//! Helpers of the tests in this folder.

// Each test is a crate of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod api_double;
