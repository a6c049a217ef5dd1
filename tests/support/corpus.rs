//! The corpus of scenarios, as its header describes the format.
//!
//! Every struct refuses fields it does not know: an expectation that the runner silently ignored would be worth nothing.
//! Scenarios are read one by one, so a strange one fails by itself and names the field.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::packets::Protocol;

/// A scenario that could be read, or the reason why not together with its name and the number of its flows.
pub enum Entry {
    /// To be run.
    Readable(Box<Scenario>),
    /// To be reported as failed.
    Unreadable { name: String, flows: usize, reason: String },
}

impl Entry {
    /// What the scenario is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Readable(scenario) => &scenario.name,
            Self::Unreadable { name, .. } => name,
        }
    }
}

/// One node, one configuration, and what happens there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    pub name: String,
    #[serde(default, rename = "areas")]
    _areas: Vec<String>,
    #[serde(default, rename = "about")]
    _about: String,
    pub node: Node,
    pub config: Config,
    #[serde(default, rename = "serviceCIDRs")]
    pub service_cidrs: Words,
    pub phases: Vec<Phase>,
}

impl Scenario {
    /// A node with pods, on which nothing happens by itself.
    pub fn uneventful(name: &str) -> Self {
        let text = format!(
            "
name: {name}
node: {{name: node-a, nodeIPs: [10.51.0.1], localAddresses: [10.51.0.1], podCIDRs: [10.1.0.0/24]}}
config: {{detectLocalMode: ClusterCIDR, clusterCIDR: 10.1.0.0/16}}
serviceCIDRs: [10.96.0.0/16]
phases: []
"
        );
        serde_yaml::from_str(&text).expect("a scenario")
    }
}

/// The node on which the proxy runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    pub zone: Option<String>,
    #[serde(default)]
    pub labels: serde_yaml::Mapping,
    #[serde(default, rename = "nodeIPs")]
    pub node_ips: Vec<IpAddr>,
    #[serde(default)]
    pub local_addresses: Vec<IpAddr>,
    #[serde(default, rename = "podCIDRs", alias = "podCIDR")]
    pub pod_cidrs: Words,
}

/// The configuration of the proxy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    pub detect_local_mode: Option<String>,
    #[serde(default, rename = "clusterCIDR", alias = "clusterCIDRs")]
    pub cluster_cidrs: Words,
    #[serde(default)]
    pub masquerade_all: bool,
    pub node_port_addresses: Option<Words>,
    #[serde(alias = "podBridgeInterface")]
    bridge_interface: Option<String>,
    #[serde(alias = "podInterfaceNamePrefix")]
    interface_name_prefix: Option<String>,
    /// Some write the node's pod ranges here and not at the node.
    #[serde(default, rename = "podCIDRs", alias = "podCIDR", alias = "nodeCIDR", alias = "nodeCIDRs")]
    pub pod_cidrs: Words,
    #[serde(default)]
    detect_local: DetectLocal,
}

/// The nested form that the configuration file of kube-proxy uses.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DetectLocal {
    #[serde(default)]
    bridge_interface: String,
    #[serde(default)]
    interface_name_prefix: String,
}

impl Config {
    /// The bridge on which pods arrive, where that tells pods from others.
    pub fn bridge_interface(&self) -> Option<&str> {
        [self.bridge_interface.as_deref(), Some(&self.detect_local.bridge_interface)]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
    }

    /// The start of the names of the interfaces on which pods arrive, where that tells pods from others.
    pub fn interface_name_prefix(&self) -> Option<&str> {
        [self.interface_name_prefix.as_deref(), Some(&self.detect_local.interface_name_prefix)]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
    }
}

/// A change of the objects and what holds after it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Phase {
    pub name: String,
    #[serde(default, rename = "about")]
    _about: String,
    #[serde(default)]
    pub apply: Vec<Value>,
    #[serde(default)]
    pub delete: Vec<String>,
    #[serde(default)]
    pub flows: Vec<Flow>,
    #[serde(default)]
    pub health_checks: Vec<HealthCheck>,
}

