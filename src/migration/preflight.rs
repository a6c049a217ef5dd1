//! Whether this kernel has all we need, tried without changing anything.

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::Family;
use crate::nftables::{CommitMode, NftKernel, TRIAL_TABLE};
use crate::ruleset::{
    Bytes, ChainId, Element, EndpointMap, Field, KernelError, Op, Pick, PickBy, Rule, SetId, Term, Value, Verdict,
};

/// Something this kernel lacks, or this process may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// One sentence for people.
    pub sentence: String,
    /// It is this process that may not, whatever the kernel has.
    pub is_forbidden: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Something our tables use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is, for people.
    pub name: &'static str,
    /// Where it was tried.
    pub family: Family,
    /// Why it cannot be used; `None` when it can.
    pub missing: Option<Missing>,
}

/// A feature, where it comes from, and changes that need it (behind the creation of a table).
struct Probe {
    feature: &'static str,
    source: &'static str,
    ops: Vec<Op>,
}

impl NftKernel {
    /// Which of these families this kernel cannot serve, and what it lacks for them. All is tried in one transaction for
    /// each family that is never committed, so a start for which nothing is missing waits some milliseconds only. What a
    /// commit alone shows, [`NftKernel::preflight`] finds.
    pub fn unfit(&mut self, families: &[Family]) -> Vec<(Family, Vec<Missing>)> {
        let mut unfit = Vec::new();
        for family in families {
            let mut ops = vec![(*family, Op::AddTable)];
            for op in probes(*family).into_iter().flat_map(|probe| probe.ops) {
                // Several features are tried in one chain.
                let is_there = matches!(op, Op::AddChain(_)) && ops.iter().any(|(_, other)| *other == op);
                if !is_there {
                    ops.push((*family, op));
                }
            }
            if self.commit(TRIAL_TABLE, &ops, CommitMode::Trial).is_ok() {
                continue;
            }
            let missing: Vec<_> = self.try_one_by_one(*family).into_iter().filter_map(|tried| tried.missing).collect();
            if !missing.is_empty() {
                unfit.push((*family, missing));
            }
        }
        unfit
    }

