//! A table with every set, every chain and every kind of rule.

use std::net::IpAddr;

use portway::model::{Family, Protocol};
use portway::ruleset::{
    Bytes, ChainId, Element, EndpointMap, Field, FieldType, Masquerades, Op, Pick, PickBy, Remember, Rule, SetId, Term,
    Transaction, Value, ValueType, Verdict,
};

/// The n-th address of a family.
pub fn ip(family: Family, n: u32) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4((0x0a60_0000 + n).into()),
        Family::Ipv6 => IpAddr::V6(((0xfd00_u128 << 112) + u128::from(n)).into()),
    }
}

/// The n-th key of a set.
pub fn key(family: Family, set: SetId, n: u32) -> Bytes {
    set.spec().key.iter().fold(Bytes::new(), |key, field| match field {
        FieldType::Address => key.ip(ip(family, n)),
        FieldType::Protocol => key.u8([Protocol::Tcp, Protocol::Udp, Protocol::Sctp][n as usize % 3].number()),
        FieldType::Port => key.u16(80 + (n % 1000) as u16),
        FieldType::Slot => key.u32_host(n % 4),
        FieldType::ClassId => key.u32_host(0x1_0000 + n),
    })
}

/// A pick chain for one endpoint.
pub fn pick(count: u32) -> ChainId {
    ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::Random, count })
}

/// The n-th element of a set.
pub fn element(family: Family, set: SetId, n: u32) -> Element {
    let spec = set.spec();
    let value = match spec.value {
        ValueType::None => Value::None,
        ValueType::Endpoint => Value::Data(Bytes::new().ip(ip(family, 1000 + n)).u16(8080)),
        ValueType::Node => Value::Data(Bytes::new().ip(ip(family, 2000 + n))),
        ValueType::ClassId => {
            Value::Data(Bytes::new().u32_host([0x1_0000, 0x1_0001, 0x1_abcd, 0xfe80_0001][n as usize % 4]))
        }
        ValueType::Verdict => {
            // The kernel refuses to reject after routing.
            let chain = if set == SetId::AfterDnat { ChainId::MasqueradeIt } else { ChainId::Refuse };
            Value::Verdict(match n % 4 {
                0 => Verdict::Goto(chain),
                1 => Verdict::Drop,
                2 => Verdict::Return,
                _ => Verdict::Jump(chain),
            })
        }
    };
    let key = key(family, set, n);
    // Affinity records are nobody's in particular.
    let comment = (n.is_multiple_of(2) && set != SetId::Affinity).then(|| format!("ns-{n}/näme:http").into());
    Element { key, end: spec.interval.then_some(key), value, comment }
}

