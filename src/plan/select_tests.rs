//! The cases of specification 4.6, by their numbers.

use super::*;

const NODE: &str = "n1";
const ZONE: &str = "za";

/// `L` local or `Q` remote; `r` ready, `t` serving and terminating, `d` terminating and not serving, `n` not ready;
/// then hints in brackets, as `Lr[za]`, `Qr[n2,za]`. Addresses count up.
fn endpoints(text: &str) -> Vec<Candidate> {
    let words = text.split_whitespace().enumerate();
    words
        .map(|(index, word)| {
            let (kind, hints) = word.split_once('[').unwrap_or((word, ""));
            let hints: Vec<&str> = hints.trim_end_matches(']').split(',').filter(|h| !h.is_empty()).collect();
            let of = |first: char| {
                hints.iter().filter(|h| h.starts_with(first)).map(|h| Arc::from(*h)).collect::<Vec<Arc<str>>>()
            };
            let state = kind.as_bytes()[1];
            Candidate {
                target: Target { ip: [10, 0, 0, index as u8 + 1].into(), port: 80 },
                ready: state == b'r',
                serving: matches!(state, b'r' | b't' | b'n'),
                terminating: matches!(state, b't' | b'd'),
                local: kind.starts_with('L'),
                placement: Arc::new(Placement { zone_hints: of('z'), node_hints: of('n'), ..Placement::default() }),
                weight: 1,
            }
        })
        .collect()
}

fn numbers(targets: &[Target]) -> Vec<u8> {
    targets
        .iter()
        .map(|t| match t.ip {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            _ => 0,
        })
        .collect()
}

/// (case, endpoints, cluster set, local set, has endpoints); both sets are computed.
type Case<'a> = (u32, &'a str, &'a [u8], &'a [u8], bool);

#[test]
fn the_cases_of_the_specification() {
    let cases: &[Case<'_>] = &[
        (1, "Lr Qr", &[1, 2], &[1], true),
        (2, "Lt Qr", &[2], &[1], true),
        (3, "Lt Qt Qd", &[1, 2], &[1], true),
        (4, "Ln Qd", &[], &[], false),
        (6, "Qr", &[1], &[], true),
        (7, "Ld Qn", &[], &[], false),
        (10, "Qr Lt", &[1], &[2], true),
        (11, "Qt", &[1], &[], true),
        (12, "Ld Qd", &[], &[], false),
        (16, "Lr[za] Qr[zb]", &[1], &[1], true),
        (17, "Lr[za] Qr", &[1, 2], &[1], true),
        (18, "Lr[za] Qn", &[1], &[1], true),
        (19, "Qr[zb]", &[1], &[], true),
        (20, "Lr[n1] Qr[n2]", &[1], &[1], true),
        (21, "Qr[n2,za] Qr[n3,zb]", &[1], &[], true),
        (22, "Lr[za] Lr[zb] Qr[za]", &[1, 3], &[1, 2], true),
        (23, "Lt[za] Qt[zb]", &[1, 2], &[1], true),
    ];
    for (number, text, cluster, local, has) in cases {
        let selection = select(&endpoints(text), NODE, ZONE, true, true);
        let result = (numbers(&selection.cluster), numbers(&selection.local), selection.has_endpoints);
        assert_eq!(result, (cluster.to_vec(), local.to_vec(), *has), "case {number}: {text}");
    }
}

#[test]
fn a_set_that_is_not_needed_is_empty() {
    let selection = select(&endpoints("Lr Qr"), NODE, ZONE, false, true);
    assert_eq!((numbers(&selection.cluster), numbers(&selection.local)), (vec![], vec![1]));
    let selection = select(&endpoints("Lr Qr"), NODE, ZONE, true, false);
    assert_eq!((numbers(&selection.cluster), numbers(&selection.local)), (vec![1, 2], vec![]));
}

#[test]
fn ready_is_taken_literally() {
    // publishNotReadyAddresses: ready although not serving and terminating (case 24).
    let mut all = endpoints("Lr");
    (all[0].serving, all[0].terminating) = (false, true);
    assert_eq!(numbers(&select(&all, NODE, ZONE, true, true).cluster), [1]);
}

#[test]
fn a_node_without_a_zone_matches_no_hint() {
    let selection = select(&endpoints("Lr[za] Qr[zb]"), NODE, "", true, false);
    assert_eq!((numbers(&selection.cluster), selection.topology), (vec![1, 2], Topology::None));
}