    /// Whether this kernel can choose endpoints by a hash (jhash expression), which only Services that ask for it need.
    pub fn can_hash(&mut self, families: &[Family]) -> bool {
        use Field::{DestinationAddress, DestinationPort, HashedSlot, Protocol};
        let by = ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::SourceIp, count: 2 });
        let slot = HashedSlot { with_port: false, modulus: 2 };
        let key = vec![DestinationAddress, Protocol, DestinationPort, slot];
        let ops = |family: &Family| {
            [
                Op::AddTable,
                Op::AddSet(SetId::Endpoints.into(), 0),
                Op::AddChain(by),
                Op::AddRule(by, vec![Term::Translate { key: key.clone(), map: SetId::Endpoints.into() }]),
            ]
            .map(|op| (*family, op))
        };
        let ops: Vec<(Family, Op)> = families.iter().flat_map(ops).collect();
        self.commit(TRIAL_TABLE, &ops, CommitMode::Trial).is_ok()
    }

    /// Tries every feature our tables use, in a table that is never committed, or deleted again. Empty when all is well.
    pub fn preflight(&mut self, families: &[Family]) -> Vec<Missing> {
        self.features(families).into_iter().filter_map(|feature| feature.missing).collect()
    }

    /// As [`NftKernel::preflight`], and names what is there, too. The list ends early when nothing more can be learned.
    pub fn features(&mut self, families: &[Family]) -> Vec<Feature> {
        let mut features = Vec::new();
        for family in families {
            let tried = self.try_one_by_one(*family);
            let forbidden = matches!(&tried[..], [Feature { missing: Some(missing), .. }] if missing.is_forbidden);
            features.extend(tried);
            if forbidden {
                return features;
            }
        }
        if features.iter().all(|feature| feature.missing.is_none()) {
            features.extend(families.iter().map(|family| Feature {
                name: "reject before routing, masquerade after it",
                family: *family,
                missing: self.try_hooks(*family).err(),
            }));
        }
        features
    }

    fn try_one_by_one(&mut self, family: Family) -> Vec<Feature> {
        let mut features = Vec::new();
        for probe in probes(family) {
            let ops: Vec<_> = std::iter::once(Op::AddTable).chain(probe.ops).map(|op| (family, op)).collect();
            let name = probe.feature;
            let Err(error) = self.commit(TRIAL_TABLE, &ops, CommitMode::Trial) else {
                features.push(Feature { name, family, missing: None });
                continue;
            };
            if let KernelError::Refused { errno: libc::EPERM, .. } = error {
                let sentence = "this process may not change nf_tables: it needs CAP_NET_ADMIN in the user \
                                namespace of its network namespace"
                    .to_owned();
                return vec![Feature { name, family, missing: Some(Missing { sentence, is_forbidden: true }) }];
            }
            let why = match &error {
                KernelError::Refused { reason, .. } => reason.clone(),
                other => other.to_string(),
            };
            let (source, nft) = (probe.source, family.nft());
            let sentence = format!("this kernel lacks {source}: no {name} in family {nft}: {why}");
            features.push(Feature { name, family, missing: Some(Missing { sentence, is_forbidden: false }) });
            if ops.len() == 1 {
                // Without tables nothing else works either.
                break;
            }
        }
        features
    }

    /// The kernel checks which expression is allowed in which hook only when a transaction is committed. So some are
    /// committed for a moment, in rules that no packet matches.
    fn try_hooks(&mut self, family: Family) -> Result<(), Missing> {
        let net = match family {
            Family::Ipv4 => IpNet::V4(Ipv4Net::default()),
            Family::Ipv6 => IpNet::V6(Ipv6Net::default()),
        };
        let net = IpNet::from(net.addr());
        let source = |negate| Term::Prefix { field: Field::SourceAddress, negate, net };
        let never = |term| vec![source(false), source(true), term];
        let mut ops: Vec<_> = [
            Op::AddTable,
            // Whatever an earlier try left behind when it was killed.
            Op::DeleteTable,
            Op::AddTable,
            Op::AddChain(ChainId::Prerouting),
            Op::AddChain(ChainId::Postrouting),
            Op::AddRule(ChainId::Prerouting, never(Term::Reject)),
            Op::AddRule(ChainId::Postrouting, never(Term::Masquerade)),
        ]
        .into_iter()
        .map(|op| (family, op))
        .collect();
        let nft = family.nft();
        let result = self.commit(TRIAL_TABLE, &ops, CommitMode::Commit);
        let sentence = match result {
            Ok(()) => {
                ops.truncate(2);
                match self.commit(TRIAL_TABLE, &ops[1..], CommitMode::Commit) {
                    Ok(()) => return Ok(()),
                    Err(error) => format!("cannot delete table {nft} {TRIAL_TABLE} again: {error}"),
                }
            }
            Err(error) => format!("this kernel lacks Linux 5.9: no reject before routing in family {nft}: {error}"),
        };
        Err(Missing { sentence, is_forbidden: false })
    }
}