/// The elements of a set in the sample.
pub fn elements(family: Family, set: SetId) -> Vec<Element> {
    let range = |first: Bytes, last: Bytes, comment: Option<&str>| Element {
        key: first,
        end: Some(last),
        value: Value::None,
        comment: comment.map(Into::into),
    };
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    let (nets, last) = match family {
        Family::Ipv4 => (["10.0.0.0", "10.0.255.255", "10.1.0.0", "10.1.0.255"], ["255.0.0.0", "255.255.255.255"]),
        Family::Ipv6 => {
            (["fd00::", "fd00::ffff", "fd00::1:0", "fd00::1:ff"], ["ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
        }
    };
    let nets = nets.map(parse);
    let last = last.map(parse);
    match set {
        // Two that touch, one with a single address, and the end of the address space.
        SetId::ServiceCidrs => {
            let one = Bytes::new().ip(ip(family, 77 << 16));
            vec![
                range(Bytes::new().ip(nets[0]), Bytes::new().ip(nets[1]), Some("first")),
                range(Bytes::new().ip(nets[2]), Bytes::new().ip(nets[3]), None),
                range(one, one, None),
                range(Bytes::new().ip(last[0]), Bytes::new().ip(last[1]), Some("last")),
            ]
        }
        SetId::AllowedSources => {
            let frontend = |net| Bytes::new().ip(ip(family, 1)).u8(6).u16(443).ip(net);
            vec![
                range(frontend(nets[0]), frontend(nets[1]), Some("default/lb")),
                range(frontend(last[0]), frontend(last[1]), None),
                range(frontend(ip(family, 9 << 16)), frontend(ip(family, 9 << 16)), None),
            ]
        }
        _ => (1..=4).map(|n| element(family, set, n)).collect(),
    }
}

/// One rule per kind of term and variant.
pub fn rules(family: Family) -> Vec<Rule> {
    use Field::{DestinationAddress, DestinationPort, OriginalAddress, Protocol, SourceAddress};
    let back = || Term::Verdict(Verdict::Return);
    let net = |text4: &str, text6: &str| match family {
        Family::Ipv4 => text4.parse().expect("a network"),
        Family::Ipv6 => text6.parse().expect("a network"),
    };
    let prefix = |field, negate, net| vec![Term::Prefix { field, negate, net }, back()];
    let interface =
        |negate, name: &str, prefix| vec![Term::Interface { negate, name: name.to_owned(), prefix }, back()];
    let member = |key: Vec<Field>, negate, set| vec![Term::Member { key, negate, set }, back()];
    let frontend = vec![DestinationAddress, Protocol, DestinationPort];
    let nodeport = vec![Protocol, DestinationPort];
    let mut rules = vec![
        prefix(SourceAddress, false, net("10.244.0.0/16", "fd00:10:244::/48")),
        prefix(SourceAddress, true, net("10.244.0.0/16", "fd00:10:244::/48")),
        prefix(DestinationAddress, true, net("10.128.0.0/9", "fd00:8000::/17")),
        prefix(DestinationAddress, false, net("127.0.0.0/8", "fe80::/10")),
        prefix(SourceAddress, false, net("192.0.2.1/32", "2001:db8::1/128")),
        prefix(SourceAddress, false, net("0.0.0.0/0", "::/0")),
        interface(false, "cbr0", false),
        interface(true, "cbr0", false),
        interface(false, "cali", true),
        interface(true, "cali", true),
        interface(false, "abcdefghijklmno", false),
        member(vec![DestinationAddress], false, SetId::ClusterIps.into()),
        member(vec![DestinationAddress], true, SetId::NodeIps.into()),
        member(vec![DestinationAddress], false, SetId::ServiceCidrs.into()),
        member(vec![OriginalAddress], false, SetId::ClusterIps.into()),
        member(vec![SourceAddress, DestinationAddress], false, SetId::Hairpin.into()),
        member(frontend.iter().copied().chain([SourceAddress]).collect(), false, SetId::AllowedSources.into()),
    ];
    for field in [SourceAddress, DestinationAddress] {
        for negate in [false, true] {
            rules.push(vec![Term::Local { field, negate }, back()]);
        }
    }
    rules.extend([
        vec![Term::Translated, Term::Verdict(Verdict::Jump(ChainId::Refuse))],
        vec![Term::Verdict(Verdict::Drop)],
        vec![Term::Verdict(Verdict::Goto(ChainId::Refuse))],
        vec![Term::VerdictMap { key: frontend.clone(), map: SetId::Services.into() }],
        vec![Term::VerdictMap { key: nodeport.clone(), map: SetId::Nodeports.into() }],
        vec![
            Term::Local { field: SourceAddress, negate: true },
            Term::Prefix { field: SourceAddress, negate: true, net: net("10.244.0.0/16", "fd00:10:244::/48") },
            Term::VerdictMap { key: frontend, map: SetId::ExternalLocal.into() },
        ],
    ]);
    rules
}

/// A chain that writes affinity records.
fn remember() -> ChainId {
    ChainId::Remember(Remember {
        nodeport: true,
        external_local: false,
        masquerades: Masquerades::Nobody,
        seconds: 10_800,
    })
}

/// Rules that only make sense behind translation, or at its end.
fn special_rules() -> Vec<(ChainId, Rule)> {
    use Field::{
        DestinationAddress, DestinationPort, OriginalAddress, OriginalPort, Priority, Protocol, SourceAddress,
    };
    let sticky = |count| ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::Sticky, count });
    let nodeport = |count| ChainId::Pick(Pick { map: EndpointMap::Nodeport, by: PickBy::Random, count });
    let frontend = [DestinationAddress, Protocol, DestinationPort];
    let choose = |count| frontend.into_iter().chain([Field::RandomSlot(count)]).collect::<Vec<_>>();
    vec![
        (ChainId::Refuse, vec![Term::Reject]),
        (pick(1), vec![Term::Translate { key: choose(1), map: SetId::Endpoints.into() }]),
        (pick(3), vec![Term::Translate { key: choose(3), map: SetId::Endpoints.into() }]),
        (
            nodeport(2),
            vec![Term::Translate {
                key: vec![Protocol, DestinationPort, Field::RandomSlot(2)],
                map: SetId::NodeportEndpoints.into(),
            }],
        ),
        (
            sticky(3),
            vec![
                Term::SetPriority { key: frontend.to_vec(), map: SetId::AffinityIds.into() },
                Term::Translate { key: vec![SourceAddress, Protocol, Priority], map: SetId::Affinity.into() },
            ],
        ),
        (sticky(3), vec![Term::Translate { key: choose(3), map: SetId::Endpoints.into() }]),
        (ChainId::MasqueradeIt, vec![Term::Masquerade]),
        (
            remember(),
            vec![
                Term::Arrived { negate: true },
                Term::SetPriority { key: vec![Protocol, OriginalPort], map: SetId::NodeportAffinityIds.into() },
                Term::Update {
                    map: SetId::Affinity.into(),
                    key: vec![SourceAddress, Protocol, Priority],
                    timeout_seconds: 10_800,
                    value: vec![DestinationAddress, DestinationPort],
                },
                Term::ClearPriority,
            ],
        ),
        (
            ChainId::AfterDnat,
            vec![Term::VerdictMap { key: vec![OriginalAddress, Protocol, OriginalPort], map: SetId::AfterDnat.into() }],
        ),
        (
            ChainId::AfterDnat,
            vec![
                Term::Member { key: vec![OriginalAddress], negate: false, set: SetId::ClusterIps.into() },
                Term::Masquerade,
            ],
        ),
    ]
}

