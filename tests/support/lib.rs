//! Helpers shared by the tests that run against the outside world; each test uses the part it needs.
#![allow(missing_docs)]

pub mod api_double;
pub mod attempt;
pub mod canonical;
pub mod cluster;
pub mod corpus;
pub mod ecmp;
pub mod fast;
pub mod follower;
pub mod health;
pub mod kube_proxy;
pub mod kubectl;
pub mod live;
pub mod manifests;
pub mod netns;
pub mod nft;
pub mod node;
pub mod objects;
pub mod one_pod;
pub mod others;
pub mod packets;
pub mod program;
pub mod release;
pub mod sample;
pub mod scenes;
pub mod stage;
pub mod sticky;
pub mod three_pods;
pub mod wait;
pub mod wire;
pub mod world;
