//! What Portway knows of the cluster: Services, EndpointSlices, the Node and the ServiceCIDRs, reduced to what
//! packet rules depend on.
//!
//! Pure data: no Kubernetes, async or netlink types in here. `source` produces [`Event`]s, [`Model`] folds them,
//! `plan` reads the result.

mod address;
mod keyed;
mod node;
mod objects;
mod options;
mod selector;
mod store;

pub use address::{AddressError, Family, Protocol, parse_cidr, parse_ip};
pub use node::{Node, ServiceCidr};
pub use objects::{Endpoint, EndpointSlice, ObjectKey, Placement, Service, ServicePort, ServiceType, SlicePort};
pub use options::{Balance, EndpointWeights, ServiceOptions};
pub use selector::{LabelSelector, SelectorError};
pub use store::{Changes, Event, Kind, Model};
