//! Tables in the real kernel: what is applied is what is read back. Needs root.

use std::collections::HashMap;

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{
    Bytes, ChainId, Element, Elements, EndpointMap, Expr, Kernel, Op, Pick, PickBy, SetId, Transaction, Value, Verdict,
    encode_rule,
};

use support::netns::in_netns;
use support::release::is_linux;
use support::sample;

fn assert_reads_back(kernel: &mut NftKernel, family: Family) {
    let table = kernel.read(family).expect("readable").expect("there");
    assert_eq!(table.foreign, []);
    let want: HashMap<ChainId, Vec<Vec<Expr>>> = sample::chains(family)
        .into_iter()
        .map(|(chain, rules)| (chain, rules.iter().map(|rule| encode_rule(family, rule)).collect()))
        .collect();
    assert_eq!(table.chains.into_iter().collect::<HashMap<_, _>>(), want);
    for set in SetId::ALL {
        let want: HashMap<_, _> = match set {
            SetId::Affinity => HashMap::new(),
            _ => sample::elements(family, set).into_iter().map(|element| (element.key, element)).collect(),
        };
        assert_eq!(table.sets.get(&set), Some(&want.values().cloned().collect()), "{set:?}");
        assert_eq!(kernel.read_set(family, set.into()).expect("readable"), want.values().cloned().collect());
    }
}

#[test]
fn everything_reads_back_as_applied() {
    for options in [
        KernelOptions::default(),
        KernelOptions { owned: false, modern: true },
        KernelOptions { owned: true, modern: false },
    ] {
        in_netns(|| {
            let mut kernel = NftKernel::open_with(options).expect("a socket");
            for family in Family::ALL {
                assert!(kernel.read(family).expect("readable").is_none());
                kernel.check(&sample::transaction(family)).expect("valid");
                assert!(kernel.read(family).expect("readable").is_none(), "a check changes nothing");
                kernel.apply(&sample::transaction(family)).expect("applied");
                assert_reads_back(&mut kernel, family);
            }
        });
    }
}

/// Frontends that make a map so large that it is read by key.
const FRONTENDS: u32 = 16_000;
const SLOTS: u32 = 10;

fn frontend(n: u32) -> Bytes {
    Bytes::new().ip(n.to_be_bytes().into()).u8(6).u16(80)
}

/// The first that says how many elements a map has.
const COUNTS_ELEMENTS: (u32, u32) = (6, 16);

fn endpoint(frontend: Bytes, slot: u32, ip: u32) -> Element {
    let value = Value::Data(Bytes::new().ip(ip.to_be_bytes().into()).u16(80));
    Element { key: frontend.u32_host(slot), end: None, value, comment: None }
}

/// What others did to a large map is found, whether or not the number of its elements changed. An element that no packet can
/// meet is found where the kernel counts elements.
#[test]
fn a_large_map_reads_back_as_it_is() {
    in_netns(|| {
        let family = Family::Ipv4;
        let mut kernel = NftKernel::open_with(KernelOptions::new(false)).expect("a socket");
        let pick = ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::Random, count: SLOTS });
        let verdict = Value::Verdict(Verdict::Goto(pick));
        let services = (0..FRONTENDS).map(|n| Element { key: frontend(n), end: None, value: verdict, comment: None });
        let mut wanted: Vec<Element> =
            (0..FRONTENDS).flat_map(|n| (0..SLOTS).map(move |slot| endpoint(frontend(n), slot, n + slot))).collect();
        let mut apply = |ops: Vec<Op>| {
            let ops = ops.into_iter().map(|op| (family, op)).collect();
            kernel.apply(&Transaction { ops }).expect("applied");
            kernel.read(family).expect("readable").expect("there").sets.remove(&SetId::Endpoints).expect("there")
        };
        let elements = |list: &[Element]| list.iter().cloned().collect::<Elements>();

        let mut ops = vec![Op::AddTable];
        ops.extend(SetId::ALL.map(|set| Op::AddSet(set.into(), 0)));
        ops.push(Op::AddChain(pick));
        ops.push(Op::AddElements(SetId::Services.into(), services.collect()));
        ops.push(Op::AddElements(SetId::Endpoints.into(), wanted.clone()));
        assert!(apply(ops) == elements(&wanted));

        let wrong = endpoint(frontend(7), 3, 0);
        let right = wanted.iter_mut().find(|element| element.key == wrong.key).expect("there");
        let right = std::mem::replace(right, wrong.clone());
        let delete = Op::DeleteElements(SetId::Endpoints.into(), vec![right]);
        assert!(
            apply(vec![delete, Op::AddElements(SetId::Endpoints.into(), vec![wrong])]) == elements(&wanted),
            "another value"
        );

        let strange = endpoint(frontend(FRONTENDS), 0, 1);
        let unmet = strange.key;
        wanted.push(strange.clone());
        let is_all = |found: &Elements, wanted: &[Element]| {
            let known: Elements = wanted.iter().filter(|element| element.key != unmet).cloned().collect();
            *found == elements(wanted) || (!is_linux(COUNTS_ELEMENTS) && *found == known)
        };
        let found = apply(vec![Op::AddElements(SetId::Endpoints.into(), vec![strange])]);
        assert!(is_all(&found, &wanted), "one too many");

        let lost = wanted.swap_remove(0);
        let found = apply(vec![Op::DeleteElements(SetId::Endpoints.into(), vec![lost])]);
        assert!(is_all(&found, &wanted), "one too many and one too few");

        let strange =
            wanted.swap_remove(wanted.iter().position(|e| e.key == frontend(FRONTENDS).u32_host(0)).expect("there"));
        let found = apply(vec![Op::DeleteElements(SetId::Endpoints.into(), vec![strange])]);
        assert!(found == elements(&wanted), "one too few");
    });
}
