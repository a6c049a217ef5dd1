//! Tables in the real kernel: what is applied is what is read back. Needs root.

use std::collections::HashMap;

use portway::model::Family;
use portway::netlink::{NftKernel, Options};
use portway::ruleset::{ChainId, Expr, Kernel, SetId, lower};

mod support;
use support::netns::in_netns;
use support::sample;

fn assert_reads_back(kernel: &mut NftKernel, family: Family) {
    let table = kernel.read(family).expect("readable").expect("there");
    assert_eq!(table.foreign, Vec::<String>::new());
    let want: HashMap<ChainId, Vec<Vec<Expr>>> = sample::chains(family)
        .into_iter()
        .map(|(chain, rules)| (chain, rules.iter().map(|rule| lower(family, rule)).collect()))
        .collect();
    assert_eq!(table.chains.into_iter().collect::<HashMap<_, _>>(), want);
    for set in SetId::ALL {
        let want: HashMap<_, _> = match set {
            SetId::Affinity => HashMap::new(),
            _ => sample::elements(family, set).into_iter().map(|element| (element.key, element)).collect(),
        };
        assert_eq!(table.sets.get(&set), Some(&want.values().cloned().collect()), "{set:?}");
        assert_eq!(kernel.read_set(family, set).expect("readable"), want);
    }
}

#[test]
fn everything_reads_back_as_applied() {
    for options in [Options::default(), Options { owned: false, modern: true }, Options { owned: true, modern: false }]
    {
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
