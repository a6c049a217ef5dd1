//! What the commands show: a row type for each view. Tables, JSON, YAML and tests are made of the same rows.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Ok => "OK",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        })
    }
}

/// The version of [`StatusReport`]. It grows when a field goes or means something else, not when one is added.
pub const STATUS_VERSION: u32 = 1;

/// All that `portway status` knows. docs/commands.md lists the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`STATUS_VERSION`].
    pub version: u32,
    /// The worst of all lines.
    pub state: State,
    /// A line for each subsystem.
    pub subsystems: Vec<StatusRow>,
}

impl StatusReport {
    /// A report of these lines.
    pub fn new(subsystems: Vec<StatusRow>) -> Self {
        let state = subsystems.iter().map(|row| row.state).max().unwrap_or(State::Ok);
        Self { version: STATUS_VERSION, state, subsystems }
    }
}

/// A line of `portway status`: one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    /// `source`, `model`, `kernel`, ...
    pub subsystem: String,
    /// How well it is.
    pub state: State,
    /// What is known of it, for people.
    pub detail: String,
    /// The same for programs.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl StatusRow {
    /// A line.
    pub fn new(subsystem: &str, state: State, detail: impl Into<String>) -> Self {
        Self { subsystem: subsystem.to_owned(), state, detail: detail.into(), fields: Map::new() }
    }

    /// The same line with the fields of a JSON object.
    #[must_use]
    pub fn with(mut self, fields: Value) -> Self {
        if let Value::Object(fields) = fields {
            self.fields.extend(fields);
        }
        self
    }
}

/// A line of `portway services`: one frontend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The name of the port; empty when it has none.
    pub port: String,
    /// `ClusterIP`, `LoadBalancer`, `ExternalIP` or `NodePort`; from the kernel alone, what is known of that.
    #[serde(rename = "type")]
    pub class: String,
    /// `10.96.0.1:443/TCP`; of a NodePort `*:30080/TCP`.
    pub frontend: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The traffic policy that counts here: `Cluster` or `Local`.
    pub policy: String,
    /// What happens: `balance`, `refuse` (no endpoints), `drop` (no local endpoints), `lost` (another Service has it),
    /// `set-aside` (nobody has it: the kernel refused the Service, or it is too large).
    pub action: String,
    /// Where connections go; with policy Local on the outside, those of pods and this node.
    pub backends: Vec<String>,
    /// Where connections from outside go, when that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_backends: Option<Vec<String>>,
    /// Timeout of session affinity in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Who may connect, when not everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// Who has the frontend instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What the Service's annotations `portway.io/...` choose: `balance=source-ip`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What of the annotations of the Service and its slices cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<String>,
    /// Connections since the kernel has the element; unknown when it has none.
    pub connections: Option<u64>,
}

/// A line of `portway endpoints`: one endpoint of one Service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The name of the port; empty when it has none.
    pub port: String,
    /// `10.244.1.5:8080/TCP`.
    pub endpoint: String,
    /// `ready`, `serving`, `terminating`; unknown from the kernel alone.
    pub conditions: Vec<String>,
    /// On this node; unknown from the kernel alone.
    pub local: Option<bool>,
    /// Zones it is hinted for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zone_hints: Vec<String>,
    /// Nodes it is hinted for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_hints: Vec<String>,
    /// The sets it was taken into: `cluster`, `local`. Empty: no connection goes there.
    pub used: Vec<String>,
    /// Why it was taken or left.
    pub reason: String,
}

/// A line of `portway diff`: a change that would make the kernel equal to what is desired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRow {
    /// A command of nft.
    pub command: String,
}

/// What the daemon knows of a frontend, for `portway explain`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExplainRows {
    /// Services that claim it; the one that has it first.
    pub services: Vec<ServiceRow>,
    /// The endpoints the one that has it could use, and why each was taken or left.
    pub candidates: Vec<EndpointRow>,
    /// What is wrong with them, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A line of `portway faults`: something in an object or file that is not as its author meant. It goes when that is mended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultRow {
    /// The kind of the object: `Service`, `EndpointSlice`, `Node`, ...; empty where a file has no object that can be read.
    pub kind: String,
    /// Empty for kinds that have none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// What sort of fault it is: `InvalidField`, `Unusable`, `PortMismatch`, `FamilyMismatch`, `PortConflict`, `Oversized`,
    /// `SetAside`.
    pub reason: String,
    /// The path of the field, as `spec.externalIPs[1]`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong, what becomes of it, and what to do; for people.
    pub message: String,
    /// The file and line, for manifests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// An answer that is not a view: what went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence.
    pub error: String,
}
