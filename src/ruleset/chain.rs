//! Names of chains. Only a few depend on the cluster's content, and none on a single Service.

use std::fmt;
use std::str::FromStr;

use super::SetId;

/// The map a `pick` chain takes an endpoint from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointMap {
    /// [`SetId::Endpoints`]: what an address frontend offers to everybody, or to pods and this node when a policy is Local.
    Address,
    /// [`SetId::LocalEndpoints`]: what an address frontend offers to outside clients when external policy is Local.
    AddressLocal,
    /// [`SetId::NodeportEndpoints`].
    Nodeport,
    /// [`SetId::LocalNodeportEndpoints`].
    NodeportLocal,
}

impl EndpointMap {
    /// All of them.
    pub const ALL: [EndpointMap; 4] =
        [EndpointMap::Address, EndpointMap::AddressLocal, EndpointMap::Nodeport, EndpointMap::NodeportLocal];

    /// The map in the table.
    pub fn set(self) -> SetId {
        match self {
            EndpointMap::Address => SetId::Endpoints,
            EndpointMap::AddressLocal => SetId::LocalEndpoints,
            EndpointMap::Nodeport => SetId::NodeportEndpoints,
            EndpointMap::NodeportLocal => SetId::LocalNodeportEndpoints,
        }
    }

    /// Keyed by protocol and port only.
    pub fn is_nodeport(self) -> bool {
        matches!(self, EndpointMap::Nodeport | EndpointMap::NodeportLocal)
    }

    /// Of endpoints for outside clients, when external policy is Local.
    pub fn is_local(self) -> bool {
        matches!(self, EndpointMap::AddressLocal | EndpointMap::NodeportLocal)
    }

    /// The map that says whose affinity records count for a frontend that takes endpoints from here.
    pub fn affinity_ids(self) -> SetId {
        match self {
            EndpointMap::Address => SetId::AffinityIds,
            EndpointMap::AddressLocal => SetId::LocalAffinityIds,
            EndpointMap::Nodeport => SetId::NodeportAffinityIds,
            EndpointMap::NodeportLocal => SetId::LocalNodeportAffinityIds,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            EndpointMap::Address => "",
            EndpointMap::AddressLocal => "local-",
            EndpointMap::Nodeport => "nodeport-",
            EndpointMap::NodeportLocal => "local-nodeport-",
        }
    }
}

/// A chain that picks one of N slots; shared by all frontends with N slots.
///
/// At random it tries a slot of N, then one of N - 1, then one of N - 2, until an endpoint has it. With any of these numbers
/// of endpoints, in the first slots, each is found with the same probability. So a frontend that gets an endpoint or two fewer,
/// or gets them back, keeps its verdict: a new one has the kernel validate the whole table (benches/README.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pick {
    /// Where the endpoints are.
    pub map: EndpointMap,
    /// How a slot is chosen.
    pub by: PickBy,
    /// Number of slots, at least 1.
    pub count: u32,
}

impl Pick {
    /// So many slots of a chain that chooses at random may have no endpoint.
    const SPARE_MAX: u32 = 2;

    /// The fewest slots that have to have endpoints.
    pub fn fewest(self) -> u32 {
        match self.by {
            PickBy::Random | PickBy::Sticky => self.count.saturating_sub(Self::SPARE_MAX).max(1),
            // Which slot an endpoint has is a matter of the hash.
            PickBy::SourceIp | PickBy::SourceIpPort => self.count,
        }
    }

    /// How many slots there are to choose from at each try.
    pub fn tries(self) -> impl Iterator<Item = u32> {
        (self.fewest()..=self.count).rev()
    }
}

/// How a `pick` chain chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PickBy {
    /// At random.
    Random,
    /// Session affinity: first look for the client's record, else at random.
    Sticky,
    /// By a hash of the client's address.
    SourceIp,
    /// By a hash of the client's address and port.
    SourceIpPort,
}

impl PickBy {
    /// All of them.
    pub const ALL: [PickBy; 4] = [PickBy::Random, PickBy::Sticky, PickBy::SourceIp, PickBy::SourceIpPort];

    fn name(self) -> &'static str {
        match self {
            PickBy::Random => "pick",
            PickBy::Sticky => "sticky",
            PickBy::SourceIp => "hash",
            PickBy::SourceIpPort => "hash-ports",
        }
    }
}

/// Whose connections are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Masquerades {
    /// Nobody's.
    Nobody,
    /// All, as in [`ChainId::MasqueradeIt`].
    Everybody,
    /// Those of this node and of pods that reach themselves, as in [`ChainId::MasqueradeOwn`].
    Own,
    /// Those to endpoints on other nodes, as in [`ChainId::MasqueradeRemote`].
    Remote,
}

