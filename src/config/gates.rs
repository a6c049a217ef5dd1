//! Feature gates. Every well-formed name is accepted: the file of an existing cluster must never stop the start.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::flags::parse_bool;
use super::note::Note;

/// The one gate that changes what is programmed: off, externalIPs are not.
pub(super) const EXTERNAL_IPS: &str = "AllowServiceExternalIPs";
/// Off, NodePorts are not relayed on localhost, whatever nodePortAddresses says. On by default here: kube-proxy 1.37 wants
/// both this gate and the address.
pub(super) const LOCALHOST_NODE_PORTS: &str = "KubeProxyNFTablesLocalhostNodePorts";
/// Serve /statusz.
pub(super) const STATUSZ: &str = "ComponentStatusz";
/// Serve /flagz.
pub(super) const FLAGZ: &str = "ComponentFlagz";
/// Buffers and split streams of the log.
pub(super) const LOGGING_ALPHA: &str = "LoggingAlphaOptions";

/// All gates of a stage that are not set themselves.
pub(super) const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// A gate of kube-proxy's.
struct FeatureGate {
    name: &'static str,
    /// As `kubernetes_feature_enabled` has it; empty for general availability.
    stage: &'static str,
    default: bool,
    /// It cannot be set to anything but its default.
    locked: bool,
}

const fn gate(name: &'static str, stage: &'static str, default: bool) -> FeatureGate {
    FeatureGate { name, stage, default, locked: false }
}

const fn locked(name: &'static str, stage: &'static str) -> FeatureGate {
    FeatureGate { name, stage, default: true, locked: true }
}

/// kube-proxy's gates, of 1.37, that mean something to it.
const KNOWN: [FeatureGate; 16] = [
    gate(EXTERNAL_IPS, "", true),
    gate(STATUSZ, "BETA", true),
    gate(FLAGZ, "BETA", true),
    gate(LOGGING_ALPHA, "ALPHA", false),
    gate("LoggingBetaOptions", "BETA", true),
    gate("ContextualLogging", "BETA", true),
    gate("NativeHistograms", "ALPHA", false),
    gate(LOCALHOST_NODE_PORTS, "ALPHA", true),
    gate(ALL_ALPHA, "ALPHA", false),
    gate(ALL_BETA, "BETA", false),
    // Says whether mode ipvs may be asked for: it may, and runs as nftables.
    gate("KubeProxyIPVS", "DEPRECATED", true),
    // There is no other way here.
    locked("NFTablesNetlink", "BETA"),
    locked("MultiCIDRServiceAllocator", ""),
    locked("PreferSameTrafficDistribution", ""),
    locked("NFTablesProxyMode", ""),
    locked("TopologyAwareHints", ""),
];

/// Gates that kube-proxy had since 1.30 and has no more: what they did is always done.
const GONE: [&str; 3] = ["KubeProxyDrainingTerminatingNodes", "LoadBalancerIPMode", "ServiceTrafficDistribution"];

/// The gates known here: name, stage, and whether they are on.
pub(super) fn values(gates: &BTreeMap<String, bool>) -> Vec<(&'static str, &'static str, bool)> {
    KNOWN.iter().map(|gate| (gate.name, gate.stage, gate.value(gates))).collect()
}

/// Whether a gate that is known here is on.
pub(super) fn is_on(gates: &BTreeMap<String, bool>, name: &str) -> bool {
    KNOWN.iter().find(|gate| gate.name == name).is_some_and(|gate| gate.value(gates))
}

impl FeatureGate {
    /// As it is set; else as AllAlpha or AllBeta sets those of its stage; else its default.
    fn value(&self, gates: &BTreeMap<String, bool>) -> bool {
        if self.locked {
            return self.default;
        }
        let of_stage = match self.stage {
            "ALPHA" => Some(ALL_ALPHA),
            "BETA" => Some(ALL_BETA),
            _ => None,
        };
        let set = |name: &str| gates.get(name).copied();
        set(self.name).or_else(|| of_stage.filter(|_| !is_group(self.name)).and_then(set)).unwrap_or(self.default)
    }
}

fn is_group(name: &str) -> bool {
    [ALL_ALPHA, ALL_BETA].contains(&name)
}

