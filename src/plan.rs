//! Decides what the table must hold: which endpoints a frontend offers, which verdict it gets, and which fixed rules
//! surround them. Pure functions of the model and the settings.
//!
//! The unit is one Service in one family: [`compile`] gives its [`ServicePlan`], and each [`Frontend`] knows its set
//! elements. How elements get into the kernel, and in which slot an endpoint ends up, is the business of `diff`.

mod elements;
mod frontend;
mod label;
mod mismatch;
mod select;
mod service;
mod settings;
mod skeleton;
mod sources;
mod spread;
mod target;

pub use elements::{Member, endpoint_element, globals};
pub use frontend::{Action, Affinity, Class, EndpointSet, Frontend, FrontendKey, FrontendOwner, PortKey, SpareSlots};
pub use mismatch::{Mismatch, mismatches};
pub use select::{Candidate, EndpointRules, EndpointUse, Selection, Topology, UnusedHints, candidates, select};
pub use service::{Needs, ServicePlan, compile, is_exposed};
pub use settings::{FamilySettings, ListeningSocket, NodePortAddresses, PodDetection, Settings, Sizing};
pub use skeleton::rules;
pub use sources::SourceRange;
pub use spread::Spread;
pub use target::Target;
