//! Reads a configuration file: a `KubeProxyConfiguration`, and perhaps a `PortwayConfiguration` behind it.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::GoDuration;
use super::error::ConfigError;
use super::kube_proxy::{self, KubeProxyConfiguration};
use super::note::Note;
use crate::yaml;

/// The `apiVersion` of [`PortwayConfiguration`].
pub(super) const PORTWAY_API_VERSION: &str = "portway.io/v1alpha1";
/// The `kind` of [`PortwayConfiguration`].
pub(super) const PORTWAY_KIND: &str = "PortwayConfiguration";

/// Portway's own settings: a further document of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortwayConfiguration {
    /// `portway.io/v1alpha1`.
    pub api_version: String,
    /// `PortwayConfiguration`.
    pub kind: String,
    /// Nobody else may change the tables while Portway runs (kernels from 6.9 on); absent: true.
    pub table_ownership: Option<bool>,
    /// Read manifests from this folder instead of the API; absent or empty: the API.
    pub manifests: String,
    /// Serve the Services with this label `service.kubernetes.io/service-proxy-name` only; absent or empty: those without.
    pub service_proxy_name: String,
    /// Show connections of each frontend as long as there are no more frontends than this; absent or 0: never.
    pub frontend_metrics_max: u32,
    /// Interfaces for direct return; absent or empty: none.
    pub direct_return_devices: Vec<String>,
    /// Interfaces for the fast path, or beginnings of their names (`cali*`); absent or empty: none.
    pub fast_path_devices: Vec<String>,
    /// Have Service addresses answer echo requests; absent: false.
    pub answer_pings: bool,
    /// How long connections to endpoints that are gone are reset; absent or 0: they are not.
    pub reset_connections_for: GoDuration,
}

/// What a file says, before defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Documents {
    /// The main document.
    pub kube_proxy: KubeProxyConfiguration,
    /// The second document.
    pub portway: PortwayConfiguration,
}

/// Reads the text of a file. What is odd but harmless becomes a note.
pub(super) fn read(path: &Path, text: &str, notes: &mut Vec<Note>) -> Result<Documents, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut kube_proxy, mut portway) = (None, None);
    for (line, document) in yaml::split(text) {
        // The text of a syntax error names a line: let it count from the top of the file.
        let padded = format!("{}{document}", "\n".repeat(line - 1));
        let mut duplicates = Vec::new();
        let value = yaml::read(&padded, &mut duplicates)
            .map_err(|cause| ConfigError::Syntax { path: path.into(), cause: cause.to_string() })?;
        let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (word("apiVersion"), word("kind"));
        let file = ConfigFile { path, notes };
        match (version.as_str(), kind.as_str()) {
            (kube_proxy::API_VERSION, kube_proxy::KIND) if kube_proxy.is_none() => {
                kube_proxy = Some(file.decode::<KubeProxyConfiguration>(value, duplicates)?);
            }
            (PORTWAY_API_VERSION, PORTWAY_KIND) if portway.is_none() => {
                portway = Some(file.decode::<PortwayConfiguration>(value, duplicates)?);
            }
            (kube_proxy::API_VERSION, kube_proxy::KIND) | (PORTWAY_API_VERSION, PORTWAY_KIND) => {
                return Err(ConfigError::Twice { path: path.into(), kind });
            }
            _ => return Err(ConfigError::Kind { path: path.into(), line, version, kind }),
        }
    }
    let kube_proxy = kube_proxy.ok_or_else(|| ConfigError::Empty { path: path.into() })?;
    Ok(Documents { kube_proxy, portway: portway.unwrap_or_default() })
}

struct ConfigFile<'a> {
    path: &'a Path,
    notes: &'a mut Vec<Note>,
}

impl ConfigFile<'_> {
    fn decode<T>(self, mut value: Value, duplicates: Vec<String>) -> Result<T, ConfigError>
    where
        T: DeserializeOwned + Serialize + Default,
    {
        let at = self.path.display();
        for field in duplicates {
            self.notes.push(Note::warn(format!("{at}: field {field} is there more than once; the last one counts")));
        }
        let known = serde_json::to_value(T::default()).unwrap_or_default();
        let mut unknown = Vec::new();
        find_unknown(&value, &known, "", &mut unknown);
        for field in unknown {
            self.notes.push(Note::warn(format!("{at}: unknown field {field} is ignored")));
        }
        old_booleans(&mut value, &known);
        serde_path_to_error::deserialize(value).map_err(|error| ConfigError::Field {
            path: self.path.into(),
            field: error.path().to_string(),
            cause: error.into_inner().to_string(),
        })
    }
}

/// Compares with all fields there are. Maps with keys of the user's choice, and lists, are empty in `known`.
fn find_unknown(value: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    let (Value::Object(value), Value::Object(known)) = (value, known) else { return };
    if known.is_empty() {
        return;
    }
    for (key, value) in value {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match known.get(key) {
            Some(known) => find_unknown(value, known, &path, unknown),
            None => unknown.push(path),
        }
    }
}