/// Reads `NAME=true`.
pub(super) fn parse(item: &str) -> Result<(String, bool), ConfigError> {
    let error = |cause: &str| ConfigError::Flag { flag: "feature-gates", value: item.into(), cause: cause.into() };
    let (name, value) = item.split_once('=').ok_or_else(|| error("want NAME=true or NAME=false"))?;
    let name = name.trim();
    if !is_name(name) {
        return Err(error("this is not the name of a gate"));
    }
    let value = parse_bool(value.trim()).ok_or_else(|| error("want true or false behind the name"))?;
    Ok((name.to_owned(), value))
}

/// How gates are called.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// What is said about gates that do not act.
pub(super) fn notes(gates: &BTreeMap<String, bool>) -> Vec<Note> {
    let always = |name: &str, value: bool| {
        Note::warn(format!("feature gate {name}={value} has no effect: it is always {}", !value))
    };
    let note = |(name, value): (&String, &bool)| match KNOWN.iter().find(|gate| gate.name == name) {
        None if GONE.contains(&name.as_str()) => Some(always(name, *value)).filter(|_| !value),
        None => Some(Note::warn(format!("feature gate {name} is not known here; it has no effect"))),
        Some(gate) if gate.locked && *value != gate.default => Some(always(name, *value)),
        Some(_) => None,
    };
    gates.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax() {
        assert_eq!(parse("A1=false").expect("fine"), ("A1".into(), false));
        for item in ["A", "A=", "=true", "A B=true", "A=yes", "1A=true"] {
            assert!(parse(item).is_err(), "{item}");
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let gates = [
            (EXTERNAL_IPS, false),
            ("Whatever", true),
            ("MultiCIDRServiceAllocator", false),
            ("AllBeta", true),
            ("LoadBalancerIPMode", true),
            ("ServiceTrafficDistribution", false),
        ];
        let notes = notes(&gates.map(|(name, value)| (name.to_owned(), value)).into());
        let texts: Vec<_> = notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "feature gate MultiCIDRServiceAllocator=false has no effect: it is always true",
                "feature gate ServiceTrafficDistribution=false has no effect: it is always true",
                "feature gate Whatever is not known here; it has no effect",
            ]
        );
    }

    /// Names and defaults of kube-proxy 1.37; the one for localhost is on here, as the address alone decides.
    #[test]
    fn gates_of_1_37() {
        let values = values(&BTreeMap::new());
        for gate in [
            ("NFTablesNetlink", "BETA", true),
            ("KubeProxyIPVS", "DEPRECATED", true),
            (LOCALHOST_NODE_PORTS, "ALPHA", true),
            ("NativeHistograms", "ALPHA", false),
        ] {
            assert!(values.contains(&gate), "{gate:?}");
            assert_eq!(notes(&[(gate.0.to_owned(), true)].into()), [], "{gate:?}");
        }
        let off = notes(&[("NFTablesNetlink".to_owned(), false), ("KubeProxyIPVS".to_owned(), false)].into());
        assert_eq!(off.len(), 1, "{off:?}");
        assert!(off[0].text.contains("NFTablesNetlink=false has no effect"), "{off:?}");
    }

    #[test]
    fn a_gate_counts_before_its_group_and_its_group_before_the_default() {
        let is = |set: &[(&str, bool)], name| {
            is_on(&set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(), name)
        };
        assert!(is(&[], STATUSZ) && is(&[], FLAGZ) && !is(&[], LOGGING_ALPHA));
        assert!(!is(&[(STATUSZ, false)], STATUSZ) && is(&[(STATUSZ, false)], FLAGZ));
        assert!(!is(&[("AllBeta", false)], STATUSZ) && is(&[("AllBeta", false), (STATUSZ, true)], STATUSZ));
        assert!(is(&[("AllAlpha", true)], LOGGING_ALPHA) && is(&[("AllBeta", false)], EXTERNAL_IPS));
        assert!(is(&[("AllBeta", false)], "NFTablesProxyMode"), "locked");
    }

    #[test]
    fn locked_gates_keep_their_value() {
        let gates = [("ContextualLogging", false), ("TopologyAwareHints", false), ("Whatever", true)];
        let values = values(&gates.map(|(name, value)| (name.to_owned(), value)).into());
        assert!(values.contains(&("ContextualLogging", "BETA", false)));
        assert!(values.contains(&("TopologyAwareHints", "", true)));
        assert!(values.contains(&(LOGGING_ALPHA, "ALPHA", false)));
        assert_eq!(values.len(), KNOWN.len());
    }
}