#[test]
fn hints_without_effect_say_why() {
    let unused = |text: &str, zone| EndpointRules::new(&endpoints(text), NODE, zone).unused_hints();
    assert_eq!(unused("Lr[za] Qr[zb]", ""), Some(UnusedHints::NoZone));
    assert_eq!(unused("Lr[za] Qr", ZONE), Some(UnusedHints::Incomplete));
    assert_eq!(unused("Lr[za] Qr", ""), Some(UnusedHints::Incomplete));
    assert_eq!(unused("Qr[zb]", ZONE), Some(UnusedHints::ForOthers));
    assert_eq!(unused("Qr[n2]", ZONE), Some(UnusedHints::ForOthers));
    for used in ["Lr[za] Qr[zb]", "Lr[n1] Qr[n2]", "Lr Qr", "Lr Qn[za]", ""] {
        assert_eq!(unused(used, ZONE), None, "{used}");
    }
}

mod duplicates {
    use super::*;
    use crate::model::{Endpoint, ObjectKey};
    use crate::testing::{self, service_port, slice_port};

    fn slice(name: &str, port: u16, endpoints: &[(u8, bool, bool)]) -> Arc<EndpointSlice> {
        let endpoint = |(n, ready, terminating): &(u8, bool, bool)| Endpoint {
            ready: *ready,
            terminating: *terminating,
            ..testing::endpoint([10, 0, 0, *n].into(), NODE)
        };
        Arc::new(EndpointSlice {
            key: ObjectKey::new("ns", name),
            ports: vec![slice_port("web", port)],
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..testing::slice("svc", NODE, &[])
        })
    }

    fn found(slices: &[Arc<EndpointSlice>]) -> Vec<(u8, u16, bool)> {
        let port = service_port("web", 80);
        let all = candidates(slices.iter(), Family::Ipv4, &port, NODE);
        all.iter().map(|c| (numbers(&[c.target])[0], c.target.port, c.ready)).collect()
    }

    #[test]
    fn a_running_pod_wins_over_a_terminating_one_with_its_address() {
        let (running, draining) = (slice("a", 8080, &[(1, true, false)]), slice("b", 8080, &[(1, false, true)]));
        assert_eq!(found(&[running.clone(), draining.clone()]), [(1, 8080, true)]);
        assert_eq!(found(&[draining, running]), [(1, 8080, true)]);
    }

    #[test]
    fn an_address_that_is_usable_in_any_slice_is_used_in_any_order() {
        // ready, serving, terminating, here; the better one first.
        type State = (bool, bool, bool, bool);
        let better: [(State, State); 7] = [
            ((true, true, false, true), (false, false, false, true)),
            ((true, true, false, false), (false, false, false, true)),
            ((true, true, false, true), (false, false, true, true)),
            ((true, true, false, true), (true, true, false, false)),
            ((true, false, true, true), (false, true, false, true)),
            ((false, true, true, true), (false, false, false, true)),
            ((false, true, true, true), (false, true, false, true)),
        ];
        let endpoint = |(ready, serving, terminating, here): State| Endpoint {
            ready,
            serving,
            terminating,
            ..testing::endpoint([10, 0, 0, 1].into(), if here { NODE } else { "n2" })
        };
        let port = service_port("web", 80);
        for (wanted, other) in better {
            for states in [[wanted, other], [other, wanted]] {
                let slices = |parts: &[&[State]]| -> Vec<Arc<EndpointSlice>> {
                    let part = |(index, part): (usize, &&[State])| {
                        let mut slice = Arc::unwrap_or_clone(slice(&index.to_string(), 8080, &[]));
                        slice.endpoints = part.iter().map(|state| endpoint(*state)).collect();
                        Arc::new(slice)
                    };
                    parts.iter().enumerate().map(part).collect()
                };
                for slices in [slices(&[&states[..1], &states[1..]]), slices(&[&states])] {
                    let found = candidates(slices.iter(), Family::Ipv4, &port, NODE);
                    let found: Vec<State> =
                        found.iter().map(|c| (c.ready, c.serving, c.terminating, c.local)).collect();
                    assert_eq!(found, [wanted], "{states:?} in {} slices", slices.len());
                }
            }
        }
    }

    #[test]
    fn slices_may_carry_different_numbers_for_a_port_name() {
        let slices = [slice("a", 8080, &[(1, true, false)]), slice("b", 9090, &[(1, true, false), (2, true, false)])];
        assert_eq!(found(&slices), [(1, 8080, true), (1, 9090, true), (2, 9090, true)]);
    }
}
