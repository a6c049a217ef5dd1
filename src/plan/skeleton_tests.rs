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
