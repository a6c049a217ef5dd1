//! Doors for the fuzz targets of `fuzz/` to what the crate keeps to itself.

pub use crate::admin::fuzzing::request as admin_request;
pub use crate::conntrack::fuzzing::answers as conntrack_answers;
pub use crate::nftables::fuzzing::answers as netlink_answers;
pub use crate::serve::fuzzing::check_request;
pub use crate::source::fuzzing::watched;
