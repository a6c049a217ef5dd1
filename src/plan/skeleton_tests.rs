use super::*;
use crate::ruleset::{decode_rule, encode_rule};

#[test]
fn every_rule_of_ours_comes_back() {
    let net = |text: &str| PodDetection::Source(text.parse().expect("a network"));
    let detections = [
        PodDetection::None,
        net("10.244.0.0/16"),
        net("10.244.3.0/25"),
        net("10.244.3.7/32"),
        PodDetection::Interface("cbr0".into()),
        PodDetection::InterfacePrefix("cali".into()),
    ];
    let mut chains = ChainId::FIXED.to_vec();
    chains.extend(ChainId::RESETS);
    chains.extend([ChainId::NodeportSourceRanges, ChainId::MasqueradeRemote]);
    for (nodeport, external_local) in (0..4).map(|n| (n & 1 > 0, n & 2 > 0)) {
        for masquerades in Masquerades::ALL {
            chains.push(ChainId::Remember(Remember { nodeport, external_local, masquerades, seconds: 5 }));
        }
    }
    for map in EndpointMap::ALL {
        chains.extend(PickBy::ALL.map(|by| ChainId::Pick(Pick { map, by, count: 7 })));
    }
    for family in Family::ALL {
        for pods in detections.clone() {
            let pods = match (&pods, family) {
                (PodDetection::Source(_), Family::Ipv6) => net("fd00:1::/64"),
                _ => pods,
            };
            for node_ports in [NodePortAddresses::AllLocal, NodePortAddresses::Listed(Vec::new())] {
                let pings_to =
                    Some(if family == Family::Ipv4 { [10, 51, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() });
                let settings = FamilySettings {
                    pods: pods.clone(),
                    node_ports,
                    node_ip: None,
                    pings_to,
                    localhost: None,
                    cuts_flows: true,
                };
                for (chain, all) in chains.iter().flat_map(|c| [true, false].map(|all| (*c, all))) {
                    for rule in rules(family, &settings, all, chain) {
                        assert_eq!(decode_rule(family, &encode_rule(family, &rule)).as_ref(), Some(&rule));
                    }
                }
            }
        }
    }
}

/// Of so many packets, how many a chain sends to each of the endpoints in the first slots, and how many to none.
fn shares(rules: &[Rule], endpoints: u32, packets: u64) -> (Vec<u64>, u64) {
    let (mut shares, mut open) = (vec![0; endpoints as usize], packets);
    for rule in rules {
        let [Term::Translate { key, .. }] = rule.as_slice() else { continue };
        let Some(Field::RandomSlot(modulus)) = key.last() else { continue };
        let of_each = open / u64::from(*modulus);
        assert_eq!(of_each * u64::from(*modulus), open, "packets can be divided");
        for share in shares.iter_mut().take(*modulus as usize) {
            *share += of_each;
            open -= of_each;
        }
    }
    (shares, open)
}

#[test]
fn with_one_or_two_endpoints_fewer_each_is_found_as_often_and_no_packet_finds_none() {
    for (count, by) in (1..=40).flat_map(|count| [(count, PickBy::Random), (count, PickBy::Sticky)]) {
        let pick = Pick { map: EndpointMap::Address, by, count };
        let rules = pick_one(pick);
        for endpoints in pick.fewest()..=count {
            let packets = (1..=count).rev().take(3).map(u64::from).product::<u64>() * u64::from(endpoints);
            let (each, none) = shares(&rules, endpoints, packets);
            assert_eq!((each, none), (vec![packets / u64::from(endpoints); endpoints as usize], 0), "{pick:?}");
        }
        // The first rule finds one where all slots have endpoints: packets pay for no second one.
        let first = rules.iter().find(|rule| matches!(rule.as_slice(), [Term::Translate { key, .. }] if key.last() == Some(&Field::RandomSlot(count))));
        assert_eq!(shares(&[first.expect("a rule").clone()], count, u64::from(count)).1, 0);
        assert_eq!(pick.fewest(), count.saturating_sub(2).max(1));
        assert_eq!(rules.last(), Some(&vec![Term::Verdict(Verdict::Drop)]));
    }
    for by in [PickBy::SourceIp, PickBy::SourceIpPort] {
        assert_eq!(pick_one(Pick { map: EndpointMap::Address, by, count: 1024 }).len(), 2, "one slot is the client's");
    }
}
