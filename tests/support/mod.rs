//! Helpers shared by the tests that run against the outside world; each test uses the part it needs.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod api_double;
pub(crate) mod attempt;
pub(crate) mod canonical;
pub mod cluster;
pub(crate) mod corpus;
pub mod follower;
pub(crate) mod health;
pub(crate) mod kube_proxy;
pub(crate) mod live;
pub(crate) mod netns;
pub mod nft;
pub(crate) mod node;
pub(crate) mod objects;
pub(crate) mod one_pod;
pub(crate) mod others;
pub(crate) mod packets;
pub(crate) mod program;
pub mod sample;
pub(crate) mod scenes;
pub(crate) mod stage;
pub(crate) mod sticky;
pub(crate) mod three_pods;
pub(crate) mod wait;
pub(crate) mod wire;
pub(crate) mod world;