fn probes(family: Family) -> Vec<Probe> {
    use Field::{
        DestinationAddress, DestinationPort, OriginalAddress, OriginalPort, Priority, Protocol, SourceAddress,
    };
    const FRONTEND: [Field; 3] = [DestinationAddress, Protocol, DestinationPort];
    let pick = ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::Random, count: 1 });
    let rule = |chain: ChainId, terms: Rule| vec![Op::AddChain(chain), Op::AddRule(chain, terms)];
    let in_prerouting = |terms: Rule| rule(ChainId::Prerouting, terms);
    let (config_fib, config_reject, config_table) = match family {
        Family::Ipv4 => ("CONFIG_NFT_FIB_IPV4", "CONFIG_NFT_REJECT_IPV4", "CONFIG_NF_TABLES_IPV4"),
        Family::Ipv6 => ("CONFIG_NFT_FIB_IPV6", "CONFIG_NFT_REJECT_IPV6", "CONFIG_NF_TABLES_IPV6"),
    };
    let probe = |feature, source, ops| Probe { feature, source, ops };
    let with = |set: SetId, ops: Vec<Op>| std::iter::once(Op::AddSet(set.into(), 0)).chain(ops).collect::<Vec<_>>();
    vec![
        probe("nf_tables", config_table, vec![]),
        probe("chains of type nat", "CONFIG_NF_NAT (nft_chain_nat)", vec![Op::AddChain(ChainId::Postrouting)]),
        probe("verdict maps that count", "CONFIG_NF_TABLES with counters", with(SetId::Services, vec![])),
        probe(
            "sets of concatenated ranges",
            "Linux 5.6 (nft_set_pipapo)",
            with(SetId::AllowedSources, vec![Op::AddElements(SetId::AllowedSources.into(), vec![range(family)])]),
        ),
        probe("sets of ranges", "nft_set_rbtree", with(SetId::ServiceCidrs, vec![])),
        probe(
            "comparison of connection status (ct expression)",
            "CONFIG_NFT_CT",
            in_prerouting(vec![Term::Translated]),
        ),
        probe(
            "original destinations in keys (ct original ip daddr)",
            "CONFIG_NFT_CT of Linux 4.17",
            with(
                SetId::AfterDnat,
                rule(
                    ChainId::Postrouting,
                    vec![Term::VerdictMap {
                        key: vec![OriginalAddress, Protocol, OriginalPort],
                        map: SetId::AfterDnat.into(),
                    }],
                ),
            ),
        ),
        probe(
            "address types (fib expression)",
            config_fib,
            in_prerouting(vec![Term::Local { field: SourceAddress, negate: false }]),
        ),
        probe(
            "random choice in a map and translation (numgen, nat expressions)",
            "CONFIG_NFT_NUMGEN or CONFIG_NFT_NAT",
            with(
                SetId::Endpoints,
                vec![
                    Op::AddChain(pick),
                    Op::AddRule(
                        pick,
                        vec![Term::Translate {
                            key: FRONTEND.into_iter().chain([Field::RandomSlot(2)]).collect(),
                            map: SetId::Endpoints.into(),
                        }],
                    ),
                    Op::AddChain(ChainId::Prerouting),
                    Op::AddRule(ChainId::Prerouting, vec![Term::Verdict(Verdict::Jump(pick))]),
                ],
            ),
        ),
        probe("masquerading (masq expression)", "CONFIG_NFT_MASQ", rule(ChainId::Postrouting, vec![Term::Masquerade])),
        probe("rejecting (reject expression)", config_reject, in_prerouting(vec![Term::Reject])),
        probe(
            "chains of type nat where connections end on this host",
            "CONFIG_NF_NAT (hook input)",
            vec![Op::AddChain(ChainId::Input)],
        ),
        probe(
            "maps that rules fill (dynset expression)",
            "CONFIG_NF_TABLES with dynamic sets",
            with(
                SetId::Affinity,
                rule(
                    ChainId::Postrouting,
                    vec![Term::Update {
                        map: SetId::Affinity.into(),
                        key: vec![SourceAddress, Protocol, Priority],
                        timeout_seconds: 60,
                        value: vec![DestinationAddress, DestinationPort],
                    }],
                ),
            ),
        ),
        probe(
            "priorities of packets from a map (meta expression)",
            "CONFIG_NF_TABLES with meta",
            with(
                SetId::AffinityIds,
                in_prerouting(vec![
                    Term::SetPriority { key: FRONTEND.to_vec(), map: SetId::AffinityIds.into() },
                    Term::ClearPriority,
                ]),
            ),
        ),
    ]
}

fn range(family: Family) -> Element {
    let zero = Bytes::from_slice(&vec![0; SetId::AllowedSources.spec().key_len(family)]).unwrap_or_default();
    Element { key: zero, end: Some(zero), value: Value::None, comment: None }
}