impl Masquerades {
    /// All of them.
    pub const ALL: [Masquerades; 4] =
        [Masquerades::Nobody, Masquerades::Everybody, Masquerades::Own, Masquerades::Remote];

    /// The chain that does it.
    pub fn chain(self) -> Option<ChainId> {
        match self {
            Masquerades::Nobody => None,
            Masquerades::Everybody => Some(ChainId::MasqueradeIt),
            Masquerades::Own => Some(ChainId::MasqueradeOwn),
            Masquerades::Remote => Some(ChainId::MasqueradeRemote),
        }
    }
}

/// A chain that writes affinity records; shared by all frontends alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remember {
    /// For NodePorts.
    pub nodeport: bool,
    /// External policy Local: it depends on the client which endpoint set the record belongs to.
    pub external_local: bool,
    /// Whom it masquerades then.
    pub masquerades: Masquerades,
    /// Idle timeout of the records.
    pub seconds: u32,
}

/// A chain of our table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChainId {
    /// Base chain: connections from pods and other machines.
    Prerouting,
    /// Base chain: connections of this host.
    Output,
    /// Base chain: translated connections that end on this host (affinity records only).
    Input,
    /// Base chain: where sources are masqueraded.
    Postrouting,
    /// Finds the frontend a new connection asks for.
    Dispatch,
    /// Answers with ICMP port unreachable.
    Refuse,
    /// External policy Local, by address: pods and this node take any endpoint, others a local one.
    ExternalLocal,
    /// External policy Local, by NodePort.
    NodeportExternalLocal,
    /// Addresses that not everybody may use.
    SourceRanges,
    /// The same for NodePorts; only there while one needs it.
    NodeportSourceRanges,
    /// What a translated connection still needs before it leaves.
    AfterDnat,
    /// Masquerades.
    MasqueradeIt,
    /// Masquerades connections of this node that are not from pods (external policy Local).
    MasqueradeOwn,
    /// Masquerades connections to endpoints on other nodes; those on this node answer the client itself (direct return).
    MasqueradeRemote,
    /// Picks an endpoint.
    Pick(Pick),
    /// Writes an affinity record.
    Remember(Remember),
    /// Base chain, while endpoints are gone: answers packets to them with a TCP reset; those that arrive.
    ResetArriving,
    /// The same for this host's own.
    ResetOwn,
}

/// Type, hook and priority of a base chain; all have policy accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseHook {
    /// Its type.
    pub kind: &'static str,
    /// NF_INET_PRE_ROUTING and so on, as the kernel numbers them.
    pub hook: u32,
    /// nft's name of the hook.
    pub name: &'static str,
    /// Priority; of type nat NF_IP_PRI_NAT_DST (-100) or NF_IP_PRI_NAT_SRC (100) as other components rely on (specification 6.1).
    pub priority: i32,
    /// nft's name of the priority at this hook.
    pub priority_name: &'static str,
}

impl ChainId {
    /// The chains that do not depend on the cluster's content; what leads to others comes after them.
    pub const FIXED: [ChainId; 12] = [
        ChainId::Refuse,
        ChainId::SourceRanges,
        ChainId::ExternalLocal,
        ChainId::NodeportExternalLocal,
        ChainId::Dispatch,
        ChainId::MasqueradeIt,
        ChainId::MasqueradeOwn,
        ChainId::AfterDnat,
        ChainId::Prerouting,
        ChainId::Output,
        ChainId::Input,
        ChainId::Postrouting,
    ];

    /// The chains that are there while endpoints are gone.
    pub const RESETS: [ChainId; 2] = [ChainId::ResetArriving, ChainId::ResetOwn];

    /// Whether packets enter the table here.
    pub fn is_base(self) -> bool {
        self.base().is_some()
    }

