use super::*;
use crate::direct::slots::WantedFrontend;
use crate::ruleset::{Bytes, SlotHash};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(vip: &str) -> (Family, Bytes) {
    (Family::of(ip(vip)), Bytes::new().ip(ip(vip)).u8(6).u16(80))
}

/// A frontend whose slots lead to these nodes; `-` is this one.
fn frontend(slots: &[&str]) -> WantedFrontend {
    let hash = SlotHash { modulus: slots.len() as u32, ports: false };
    let slots = slots.iter().map(|node| Some(Arc::from(*node)).filter(|_| *node != "-")).collect();
    WantedFrontend { hash, label: "default/web".into(), slots }
}

/// One frontend, and nodes with their addresses.
fn wanted(vip: &str, slots: &[&str], nodes: &[(&str, &[&str])]) -> Wanted {
    Wanted {
        frontends: [(key(vip), frontend(slots))].into(),
        nodes: nodes.iter().map(|(name, ips)| (Arc::from(*name), ips.iter().map(|text| ip(text)).collect())).collect(),
    }
}

/// Index of an interface, and gateway.
type Found<'a> = Option<(u32, Option<&'a str>)>;

fn network(devices: &[(u32, &str)], ways: &[(&str, Found<'_>)]) -> Network {
    let way = |(device, gateway): (u32, Option<&str>)| Way { device, gateway: gateway.map(ip) };
    Network {
        devices: devices.iter().map(|(index, name)| (*index, Arc::from(*name))).collect(),
        strict: BTreeSet::new(),
        ways: ways.iter().map(|(to, found)| (ip(to), found.map(way))).collect(),
    }
}

/// The devices and addresses that slots lead to, and what is said.
fn hops(wanted: &Wanted, network: &Network) -> (Vec<Option<(u32, String)>>, Vec<String>) {
    let (table, troubles) = table(wanted, network, &["eth0".into()]);
    let slots = table.frontends.values().flat_map(|frontend| frontend.slots.to_vec());
    (slots.map(|hop| hop.map(|hop| (hop.device, hop.address.to_string()))).collect(), troubles)
}

#[test]
fn slots_lead_to_neighbours_on_the_interfaces() {
    let wanted = wanted("203.0.113.1", &["n2", "-", "n2"], &[("n2", &["fd00::2", "10.0.0.2"])]);
    let there = network(&[(2, "eth0")], &[("10.0.0.2", Some((2, None))), ("fd00::2", Some((2, None)))]);
    let to = || Some((2, "10.0.0.2".to_owned()));
    assert_eq!(hops(&wanted, &there), (vec![to(), None, to()], vec![]));
}

#[test]
fn what_cannot_be_reached_directly_goes_the_ordinary_way_and_is_said() {
    let wanted = wanted("203.0.113.1", &["n2", "n3"], &[("n2", &["10.0.0.2"]), ("n3", &["10.0.0.3"])]);
    let to_n3 = ("10.0.0.3", Some((2, None)));
    for (way, said) in [
        (None, "no route"),
        (Some((2, Some("10.0.0.1"))), "has a gateway"),
        (Some((3, None)), "leaves by an interface without direct return"),
    ] {
        let (slots, troubles) = hops(&wanted, &network(&[(2, "eth0")], &[("10.0.0.2", way), to_n3]));
        assert_eq!(slots, [None, Some((2, "10.0.0.3".to_owned()))]);
        assert!(
            troubles.len() == 1 && troubles[0].contains(said) && troubles[0].contains("on n2 take"),
            "{troubles:?}"
        );
    }
    let of_other_family = self::wanted("203.0.113.1", &["n2"], &[("n2", &["fd00::2"])]);
    let (slots, troubles) = hops(&of_other_family, &network(&[(2, "eth0")], &[]));
    assert_eq!(slots, []);
    assert!(troubles[0].contains("no InternalIP of this family"), "{troubles:?}");
}

#[test]
fn without_the_interface_there_is_no_table() {
    let wanted = wanted("203.0.113.1", &["n2"], &[("n2", &["10.0.0.2"])]);
    let (table, troubles) = table(&wanted, &network(&[], &[("10.0.0.2", Some((2, None)))]), &["eth0".into()]);
    assert!(table.is_empty());
    assert_eq!(troubles[0], "the interface eth0 is not there, or down");
}

#[test]
fn many_nodes_are_one_sentence() {
    let names: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
    let slots: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_, troubles) = hops(&wanted("203.0.113.1", &slots, &[]), &network(&[(2, "eth0")], &[]));
    assert_eq!(troubles, [] as [String; 0], "Nodes that have not been seen yet are none");
    let nodes: Vec<(&str, &[&str])> = slots.iter().map(|name| (*name, &["10.0.0.2"] as &[&str])).collect();
    let (_, troubles) = hops(&wanted("203.0.113.1", &slots, &nodes), &network(&[(2, "eth0")], &[]));
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].contains("n00, n01, n02, n03, n04 and 15 more"), "{troubles:?}");
}