/// All chains of the sample with their rules, in the order they are made.
pub fn chains(family: Family) -> Vec<(ChainId, Vec<Rule>)> {
    let mut chains: Vec<(ChainId, Vec<Rule>)> = Vec::new();
    for (chain, rule) in special_rules() {
        match chains.iter_mut().find(|(id, _)| *id == chain) {
            Some((_, rules)) => rules.push(rule),
            None => chains.push((chain, vec![rule])),
        }
    }
    chains.push((ChainId::Dispatch, rules(family)));
    let jump = |chain| vec![vec![Term::Verdict(Verdict::Jump(chain))]];
    chains.push((ChainId::Prerouting, jump(ChainId::Dispatch)));
    chains.push((ChainId::Output, jump(ChainId::Dispatch)));
    chains.push((ChainId::Input, jump(remember())));
    chains.push((ChainId::Postrouting, vec![vec![Term::Translated, Term::Verdict(Verdict::Jump(ChainId::AfterDnat))]]));
    chains
}

/// The transaction that makes the sample.
pub fn transaction(family: Family) -> Transaction {
    let mut transaction = Transaction::default();
    transaction.push(family, Op::AddTable);
    for set in SetId::ALL {
        transaction.push(family, Op::AddSet(set.into(), 0));
    }
    let chains = chains(family);
    for (chain, _) in &chains {
        transaction.push(family, Op::AddChain(*chain));
    }
    for (chain, rules) in chains {
        for rule in rules {
            transaction.push(family, Op::AddRule(chain, rule));
        }
    }
    for set in SetId::ALL {
        if set != SetId::Affinity {
            transaction.push(family, Op::AddElements(set.into(), elements(family, set)));
        }
    }
    transaction
}
