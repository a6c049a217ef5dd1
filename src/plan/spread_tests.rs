use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::ruleset::hashed_slot;

fn targets(numbers: impl IntoIterator<Item = u32>) -> Vec<Target> {
    let mut targets: Vec<Target> = numbers
        .into_iter()
        .map(|n| Target { ip: std::net::Ipv4Addr::from(0x0af4_0000 + n).into(), port: 8080 })
        .collect();
    targets.sort_unstable();
    targets
}

fn by_address(weights: Vec<(Target, u8)>) -> Spread {
    Spread { balance: Balance::SourceIp, weights }
}

/// Slots by endpoint.
fn counts(slots: &[Target]) -> HashMap<Target, usize> {
    let mut counts = HashMap::new();
    slots.iter().for_each(|target| *counts.entry(*target).or_default() += 1);
    counts
}

/// How many clients each endpoint gets of this many, with addresses one after the other.
fn clients(slots: &[Target], count: u32) -> HashMap<Target, usize> {
    let mut counts = HashMap::new();
    for client in 0..count {
        let key = Bytes::new().ip(std::net::Ipv4Addr::from(0x0a00_0000 + client).into());
        let slot = hashed_slot(key.as_slice(), slots.len() as u32);
        *counts.entry(slots[slot as usize]).or_default() += 1;
    }
    counts
}

#[test]
fn the_table_is_the_smallest_that_has_enough_slots() {
    let sizes = [(1, 1), (2, 1024), (42, 1024), (43, 4096), (170, 4096), (171, 16_384), (16_384, 16_384)];
    for (count, size) in sizes {
        let targets = targets(0..count);
        assert_eq!(by_address(Vec::new()).slot_count(&targets), size, "{count} endpoints");
    }
    let many = targets(0..16_385);
    let spread = by_address(Vec::new());
    assert_eq!((spread.slot_count(&many), spread.balance_of(&many)), (16_385, Balance::Random));
    assert_eq!(spread.slots(&many), many);
    // A weight that all have is none.
    let two = targets(0..2);
    assert_eq!(by_address(vec![(two[0], 100), (two[1], 100)]).slot_count(&two), 1024);
    assert_eq!(by_address(vec![(two[0], 100)]).slot_count(&two), 4096);
    let random = |weights| Spread { balance: Balance::Random, weights };
    assert_eq!(random(vec![(two[0], 7), (two[1], 7)]).slots(&two), two);
    assert_eq!(random(vec![(two[0], 2)]).slot_count(&two), 1024);
}

#[test]
fn clients_are_spread_within_five_percent() {
    // Of 10,000 clients an endpoint of so many gets its share within 5 % by chance alone where it gets 2,000 (3.5 standard
    // deviations); of more endpoints all of them together are as even as chance makes them.
    for count in [2, 3, 4, 5] {
        let of_each = clients(&by_address(Vec::new()).slots(&targets(0..count)), 10_000);
        let share = 10_000 / count as usize;
        for (target, clients) in of_each {
            assert!(clients.abs_diff(share) * 20 <= share + 10, "{clients} of {share} for {target}");
        }
    }
    for count in [10, 50, 100] {
        let slots = by_address(Vec::new()).slots(&targets(0..count));
        let least_and_most = counts(&slots).into_values().fold((usize::MAX, 0), |(l, m), n| (l.min(n), m.max(n)));
        assert!(least_and_most.1 - least_and_most.0 <= 1, "{least_and_most:?} slots");
        let expected = vec![10_000.0 / f64::from(count); count as usize];
        assert_fits(&clients(&slots, 10_000).into_values().map(|n| n as f64).collect::<Vec<_>>(), &expected);
    }
}

/// Chi-square, at five standard deviations above what is expected of it.
fn assert_fits(seen: &[f64], expected: &[f64]) {
    let sum: f64 = seen.iter().zip(expected).map(|(seen, expected)| (seen - expected).powi(2) / expected).sum();
    let freedom = expected.len() as f64 - 1.0;
    assert!(sum < freedom + 5.0 * (2.0 * freedom).sqrt(), "chi-square {sum} with {freedom} degrees of freedom");
}