    /// The hook of a base chain; `None` for all others.
    pub fn base(self) -> Option<BaseHook> {
        let (hook, name, priority, priority_name) = match self {
            // Before routing: there may be no route to an endpoint that is gone. Of this host's own packets the translation
            // finds a new one, and drops them where there is none.
            ChainId::ResetArriving => (0, "prerouting", 0, "filter"),
            ChainId::ResetOwn => (3, "output", -150, "mangle"),
            ChainId::Prerouting => (0, "prerouting", -100, "dstnat"),
            ChainId::Input => (1, "input", 100, "srcnat"),
            ChainId::Output => (3, "output", -100, "dstnat"),
            ChainId::Postrouting => (4, "postrouting", 100, "srcnat"),
            _ => return None,
        };
        let kind = if ChainId::RESETS.contains(&self) { "filter" } else { "nat" };
        Some(BaseHook { kind, hook, name, priority, priority_name })
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            ChainId::Prerouting => "prerouting",
            ChainId::Output => "output",
            ChainId::Input => "input",
            ChainId::Postrouting => "postrouting",
            ChainId::Dispatch => "dispatch",
            ChainId::Refuse => "refuse",
            ChainId::ExternalLocal => "external-local",
            ChainId::NodeportExternalLocal => "nodeport-external-local",
            ChainId::SourceRanges => "source-ranges",
            ChainId::NodeportSourceRanges => "nodeport-source-ranges",
            ChainId::AfterDnat => "after-dnat",
            ChainId::MasqueradeIt => "masquerade-it",
            ChainId::MasqueradeOwn => "masquerade-own",
            ChainId::MasqueradeRemote => "masquerade-remote",
            ChainId::ResetArriving => "reset-arriving",
            ChainId::ResetOwn => "reset-own",
            ChainId::Pick(Pick { map, by, count }) => {
                return write!(f, "{}{}-{count}", map.prefix(), by.name());
            }
            ChainId::Remember(chain) => {
                write!(f, "{}remember-{}s{}", chain.prefix(), chain.seconds, chain.tail())?;
                return chain.masquerades.chain().map_or(Ok(()), |chain| write!(f, "-{chain}"));
            }
        };
        f.write_str(name)
    }
}

impl Remember {
    fn prefix(self) -> &'static str {
        if self.nodeport { "nodeport-" } else { "" }
    }

    fn tail(self) -> &'static str {
        if self.external_local { "-external-local" } else { "" }
    }
}

/// The name is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a chain of Portway")]
pub struct UnknownChain(String);

impl FromStr for ChainId {
    type Err = UnknownChain;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let others = [Self::NodeportSourceRanges, Self::MasqueradeRemote].into_iter().chain(Self::RESETS);
        let fixed = Self::FIXED.into_iter().chain(others).find(|chain| chain.to_string() == name);
        fixed
            .or_else(|| parse_pick(name))
            .or_else(|| parse_remember(name))
            // Only the exact spelling counts: `pick-03` is not ours.
            .filter(|chain| chain.to_string() == name)
            .ok_or_else(|| UnknownChain(name.to_owned()))
    }
}

fn parse_pick(name: &str) -> Option<ChainId> {
    let (head, count) = name.rsplit_once('-')?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    for map in EndpointMap::ALL {
        for by in PickBy::ALL {
            if head.strip_prefix(map.prefix()) == Some(by.name()) {
                return Some(ChainId::Pick(Pick { map, by, count }));
            }
        }
    }
    None
}

fn parse_remember(name: &str) -> Option<ChainId> {
    let (head, tail) = name.split_once("remember-")?;
    let (seconds, tail) = tail.split_once('s')?;
    let masquerades = Masquerades::ALL
        .into_iter()
        .rfind(|masquerades| masquerades.chain().is_none_or(|chain| tail.ends_with(&chain.to_string())))?;
    Some(ChainId::Remember(Remember {
        nodeport: !head.is_empty(),
        external_local: tail.starts_with("-external-local"),
        masquerades,
        seconds: seconds.parse().ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        let mut chains = vec![
            ChainId::Dispatch,
            ChainId::NodeportSourceRanges,
            ChainId::MasqueradeOwn,
            ChainId::MasqueradeRemote,
            ChainId::ResetArriving,
            ChainId::ResetOwn,
        ];
        for (nodeport, external_local) in (0..4).map(|n| (n & 1 > 0, n & 2 > 0)) {
            for masquerades in Masquerades::ALL {
                let seconds = 10_800;
                chains.push(ChainId::Remember(Remember { nodeport, external_local, masquerades, seconds }));
            }
        }
        for map in EndpointMap::ALL {
            chains.extend(PickBy::ALL.map(|by| ChainId::Pick(Pick { map, by, count: 12 })));
        }
        for chain in chains {
            assert_eq!(chain.to_string().parse(), Ok(chain));
        }
        for name in
            ["", "pick", "pick-0", "pick-03", "remember-5", "x-remember-5s", "remember-5s-masquerade", "KUBE-SERVICES"]
        {
            assert!(name.parse::<ChainId>().is_err(), "{name:?}");
        }
    }
}
