//! Whose an element is, for when the kernel refuses one.

use std::borrow::Cow;

use super::Mirror;
use super::service_state::ServiceState;
use crate::model::{Family, ObjectKey};
use crate::plan::{Frontend, FrontendKey, Member, Target, endpoint_element};
use crate::ruleset::{Bytes, Element, KernelError, Op, SetId, Transaction};

impl Mirror {
    /// The Services behind the element a transaction failed on: several where they share it, none where the kernel named
    /// no element, or one that belongs to the node. Looks at every Service, which is slow and happens after a failure
    /// only.
    pub fn blamed(&self, transaction: &Transaction, cause: &KernelError) -> Vec<ObjectKey> {
        let KernelError::Refused { op, element: Some(element), errno, .. } = cause else { return Vec::new() };
        // A lack of room or memory is no Service's fault.
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
            let is_it = |member: Member| member.set == set && member.element.key == *key;
            state.shared.iter().any(|shared| is_it(shared.member()))
                || state
                    .frontends
                    .iter()
                    .any(|frontend| frontend.element(set, key, &mut LastSlots::default()).is_some())
        };
        let owners = mirror.services.iter().filter(|(_, state)| has(state));
        let mut owners: Vec<ObjectKey> = owners.map(|(service, _)| service.clone()).collect();
        owners.sort_unstable();
        owners
    }
}

/// The slots that were asked for last. Those of a hash are made of all endpoints, which takes long: not for each key anew.
#[derive(Default)]
pub(super) struct LastSlots<'a>(Option<(FrontendKey, SetId, Cow<'a, [Target]>)>);

impl<'a> LastSlots<'a> {
    fn of(&mut self, frontend: &'a Frontend, set: SetId, targets: &'a [Target]) -> &[Target] {
        let last = self.0.take().filter(|(key, of, _)| (*key, *of) == (frontend.key, set));
        &self.0.insert(last.unwrap_or_else(|| (frontend.key, set, frontend.slots(targets)))).2
    }
}

impl Frontend {
    /// The element with a key among those the frontend consists of.
    pub(super) fn element<'a>(&'a self, set: SetId, key: &Bytes, last: &mut LastSlots<'a>) -> Option<Element> {
        let own = self.key.bytes();
        let rest = key.as_slice().strip_prefix(own.as_slice())?;
        if let Some((.., targets)) = self.endpoint_lists().into_iter().find(|(map, ..)| map.set() == set) {
            let slot = u32::from_ne_bytes(rest.try_into().ok()?) as usize;
            return Some(endpoint_element(&own, slot, last.of(self, set, targets).get(slot)?));
        }
        let mut members = self.members().into_iter().filter(|member| member.set == set);
        members.find(|member| member.element.key == *key).map(|member| member.element)
    }
}