#[test]
fn weights_are_shares() {
    for weights in [vec![1, 3], vec![1, 2, 3, 4], vec![1, 100], vec![5, 5, 10], vec![1, 1, 1, 1, 20]] {
        let all = targets(0..weights.len() as u32);
        let slots = by_address(all.iter().copied().zip(weights.iter().copied()).collect()).slots(&all);
        let (counts, total) = (clients(&slots, 20_000), weights.iter().map(|w| f64::from(*w)).sum::<f64>());
        let seen: Vec<f64> = all.iter().map(|target| counts[target] as f64).collect();
        let expected: Vec<f64> = weights.iter().map(|weight| 20_000.0 * f64::from(*weight) / total).collect();
        assert_fits(&seen, &expected);
    }
}

/// Which share of the clients of others an endpoint that goes moves: on average and at most.
fn moved(count: u32, seed: u32) -> (f64, f64) {
    let all = targets((0..count).map(|n| n * 7 + seed * 65_537 % 50_000));
    let before = by_address(Vec::new()).slots(&all);
    let of_each = (0..count.min(24) as usize).map(|gone| {
        let mut rest = all.clone();
        let gone = rest.remove(gone * all.len() / count.min(24) as usize);
        let slots = by_address(Vec::new()).slots(&rest);
        // Of a smaller table each slot stands for several.
        let after = |slot: usize| slots[slot * slots.len() / before.len()];
        let others = || before.iter().enumerate().filter(|(_, old)| **old != gone);
        others().filter(|(slot, old)| **old != after(*slot)).count() as f64 / others().count() as f64
    });
    let of_each: Vec<f64> = of_each.collect();
    (of_each.iter().sum::<f64>() / of_each.len() as f64, of_each.iter().copied().fold(0.0, f64::max))
}

#[test]
fn an_endpoint_that_goes_moves_few_clients_of_others() {
    for count in [2, 3, 5, 10, 20, 41, 42, 43, 44, 64, 100, 127, 170, 171] {
        for seed in 0..2 {
            let (average, most) = moved(count, seed);
            println!("{count} endpoints: {:.1} % on average, {:.1} % at most", average * 100.0, most * 100.0);
            assert!(most <= 1.0 / f64::from(count) + 0.02, "{count} endpoints: {most}");
        }
    }
}

proptest! {
    // Tables are slow to make without optimisation.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_endpoint_gets_its_due_whatever_the_others_are(
        weights in proptest::collection::btree_map(0_u32..60_000, 1_u8..=100, 1..200),
    ) {
        let all = targets(weights.keys().copied());
        let spread = by_address(all.iter().copied().zip(weights.into_values()).collect());
        let slots = spread.slots(&all);
        prop_assert_eq!(slots.len(), spread.slot_count(&all) as usize);
        let (counts, given) = (counts(&slots), spread.weights_of(&all));
        let total: u64 = given.iter().sum();
        prop_assert_eq!(counts.len(), all.len(), "each has a slot");
        if given.iter().all(|weight| slots.len() as u64 * weight >= total) {
            for (target, weight) in all.iter().zip(given) {
                let share = (slots.len() as u64 * weight / total) as usize;
                prop_assert!((share..=share + 1).contains(&counts[target]), "{} of {share}", counts[target]);
            }
        }
        // Another run, on another node, gives the same.
        prop_assert_eq!(spread.clone().slots(&all), slots);
    }
}

#[test]
fn the_table_stays_the_same_in_all_versions() {
    let slots = by_address(Vec::new()).slots(&targets(0..5));
    let text: String = slots.iter().map(|target| target.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(
        jhash(text.as_bytes(), 0),
        2_466_508_444,
        "another table moves the clients of nodes that are upgraded later"
    );
}
