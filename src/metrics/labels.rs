//! Sets of labels.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

use crate::model::{Family, Protocol};
use crate::ruleset::SetId;

/// `ip_family`: `IPv4` or `IPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByFamily {
    ip_family: IpFamily,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum IpFamily {
    IPv4,
    IPv6,
}

impl From<Family> for IpFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => IpFamily::IPv4,
            Family::Ipv6 => IpFamily::IPv6,
        }
    }
}

impl From<Family> for ByFamily {
    fn from(family: Family) -> Self {
        Self { ip_family: family.into() }
    }
}

/// `reason`, as `portway faults` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByReason {
    pub(super) reason: &'static str,
}

/// `protocol`: `TCP`, `UDP` or `SCTP`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByProtocol {
    protocol: String,
}

impl From<Protocol> for ByProtocol {
    fn from(protocol: Protocol) -> Self {
        Self { protocol: protocol.to_string() }
    }
}

/// Both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByFamilyAndProtocol {
    ip_family: IpFamily,
    protocol: String,
}

impl ByFamilyAndProtocol {
    pub(super) fn new(family: Family, protocol: Protocol) -> Self {
        Self { ip_family: family.into(), protocol: protocol.to_string() }
    }
}

/// `traffic_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(super) enum TrafficPolicy {
    internal,
    external,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByPolicy {
    traffic_policy: TrafficPolicy,
    ip_family: IpFamily,
}

impl ByPolicy {
    pub(super) fn new(traffic_policy: TrafficPolicy, family: Family) -> Self {
        Self { traffic_policy, ip_family: family.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Code {
    pub(super) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BySet {
    set: &'static str,
    ip_family: IpFamily,
}

impl BySet {
    pub(super) fn new(set: SetId, family: Family) -> Self {
        Self { set: set.spec().name, ip_family: family.into() }
    }
}

/// `op`: `add` or `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOp {
    pub(super) op: &'static str,
}

/// `result`: `ok` or `error`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByResult {
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BySource {
    pub(super) source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FeatureLabels {
    pub(super) name: &'static str,
    pub(super) stage: &'static str,
}

/// A frontend: the Service port it belongs to, and where it answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FrontendLabels {
    namespace: String,
    service: String,
    port_name: String,
    /// `10.96.0.10:80/TCP`, `[fd00::1]:80/TCP`, `node port 30080/TCP`.
    frontend: String,
    ip_family: IpFamily,
}

impl FrontendLabels {
    /// `label` is `namespace/service:port`; long ones are cut.
    pub(super) fn new(label: &str, frontend: String, family: Family) -> Self {
        let (namespace, rest) = label.split_once('/').unwrap_or(("", label));
        let (service, port_name) = rest.split_once(':').unwrap_or((rest, ""));
        let [namespace, service, port_name] = [namespace, service, port_name].map(str::to_owned);
        Self { namespace, service, port_name, frontend, ip_family: family.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KubernetesBuild {
    pub(super) major: String,
    pub(super) minor: String,
    pub(super) git_version: String,
    pub(super) platform: String,
    pub(super) compiler: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PortwayBuild {
    pub(super) version: &'static str,
}