/// `yes` and `on` were booleans in the YAML kube-proxy reads, and are words in ours.
fn old_booleans(value: &mut Value, known: &Value) {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => {
            for (key, value) in value {
                known.get(key).into_iter().for_each(|known| old_booleans(value, known));
            }
        }
        (value, Value::Bool(_)) => match value.as_str() {
            Some("y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON") => *value = true.into(),
            Some("n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF") => *value = false.into(),
            _ => {}
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn parse(text: &str) -> Result<(Documents, Vec<String>), String> {
        let mut notes = Vec::new();
        let documents = read(Path::new("f"), text, &mut notes).map_err(|error| error.to_string())?;
        Ok((documents, notes.into_iter().map(|note| note.text).collect()))
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err("fatal")
    }

    #[test]
    fn unknown_and_duplicate_fields_are_tolerated_and_named() {
        let (read, notes) = parse(&format!(
            "{HEAD}mode: ipvs\nmode: nftables\nconntrack: {{maxPerCore: 1, maximum: 2}}\nextra: 1\nfeatureGates: {{Any: true}}\n"
        ))
        .expect("readable");
        assert_eq!(read.kube_proxy.mode, "nftables");
        assert_eq!(read.kube_proxy.conntrack.max_per_core, Some(1));
        assert_eq!(
            notes,
            [
                "f: field mode is there more than once; the last one counts",
                "f: unknown field conntrack.maximum is ignored",
                "f: unknown field extra is ignored",
            ]
        );
    }

    #[test]
    fn nulls_are_absent_and_json_is_fine() {
        let (read, notes) =
            parse(&format!("{HEAD}mode: null\nconntrack:\n  min: null\nnftables: null\noomScoreAdj:\n")).expect("");
        assert_eq!(notes, Vec::<String>::new());
        let json = r#"{"kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1"}"#;
        assert_eq!(parse(json).expect("JSON").0, read);
    }

    #[test]
    fn wrong_types_name_the_field() {
        for (text, field, cause) in [
            ("oomScoreAdj: many\n", "oomScoreAdj", "expected i32"),
            ("nftables:\n  syncPeriod: 30\n", "nftables.syncPeriod", "expected a string"),
            ("nftables:\n  syncPeriod: 30x\n", "nftables.syncPeriod", "\"30x\" is not a duration"),
            ("nodePortAddresses: [primary, 1]\n", "nodePortAddresses[1]", "expected a string"),
            ("featureGates: {A: maybe}\n", "featureGates.A", "expected a boolean"),
            ("conntrack: 5\n", "conntrack", "invalid type"),
        ] {
            let error = refused(&format!("{HEAD}{text}"));
            assert!(error.contains(&format!("field {field}: ")) && error.contains(cause), "{error}");
        }
        assert!(refused(&format!("{HEAD}a: [\nb: 1\n")).contains("line 3"));
    }

    #[test]
    fn booleans_of_older_yaml() {
        let read = parse(&format!("{HEAD}enableProfiling: yes\nipvs: {{strictARP: On}}\nhostnameOverride: no\n"));
        let read = read.expect("readable").0.kube_proxy;
        assert!(read.enable_profiling && read.ipvs.strict_arp);
        assert_eq!(read.hostname_override, "no");
        assert!(refused(&format!("{HEAD}enableProfiling: perhaps\n")).contains("field enableProfiling"));
    }

    #[test]
    fn kinds_are_checked() {
        assert!(refused("apiVersion: v1\nkind: ConfigMap\n").contains("v1 ConfigMap"));
        assert!(refused("kind: KubeProxyConfiguration\n").contains("apiVersion"));
        assert!(refused("").contains("KubeProxyConfiguration"));
        assert!(refused("- 1\n").contains("apiVersion"));
        assert!(refused(&format!("{HEAD}---\n{HEAD}")).contains("more than one"));
    }

    #[test]
    fn a_second_document_is_portways() {
        let own = "---\napiVersion: portway.io/v1alpha1\nkind: PortwayConfiguration\n";
        let (read, notes) = parse(&format!("{HEAD}{own}tableOwnership: false\nsurprise: 1\n")).expect("readable");
        assert_eq!(read.portway.table_ownership, Some(false));
        assert_eq!(notes, ["f: unknown field surprise is ignored"]);
        assert!(refused(own).contains("KubeProxyConfiguration"));
    }

    #[test]
    fn flush_frequency_may_be_a_number() {
        let parse =
            |text: &str| parse(&format!("{HEAD}{text}")).expect("readable").0.kube_proxy.logging.flush_frequency;
        assert_eq!(parse("logging: {flushFrequency: 5000000000}\n").to_string(), "5s");
        assert_eq!(parse("logging: {flushFrequency: 3s}\n").to_string(), "3s");
        assert!(parse("logging: {flushFrequency: 0}\n").is_zero());
    }
}
