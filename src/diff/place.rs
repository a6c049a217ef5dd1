//! Which slots the endpoints of a frontend get, and which chains pick one of them.

use std::borrow::Cow;

use super::mirror::FamilyMirror;
use super::{ExistingLayout, slots};
use crate::plan::{Action, Frontend, SpareSlots, Target};
use crate::ruleset::{ChainId, EndpointMap, Pick};

/// From so many elements on, a map is large: for each rule of a new chain the kernel walks all of them, some 70 ns each.
const LARGE: usize = 50_000;

impl FamilyMirror {
    /// Puts the targets of a new frontend into slots: those of its predecessor, or those the kernel has. So with the chains
    /// that pick one of them, as far as these will do.
    pub(super) fn place(
        &self,
        frontend: &mut Frontend,
        previous: Option<&Frontend>,
        existing: Option<&ExistingLayout<'_>>,
    ) {
        if frontend.spread.is_some() {
            // Its slots depend on nothing but the endpoints.
            return;
        }
        let key = frontend.key.bytes();
        let maps: Vec<_> = frontend.endpoint_lists().into_iter().map(|(map, ..)| map).collect();
        let exact = maps.iter().map(|map| frontend.pick_from(*map)).collect::<Vec<_>>();
        let lists: Vec<&mut Vec<Target>> = match &mut frontend.action {
            Action::Refuse | Action::Drop | Action::Relay(_) => Vec::new(),
            Action::Balance(_, targets) => vec![targets],
            Action::ExternalLocal { cluster, local } => vec![cluster, local],
        };
        let mut spare = SpareSlots::default();
        for ((map, exact), list) in maps.into_iter().zip(exact).zip(lists) {
            let pick = match previous {
                Some(previous) => previous.pick_from(map),
                None => existing.and_then(|existing| existing.slots.pick(map, &key)),
            };
            let kept = pick.and_then(|pick| slots::spare(pick, list.len()));
            spare.set(map, kept.or_else(|| self.spare_of_chain_in_use(exact?)).unwrap_or(0));
            if let Some(old) = slots_before(map, previous, existing, &key).filter(|old| !old.is_empty()) {
                *list = slots::assign(&old, list);
            }
        }
        frontend.spare = spare;
    }

    /// How many slots too many a chain in use has that will do as well as one that would have to be made for a large map.
    fn spare_of_chain_in_use(&self, exact: Pick) -> Option<u8> {
        if self.sizes.count_of(exact.map.set()) < LARGE {
            return None;
        }
        (0..)
            .map_while(|spare| {
                let chain = Pick { count: exact.count + u32::from(spare), ..exact };
                (chain.fewest() <= exact.count).then_some((spare, chain))
            })
            .find_map(|(spare, chain)| self.chains.contains(&ChainId::Pick(chain)).then_some(spare))
    }
}

/// The slots that endpoints of a frontend have in a map until now.
fn slots_before<'a>(
    map: EndpointMap,
    previous: Option<&'a Frontend>,
    existing: Option<&ExistingLayout<'_>>,
    key: &crate::ruleset::Bytes,
) -> Option<Cow<'a, [Target]>> {
    let Some(previous) = previous else {
        return existing.map(|existing| Cow::Owned(existing.slots.get(map, key)));
    };
    let mut lists = previous.endpoint_lists().into_iter();
    lists.find(|(of, ..)| *of == map).map(|(.., list)| Cow::Borrowed(list))
}
