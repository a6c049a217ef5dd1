//! Whose an element is, for when the kernel refuses one.

use super::Mirror;
use super::mirror::ServiceState;
use crate::model::{Family, ObjectKey};
use crate::plan::{Frontend, endpoint_element};
use crate::ruleset::{Bytes, KernelError, Op, SetId, Transaction};

impl Mirror {
    /// The Services behind the element a transaction failed on: several where they share it, none where the kernel named
    /// no element, or one that belongs to the node. Looks at every Service, which nobody waits for in good times.
    pub fn blamed(&self, transaction: &Transaction, cause: &KernelError) -> Vec<ObjectKey> {
        let KernelError::Refused { op, element: Some(element), errno, .. } = cause else { return Vec::new() };
        // That there is no room is nobody's fault.
        if matches!(*errno, libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) {
            return Vec::new();
        }
        // What cannot be deleted is the kernel's own; only what is new can be a Service's fault.
        let Some((family, Op::AddElements(set, list))) = transaction.ops.get(*op) else { return Vec::new() };
        let Some(element) = list.get(*element) else { return Vec::new() };
        self.owners_of(*family, set.set, &element.key)
    }

    fn owners_of(&self, family: Family, set: SetId, key: &Bytes) -> Vec<ObjectKey> {
        let Some(mirror) = self.families.iter().find(|mirror| mirror.family == family) else { return Vec::new() };
        let has = |state: &ServiceState| {
            state.shared.contains(&(set, *key)) || state.frontends.iter().any(|frontend| frontend.has(set, key))
        };
        let owners = mirror.services.iter().filter(|(_, state)| has(state));
        let mut owners: Vec<ObjectKey> = owners.map(|(service, _)| service.clone()).collect();
        owners.sort_unstable();
        owners
    }
}

impl Frontend {
    fn has(&self, set: SetId, key: &Bytes) -> bool {
        let own = self.key.bytes();
        if !key.as_slice().starts_with(own.as_slice()) {
            return false;
        }
        let in_slot = || {
            self.endpoint_lists().into_iter().filter(|(map, ..)| map.set() == set).any(|(.., targets)| {
                targets.iter().enumerate().any(|(slot, target)| endpoint_element(&own, slot, target).key == *key)
            })
        };
        self.members().iter().any(|member| member.set == set && member.element.key == *key) || in_slot()
    }
}
