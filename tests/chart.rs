//! The Helm chart against the program: what it renders (kept in `charts/portway/ci/`, up to date by `make chart`) is what
//! the program takes, and what it shows is what the program has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portway::config::KubeProxyConfiguration;
use serde::Deserialize;
use serde_json::Value;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/portway")
}

fn text(path: &str) -> String {
    fs::read_to_string(chart().join(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"))
}

/// The objects of a rendering.
fn rendered(name: &str) -> Vec<Value> {
    let text = text(&format!("ci/{name}-rendered.yaml"));
    let documents =
        serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).expect("YAML"));
    documents.filter(|object| !object.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The arguments of the program in the place of the kubelet: with its variables, and its mounts.
fn arguments(container: &Value, config: &Path) -> Vec<String> {
    let words = items(&container["args"]).iter().map(|word| word.as_str().expect("text").to_owned());
    words
        .map(|word| {
            word.replace("$(NODE_NAME)", "n")
                .replace("/var/lib/kube-proxy/config.conf", config.to_str().expect("plain"))
        })
        .collect()
}

#[test]
fn the_program_takes_what_is_rendered() {
    let kubeadm = include_str!("config/kubeadm.yaml");
    for name in ["minimal", "kubeadm", "full", "side-by-side", "monitoring", "service-monitor", "openshift", "pool"] {
        let objects = rendered(name);
        let pod = &of_kind(&objects, "DaemonSet").expect("a DaemonSet")["spec"]["template"]["spec"];
        let folder = tempfile::tempdir().expect("a folder");
        let (config, out) = (folder.path().join("config.conf"), folder.path().join("effective.yaml"));
        let map = of_kind(&objects, "ConfigMap").map(|map| map["data"]["config.conf"].as_str().expect("the file"));
        fs::write(&config, map.unwrap_or(kubeadm)).expect("written");
        for container in items(&pod["initContainers"]).iter().chain(items(&pod["containers"])) {
            let mut program = Command::new(env!("CARGO_BIN_EXE_portway"));
            program.args(arguments(container, &config)).arg(format!("--write-config-to={}", out.display()));
            let output = program.env("RUST_LOG", "warn").output().expect("started");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {said}");
            assert!(map.is_none() || said.is_empty(), "{name}: {said}");
        }
        let effective = fs::read_to_string(&out).expect("written");
        let port = |name: &str| {
            let ports = items(&pod["containers"][0]["ports"]);
            ports.iter().find(|port| port["name"] == name).expect("a port")["containerPort"].to_string()
        };
        for (field, name) in [("healthzBindAddress", "health"), ("metricsBindAddress", "metrics")] {
            let line = effective.lines().find(|line| line.starts_with(field)).expect("the address");
            assert!(line.trim_end_matches(['"', '\'']).ends_with(&format!(":{}", port(name))), "{line}");
        }
    }
}

#[test]
fn cleanup_is_a_command() {
    use portway::cli::{Cli, Command};
    use portway::config::Configuration;

    for (name, waits, port) in
        [("cleanup", false, 0), ("after-kube-proxy", true, 10256), ("after-kube-proxy-own", true, 10266)]
    {
        let objects = rendered(name);
        let daemon_set = &of_kind(&objects, "DaemonSet").expect("a DaemonSet")["spec"];
        let pod = &daemon_set["template"]["spec"];
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config.conf");
        let map = of_kind(&objects, "ConfigMap").map(|map| map["data"]["config.conf"].as_str().expect("the file"));
        fs::write(&config, map.unwrap_or(include_str!("config/kubeadm.yaml"))).expect("written");
        let [first, last] = [&pod["initContainers"][0], &pod["containers"][0]].map(|container| {
            assert!(items(&container["ports"]).is_empty(), "{name}: kube-proxy wants them");
            let words = ["portway".to_owned()].into_iter().chain(arguments(container, &config));
            match <Cli as clap::Parser>::try_parse_from(words).expect("valid arguments").command {
                Some(Command::Cleanup(args)) => args,
                other => panic!("{name}: {other:?}"),
            }
        });
        // A pod is ready when its first container has ended, and then stays.
        assert_eq!((first.after_kube_proxy, first.stay), (waits, false), "{name}");
        assert_eq!((last.after_kube_proxy, last.stay), (false, true), "{name}");
        if waits {
            let configuration = Configuration::load(first.source.0).expect("valid");
            assert_eq!(configuration.health_address.expect("served").port(), port, "{name}");
            let update = &daemon_set["updateStrategy"];
            let all_at_once = update["rollingUpdate"]["maxUnavailable"] == "100%" || update["type"] == "OnDelete";
            assert!(all_at_once, "{name}: pods that wait must not keep others from waiting");
        }
    }
}

/// What the Dockerfile says of itself.
#[test]
fn the_image_has_the_version_of_the_program() {
    let dockerfile = include_str!("../Dockerfile");
    let version = dockerfile.lines().find_map(|line| line.strip_prefix("ARG VERSION="));
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
    let bases = dockerfile.lines().filter_map(|line| line.strip_prefix("ARG ")?.split_once("_BASE="));
    for (_, base) in bases {
        assert!(base == "scratch" || base.starts_with("docker.io/library/"), "a whole name: {base}");
    }
    for file in ["Chart.yaml", "values.yaml"] {
        assert!(!text(file).contains(concat!("ghcr", ".io")), "{file}");
    }
    let chart: Value = serde_yaml::from_str(&text("Chart.yaml")).expect("YAML");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_alert_says_what_to_do() {
    let alerts: Value = serde_yaml::from_str(&text("files/alerts.yaml")).expect("YAML");
    let page = include_str!("../docs/alerts.md");
    let rules = items(&alerts["groups"][0]["rules"]);
    assert!(rules.len() >= 7);
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        let runbook = format!("docs/alerts.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], runbook, "{name}");
        assert!(page.contains(&format!("\n## {name}\n")), "{name}");
    }
    assert_eq!(page.matches("\n## ").count(), rules.len(), "no advice for alerts there are not");
}

/// Helm would refuse a value that is not there, but only after somebody has typed it.
#[test]
fn documents_set_values_there_are() {
    let values: Value = serde_yaml::from_str(&text("values.yaml")).expect("YAML");
    let schema: Value = serde_json::from_str(&text("values.schema.json")).expect("JSON");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for file in ["README.md", "SECURITY.md", "charts/portway/README.md", "docs/install.md", "docs/migration.md"] {
        let text = fs::read_to_string(root.join(file)).expect("text");
        for (at, _) in text.match_indices("--set ") {
            let (name, value) = text[at + 6..].trim_start().split_once('=').expect("a value");
            let path: Vec<&str> = name.split('.').take_while(|word| !word.starts_with('"')).collect();
            let has_default = path.iter().try_fold(&values, |value, word| value.get(word)).is_some();
            let is_allowed = || path.iter().try_fold(&schema, |schema, word| schema["properties"].get(word)).is_some();
            assert!(has_default || is_allowed(), "{file}: no value {name}");
            if path == ["cleanup"] {
                let value = value.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
                assert!(["true", "afterKubeProxy"].contains(&value), "{file}: {value}");
            }
            found.insert(path.join("."));
        }
    }
    assert!(found.len() >= 8, "{found:?}");
}

/// Fields a user may set by `config`: all there are, but those the chart sets and those of Windows.
#[test]
fn the_schema_has_the_fields_of_the_configuration() {
    const NOT_THERE: [&str; 8] = [
        "apiVersion",
        "kind",
        "hostnameOverride",
        "healthzBindAddress",
        "metricsBindAddress",
        "winkernel",
        "windowsRunAsService",
        "clientConnection.kubeconfig",
    ];
    let schema: Value = serde_json::from_str(&text("values.schema.json")).expect("JSON");
    let known = serde_json::to_value(KubeProxyConfiguration::default()).expect("JSON");
    let mut wanted = BTreeSet::new();
    fields("", &known, &mut wanted, |value| value.as_object().filter(|map| !map.is_empty()));
    wanted.retain(|field| !NOT_THERE.iter().any(|not| field == not || field.starts_with(&format!("{not}."))));
    let mut allowed = BTreeSet::new();
    fields("", &schema["properties"]["config"], &mut allowed, |value| value["properties"].as_object());
    // Given to the program as they are.
    wanted.retain(|field| !field.starts_with("logging.options."));
    assert_eq!(wanted, allowed);
}

fn fields<'a>(
    path: &str,
    value: &'a Value,
    found: &mut BTreeSet<String>,
    of: impl Fn(&'a Value) -> Option<&'a serde_json::Map<String, Value>> + Copy,
) {
    for (key, value) in of(value).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        fields(&path, value, found, of);
        found.insert(path);
    }
}

/// Names that look like metrics of ours.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = ["kubeproxy_", "portway_", "rest_client_", "process_"];
    words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect()
}

#[test]
fn dashboards_and_alerts_use_metrics_there_are() {
    let docs = include_str!("../docs/metrics.md");
    let mut documented = metrics_in(docs);
    // docs/metrics.md names this family by its prefix.
    documented.extend(["process_cpu_seconds_total", "process_resident_memory_bytes"]);
    for file in ["files/alerts.yaml", "files/dashboards/portway.json"] {
        let text = text(file);
        // JSON is YAML, too.
        serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap_or_else(|cause| panic!("{file}: {cause}"));
        let used = metrics_in(&text);
        assert!(used.len() >= 5, "{file}: {used:?}");
        for metric in used {
            let parts = ["_bucket", "_count", "_sum"];
            let family = parts.iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(metric);
            assert!(documented.contains(family), "{file}: {metric} is not in docs/metrics.md");
        }
    }
}