/// One new connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub name: String,
    pub from: IpAddr,
    pub to: IpAddr,
    #[serde(deserialize_with = "protocol")]
    pub protocol: Protocol,
    pub port: u16,
    pub expect: Expectation,
}

/// What must become of a connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub verdict: Verdict,
    #[serde(default)]
    pub backends: Vec<SocketAddr>,
    pub masquerade: Option<bool>,
}

/// The four things that can become of a connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Dnat,
    Reject,
    Drop,
    Accept,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dnat, Self::Reject, Self::Drop, Self::Accept];
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends: Vec<_> = self.backends.iter().map(ToString::to_string).collect();
        match (self.verdict, self.masquerade) {
            (Verdict::Dnat, Some(true)) => write!(f, "DNAT to {}, masqueraded", backends.join(" and ")),
            (Verdict::Dnat, Some(false)) => write!(f, "DNAT to {}, source kept", backends.join(" and ")),
            (Verdict::Dnat, None) => write!(f, "DNAT to {}", backends.join(" and ")),
            (verdict, _) => write!(f, "{}", format!("{verdict:?}").to_uppercase()),
        }
    }
}

/// What the health check port of a Service must answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheck {
    /// `namespace/name`
    pub service: String,
    pub local_endpoints: u32,
    pub status: u16,
}

/// A list, also when it is written as one string with commas.
#[derive(Clone, Debug, Default)]
pub struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let words = match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(word) => vec![word],
            OneOrMany::Many(words) => words,
        };
        let split = words.iter().flat_map(|word| word.split(','));
        Ok(Self(split.map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()))
    }
}

fn protocol<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
    let name = String::deserialize(deserializer)?;
    Protocol::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("no such protocol: {name}")))
}

/// Reads a whole corpus.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Corpus {
        format: u32,
        scenarios: Vec<Value>,
    }
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("there is no corpus of packet flows at {} (PORTWAY_FLOWS names another place)", path.display())
    })?;
    let corpus: Corpus = serde_yaml::from_str(&text).with_context(|| format!("{} is no corpus", path.display()))?;
    ensure!(corpus.format == 1, "{} has format {}, this runner knows format 1", path.display(), corpus.format);
    ensure!(!corpus.scenarios.is_empty(), "{} has no scenarios", path.display());
    Ok(corpus.scenarios.into_iter().map(entry).collect())
}

fn entry(value: Value) -> Entry {
    let name = value.get("name").and_then(Value::as_str).unwrap_or("(without a name)").to_owned();
    let flows_of = |phase: &Value| phase.get("flows").and_then(Value::as_sequence).map_or(0, Vec::len);
    let flows = value.get("phases").and_then(Value::as_sequence).map_or(0, |phases| phases.iter().map(flows_of).sum());
    match scenario(value) {
        Ok(scenario) => Entry::Readable(Box::new(scenario)),
        Err(error) => Entry::Unreadable { name, flows, reason: format!("{error:#}") },
    }
}

/// Reads a scenario part by part, so that an error tells in which part it is.
fn scenario(value: Value) -> Result<Scenario> {
    fn check<T: for<'de> Deserialize<'de>>(value: &Value, key: &str) -> Result<()> {
        let Some(part) = value.get(key) else { bail!("`{key}` is missing") };
        T::deserialize(part.clone()).map(drop).with_context(|| format!("in `{key}`"))
    }
    check::<Node>(&value, "node")?;
    check::<Config>(&value, "config")?;
    check::<Vec<Phase>>(&value, "phases")?;
    let scenario = Scenario::deserialize(value)?;
    for flow in scenario.phases.iter().flat_map(|phase| &phase.flows) {
        let Flow { name, from, to, expect, .. } = flow;
        ensure!(from.is_ipv4() == to.is_ipv4(), "flow `{name}`: {from} and {to} are not of one family");
        let complete = !expect.backends.is_empty() && expect.masquerade.is_some();
        ensure!(expect.verdict != Verdict::Dnat || complete, "flow `{name}`: DNAT needs `backends` and `masquerade`");
    }
    Ok(scenario)
}
