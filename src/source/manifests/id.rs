//! Which object it is.

use std::fmt;
use std::sync::Arc;

use crate::model::{Event, Kind, ObjectKey};

/// The identity of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Service(ObjectKey),
    Slice(ObjectKey),
    Node,
    NodeAddresses(Arc<str>),
    Cidr(Arc<str>),
}

impl Id {
    /// The identity an event speaks of, and whether it puts the object in force.
    pub(super) fn of(event: &Event) -> Option<(Id, bool)> {
        Some(match event {
            Event::Service(service) => (Id::Service(service.key.clone()), true),
            Event::ServiceDeleted(key) => (Id::Service(key.clone()), false),
            Event::Slice(slice) => (Id::Slice(slice.key.clone()), true),
            Event::SliceDeleted(key) => (Id::Slice(key.clone()), false),
            Event::Node(_) => (Id::Node, true),
            Event::NodeAddresses(name, _) => (Id::NodeAddresses(name.clone()), true),
            Event::ServiceCidr(cidr) => (Id::Cidr(cidr.name.clone()), true),
            _ => return None,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Id::Service(_) => Kind::Service,
            Id::Slice(_) => Kind::EndpointSlice,
            Id::Node => Kind::Node,
            Id::NodeAddresses(_) => Kind::NodeAddresses,
            Id::Cidr(_) => Kind::ServiceCidr,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Service(key) => write!(f, "Service {key}"),
            Id::Slice(key) => write!(f, "EndpointSlice {key}"),
            Id::Node => f.write_str("this Node"),
            Id::NodeAddresses(name) => write!(f, "Node {name}"),
            Id::Cidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}
