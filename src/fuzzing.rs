//! Makes private functions accessible to the fuzz targets of `fuzz/`.

pub use crate::admin::fuzzing::request as admin_request;
pub use crate::conntrack::fuzzing::answers as conntrack_answers;
pub use crate::nftables::fuzzing::answers as netlink_answers;
pub use crate::serve::fuzzing::check_request;
pub use crate::source::fuzzing::watched;
