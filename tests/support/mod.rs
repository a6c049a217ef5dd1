//! What the tests share.
// Each test program uses its own part.
#![allow(dead_code)]

pub(crate) mod attempt;
pub(crate) mod corpus;
pub(crate) mod health;
pub(crate) mod netns;
pub(crate) mod objects;
pub(crate) mod packets;
pub(crate) mod program;
pub(crate) mod stage;
pub(crate) mod wire;
pub(crate) mod world;
