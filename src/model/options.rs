//! What users choose beyond the API of Kubernetes, with annotations `portway.io/...`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::LabelSelector;

/// The options of a Service. Few Services have any, so they hang on a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceOptions {
    /// `portway.io/balance`.
    pub balance: Balance,
    /// `portway.io/external-traffic: prefer-local`: endpoints of this node if it has usable ones, else the cluster's.
    pub external_prefer_local: bool,
    /// `portway.io/internal-traffic: prefer-local`: the same for ClusterIPs.
    pub internal_prefer_local: bool,
    /// Readable entries of `portway.io/denied-source-ranges`, each once.
    pub denied_sources: Vec<IpNet>,
    /// `portway.io/expose-on-nodes`: which nodes answer on external addresses and NodePorts; absent means all.
    pub expose_on: Option<LabelSelector>,
    /// What of the annotations cannot be used, a sentence each that begins with the annotation's name.
    pub faults: Vec<Box<str>>,
}

impl ServiceOptions {
    /// Of a Service without annotations.
    pub const DEFAULT: Self = Self {
        balance: Balance::Random,
        external_prefer_local: false,
        internal_prefer_local: false,
        denied_sources: Vec::new(),
        expose_on: None,
        faults: Vec::new(),
    };

    /// The options that are set, as `balance=source-ip`.
    pub fn texts(&self) -> Vec<String> {
        let Self { balance, external_prefer_local, internal_prefer_local, denied_sources, expose_on, faults: _ } = self;
        let ranges = denied_sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        [
            (*balance != Balance::Random).then(|| format!("balance={balance}")),
            external_prefer_local.then(|| "external-traffic=prefer-local".to_owned()),
            internal_prefer_local.then(|| "internal-traffic=prefer-local".to_owned()),
            (!ranges.is_empty()).then(|| format!("denied-source-ranges={ranges}")),
            expose_on.as_ref().map(|selector| format!("expose-on-nodes={selector}")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How an endpoint is chosen for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Balance {
    /// At random: the default, as kube-proxy does.
    #[default]
    Random,
    /// By the client's address: the same client gets the same endpoint, on every node.
    SourceIp,
    /// By the client's address and port.
    SourceIpPort,
}

impl Balance {
    /// All of them.
    pub const ALL: [Balance; 3] = [Balance::Random, Balance::SourceIp, Balance::SourceIpPort];
}

impl fmt::Display for Balance {
    /// As in the annotation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Balance::Random => "random",
            Balance::SourceIp => "source-ip",
            Balance::SourceIpPort => "source-ip-port",
        })
    }
}

/// `portway.io/weights` of an EndpointSlice. Few slices have it, so it hangs on a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointWeights {
    /// The readable entries. Endpoints that are not named have weight 1.
    pub of: BTreeMap<IpAddr, u8>,
    /// What of the annotations cannot be used, a sentence each that begins with the annotation's name.
    pub faults: Vec<Box<str>>,
}

impl EndpointWeights {
    /// The largest weight; the smallest is 1.
    pub const MAX: u8 = 100;
}
