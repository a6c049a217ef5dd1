//! Objects found by their own keys, so that maps need not hold others.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{EndpointSlice, ObjectKey, Service};

/// A shared object in a set in which its key finds it.
#[derive(Debug, Clone)]
pub(super) struct Keyed<T>(pub(super) Arc<T>);

impl Borrow<ObjectKey> for Keyed<Service> {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

impl Borrow<ObjectKey> for Keyed<EndpointSlice> {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

impl<T> PartialEq for Keyed<T>
where
    Self: Borrow<ObjectKey>,
{
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl<T> Eq for Keyed<T> where Self: Borrow<ObjectKey> {}

impl<T> Hash for Keyed<T>
where
    Self: Borrow<ObjectKey>,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}
