//! Endpoints keep their slots: a removed one's slot is refilled, so a change of one endpoint changes one or two elements.

use foldhash::{HashSet, HashSetExt as _};

use crate::plan::Target;
use crate::ruleset::{Bytes, ChainId, EndpointMap, Pick, SetId, Table, Value, Verdict};

/// Orders the wanted targets (no duplicates) so that as many as possible stay in the slot they have in `old`.
pub(super) fn assign(old: &[Target], wanted: &[Target]) -> Vec<Target> {
    if old == wanted {
        return wanted.to_vec();
    }
    let keep: HashSet<&Target> = wanted.iter().collect();
    let mut slots: Vec<Option<Target>> = Vec::with_capacity(wanted.len().max(old.len()));
    let mut placed: HashSet<Target> = HashSet::with_capacity(wanted.len());
    for target in old {
        slots.push((keep.contains(target) && placed.insert(*target)).then_some(*target));
    }
    let mut new = wanted.iter().filter(|target| !placed.contains(target)).copied();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        match new.next() {
            Some(target) => *slot = Some(target),
            None => break,
        }
    }
    slots.extend(new.map(Some));
    // Holes that are left are filled from the end.
    let mut result: Vec<Target> = Vec::with_capacity(wanted.len());
    let mut at = 0;
    while at < slots.len() {
        match slots[at].take() {
            Some(target) => result.push(target),
            None => {
                while slots.len() > at + 1 && slots.last() == Some(&None) {
                    slots.pop();
                }
                if slots.len() > at + 1
                    && let Some(Some(last)) = slots.pop()
                {
                    result.push(last);
                }
            }
        }
        at += 1;
    }
    result
}

/// How many slots the chain of a frontend has without an endpoint, if it keeps it with so many endpoints; `None` when they are
/// too few for it, or too many.
pub(super) fn spare(pick: Pick, endpoints: usize) -> Option<u8> {
    pick.tries().zip(0..).find(|(tried, _)| *tried as usize == endpoints).map(|(_, spare)| spare)
}

/// The slots endpoints have in a table read back from the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExistingSlots<'a>(pub(super) &'a Table);

impl ExistingSlots<'_> {
    /// The slots of a frontend; empty when the kernel has none. A gap ends them: what comes behind it is not reachable by a
    /// slot number below the count.
    pub(super) fn get(self, map: EndpointMap, frontend: &Bytes) -> Vec<Target> {
        let slots = self.0.sets.get(&map.set()).into_iter().flat_map(|elements| elements.slots(frontend));
        slots.map_while(|value| target(&value)).collect()
    }

    /// The chain that picks one of a frontend's endpoints in a map.
    pub(super) fn pick(self, map: EndpointMap, frontend: &Bytes) -> Option<Pick> {
        let mut verdicts = SetId::ALL.iter().filter(|set| set.leads_to_chains());
        verdicts.find_map(|set| match self.0.sets.get(set)?.get(frontend)?.value {
            Value::Verdict(Verdict::Goto(ChainId::Pick(pick))) if pick.map == map => Some(pick),
            _ => None,
        })
    }
}

/// Reads the value of an endpoint's element: address . port.
pub fn target(data: &Bytes) -> Option<Target> {
    match data.as_slice().len() {
        8 => Some(Target { ip: data.ipv4_at(0)?, port: data.u16_at(4)? }),
        20 => Some(Target { ip: data.ipv6_at(0)?, port: data.u16_at(16)? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets(numbers: &[u8]) -> Vec<Target> {
        numbers.iter().map(|n| Target { ip: [10, 0, 0, *n].into(), port: 80 }).collect()
    }

    #[test]
    fn a_removed_endpoint_is_replaced_by_the_last_one() {
        assert_eq!(assign(&targets(&[1, 2, 3, 4]), &targets(&[1, 3, 4])), targets(&[1, 4, 3]));
        assert_eq!(assign(&targets(&[1, 2, 3]), &targets(&[1, 2])), targets(&[1, 2]));
        assert_eq!(assign(&targets(&[1, 2]), &targets(&[])), targets(&[]));
    }

    #[test]
    fn an_added_endpoint_takes_a_free_slot_first() {
        assert_eq!(assign(&targets(&[1, 2, 3]), &targets(&[1, 3, 9])), targets(&[1, 9, 3]));
        assert_eq!(assign(&targets(&[2, 1]), &targets(&[1, 2, 3])), targets(&[2, 1, 3]));
    }

    proptest! {
        #[test]
        fn any_change_places_everything_once_and_moves_no_more_than_it_must(
            old in proptest::collection::hash_set(0_u8..40, 0..20),
            wanted in proptest::collection::btree_set(0_u8..40, 0..20),
        ) {
            let old = targets(&old.into_iter().collect::<Vec<_>>());
            let wanted = targets(&wanted.into_iter().collect::<Vec<_>>());
            let new = assign(&old, &wanted);
            let mut sorted = new.clone();
            sorted.sort();
            prop_assert_eq!(&sorted, &wanted);
            let moved = old.iter().zip(&new).filter(|(a, b)| a != b).count();
            let removed = old.iter().filter(|t| !wanted.contains(t)).count();
            prop_assert!(moved <= removed, "{moved} slots rewritten for {removed} removed endpoints");
        }
    }
}
