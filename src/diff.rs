//! Keeps track of what the kernel holds and finds the smallest change to what it should hold.
//!
//! [`Mirror`] is the one copy of the desired table. [`Mirror::update`] costs work in proportion to the changed Services;
//! [`Mirror::rebase`] compares everything with a table read back from the kernel (at start, after a failure, on doubt),
//! [`Mirror::repair_part`] only what others are known to have touched;
//! [`Mirror::load`] makes one where there is none.

mod affinity;
mod binding;
mod change;
mod claims;
mod conflicts;
mod departures;
mod direct;
mod emptying;
mod existing;
mod filling;
mod gone;
mod growth;
mod load;
mod mirror;
mod numbers;
mod owners;
mod part;
mod place;
mod predecessors;
mod rebase;
mod recorder;
mod references;
mod service_state;
mod services;
mod shared;
mod slots;
mod steps;
mod successors;
mod update;

pub use affinity::{StaleAffinity, stale_records};
pub use claims::{Conflict, Objection};
pub use direct::{
    DIRECT_SLICE, DirectGrowth, DirectShrinkage, DirectSlice, direct_growth, direct_shrinkage, direct_slices,
};
pub use existing::ExistingLayout;
pub use load::Load;
pub use mirror::Mirror;
pub use slots::target;
pub use steps::Steps;
pub use update::{FamilyUpdate, Update};
