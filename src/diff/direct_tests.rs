use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::ruleset::{DirectElements, DirectValue, ForwardChain};

/// A frontend of which each slot leads to a node, or nowhere.
fn frontend(ports: bool, slots: &[Option<(u32, u8)>]) -> DirectFrontend {
    let hop = |(device, node): (u32, u8)| Hop { device, address: [10, 0, 0, node].into() };
    let slots = slots.iter().map(|slot| slot.map(hop)).collect::<Vec<_>>();
    let hash = crate::ruleset::SlotHash { modulus: slots.len() as u32, ports };
    DirectFrontend { hash, label: "default/web".into(), slots: slots.into() }
}

fn table(frontends: &[(u8, DirectFrontend)]) -> DirectTable {
    let mut table = DirectTable::default();
    table.devices.extend([(1, "eth0".into()), (2, "eth1".into())]);
    for (last, frontend) in frontends {
        let ip: IpAddr = [203, 0, 113, *last].into();
        table.frontends.insert((Family::Ipv4, Bytes::new().ip(ip).u8(6).u16(80)), frontend.clone());
    }
    table
}

fn any_frontend() -> impl Strategy<Value = DirectFrontend> {
    let slot = proptest::option::weighted(0.7, (1_u32..3, 1_u8..4));
    (any::<bool>(), prop_oneof![Just(4_usize), Just(8)])
        .prop_flat_map(move |(ports, len)| (Just(ports), proptest::collection::vec(slot.clone(), len)))
        .prop_map(|(ports, slots)| frontend(ports, &slots))
}

fn any_table() -> impl Strategy<Value = DirectTable> {
    proptest::collection::btree_map(1_u8..5, any_frontend(), 0..4)
        .prop_map(|frontends| table(&frontends.into_iter().collect::<Vec<_>>()))
}

/// Applies a slice as the kernel does: an element that goes must be there, one that comes must not.
fn apply(elements: &mut DirectElements, slice: &DirectSlice) {
    for (map, element) in slice.gone() {
        assert!(elements.remove(&(map, element.key)).is_some(), "nothing to delete");
    }
    for (map, element) in slice.added() {
        assert!(elements.insert((map, element.key), element.clone()).is_none(), "it is there already");
    }
}

/// The chain of a frontend, and where its slots lead.
type Seen = (ForwardChain, BTreeMap<usize, (DirectMap, DirectValue)>);

/// Where packets of each slot of a frontend go; `None` where the frontend hands on nothing.
fn seen(elements: &DirectElements, at: &(Family, Bytes)) -> Option<Seen> {
    let DirectValue::Forward(chain) = elements.get(&(DirectMap::Frontends(at.0), at.1))?.value else { return None };
    let slots = (0..chain.hash.modulus as usize).filter_map(|slot| {
        let hops = [1, 2].map(|device| DirectMap::Nodes(at.0, device));
        hops.into_iter().find_map(|map| Some((slot, (map, elements.get(&(map, at.1.u32_host(slot as u32)))?.value))))
    });
    Some((chain, slots.collect()))
}

proptest! {
    #[test]
    fn in_between_a_packet_goes_as_before_or_as_wanted(old in any_table(), new in any_table(), size in 1_usize..20) {
        let mut elements = old.elements();
        let (before, after) = (old.elements(), new.elements());
        let found = DirectFound::made(old.clone());
        for slice in direct_slices(&found, &new, size) {
            prop_assert!(!slice.is_empty());
            // Whole atoms: one that is larger is alone.
            prop_assert!(slice.len() < size + 20);
            apply(&mut elements, &slice);
            for at in old.frontends.keys().chain(new.frontends.keys()) {
                let (now, was, will) = (seen(&elements, at), seen(&before, at), seen(&after, at));
                let Some((chain, slots)) = now else {
                    prop_assert!(was.is_none() || will.is_none(), "it hands on before and after");
                    continue;
                };
                let is_of = |side: &Option<Seen>, slot| match side {
                    Some((other, others)) => *other == chain && others.get(&slot) == slots.get(&slot),
                    None => false,
                };
                for slot in 0..chain.hash.modulus as usize {
                    prop_assert!(is_of(&was, slot) || is_of(&will, slot), "slot {slot} leads somewhere else");
                }
            }
        }
        prop_assert_eq!(elements, after);
    }

    #[test]
    fn taken_apart_it_ends_alike(old in any_table(), new in any_table()) {
        let mut elements = old.elements();
        let found = DirectFound::made(old);
        let mut left: Vec<DirectSlice> = direct_slices(&found, &new, 1000).collect();
        left.reverse();
        while let Some(slice) = left.pop() {
            match slice.clone().halves() {
                Some([first, second]) => left.extend([second, first]),
                None => {
                    prop_assert_eq!(slice.len(), 1);
                    apply(&mut elements, &slice);
                }
            }
        }
        prop_assert_eq!(elements, new.elements());
    }
}

#[test]
fn the_cost_is_that_of_the_change() {
    let slots: Vec<Option<(u32, u8)>> = (0..1024).map(|slot| Some((1, slot as u8 % 3))).collect();
    let mut moved = slots.clone();
    moved[5] = Some((2, 9));
    moved[6] = None;
    let count = |old: &DirectTable, new: &DirectTable| -> Vec<(usize, usize)> {
        let found = DirectFound::made(old.clone());
        let slices = direct_slices(&found, new, 600);
        slices.map(|slice| (slice.gone().len(), slice.added().len())).collect()
    };
    let old = table(&[(1, frontend(true, &slots)), (2, frontend(true, &slots))]);
    let new = table(&[(1, frontend(true, &slots)), (2, frontend(true, &moved))]);
    assert_eq!(count(&old, &new), [(2, 1)]);
    assert_eq!(count(&old, &old), []);
    assert_eq!(count(&table(&[]), &old), [(0, 600), (0, 600), (0, 600), (0, 250)]);
}

#[test]
fn strays_and_what_has_other_names_go() {
    let wanted = table(&[(1, frontend(true, &[Some((1, 1)), None, None, None]))]);
    let stray = (
        DirectMap::Nodes(Family::Ipv4, 1),
        DirectElement { key: Bytes::new().u32_host(3), value: DirectValue::Node([10, 0, 0, 1].into()), comment: None },
    );
    let mut found = DirectFound::made(wanted.clone());
    found.strays.push(stray.clone());
    found.other_chains.push("ingress-gone".to_owned());
    found.other_maps.push("nodes-gone".to_owned());
    let chain = wanted.all_chains()[0];
    found.stale.insert(chain);
    let slices: Vec<_> = direct_slices(&found, &wanted, 10).collect();
    assert_eq!(slices.iter().flat_map(DirectSlice::gone).collect::<Vec<_>>(), [(stray.0, &stray.1)]);
    assert_eq!(direct_growth(&found, &wanted), DirectGrowth { rewritten: vec![chain], ..DirectGrowth::default() });
    let DirectShrinkage { chains, maps } = direct_shrinkage(&found, &wanted);
    assert_eq!((chains, maps), (vec!["ingress-gone".to_owned()], vec!["nodes-gone".to_owned()]));
}
