//! What the API server says of itself, and of what the operator may do.

use std::net::SocketAddr;

use futures::{StreamExt as _, stream};
use serde_json::Value;

use crate::cli::check::CheckRow;
use crate::cli::cluster::kubectl::{Kubectl, KubectlError};
use crate::cli::cluster::objects::Metadata;

/// The first with `discovery.k8s.io/v1`; Chart.yaml has it too.
const MINOR_NEEDED: u32 = 21;
/// Those the chart is checked against: docs/compatibility.md.
const MINORS_TRIED: std::ops::RangeInclusive<u32> = 33..=37;

/// Verb, resource, and whether it is in the chart's namespace: what installing the chart takes. Of a ClusterRole the API
/// server asks that its author has the rights in it.
const RIGHTS: [(&str, &str, bool); 10] = [
    ("create", "daemonsets.apps", true),
    ("create", "configmaps", true),
    ("create", "serviceaccounts", true),
    ("create", "secrets", true),
    ("create", "clusterroles.rbac.authorization.k8s.io", false),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", false),
    ("list", "services", false),
    ("list", "nodes", false),
    ("list", "endpointslices.discovery.k8s.io", false),
    ("create", "pods/exec", true),
];

/// The API server's version.
pub(super) async fn version(kubectl: &Kubectl) -> Result<CheckRow, KubectlError> {
    let versions: Value = kubectl.json(&["version"]).await?;
    let server = &versions["serverVersion"];
    Ok(of_version(server["gitVersion"].as_str().unwrap_or_default(), server["minor"].as_str().unwrap_or_default()))
}

fn of_version(git_version: &str, minor: &str) -> CheckRow {
    let what = "Kubernetes";
    // Vendors write `33+`.
    let minor = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    match minor {
        Ok(minor) if minor < MINOR_NEEDED => CheckRow::fail(
            what,
            format!("{git_version} has no discovery.k8s.io/v1"),
            "Portway needs EndpointSlices as they are from 1.21 on",
        ),
        Ok(minor) if !MINORS_TRIED.contains(&minor) => {
            CheckRow::warn(what, git_version, "not among the versions tried: docs/compatibility.md")
        }
        Ok(_) => CheckRow::ok(what, git_version),
        Err(_) => CheckRow::warn(what, format!("version {git_version:?} is no version"), "look at `kubectl version`"),
    }
}

/// Whether the operator may install the chart.
pub(super) async fn rights(kubectl: &Kubectl, namespace: &str, at_a_time: usize) -> Vec<CheckRow> {
    let ask = |(verb, resource, is_inside): (&'static str, &'static str, bool)| async move {
        let place: &[&str] = if is_inside { &["-n", namespace] } else { &["--all-namespaces"] };
        let answer = kubectl.run(&[&["auth", "can-i", verb, resource], place].concat(), None).await;
        (format!("{verb} {resource}"), answer)
    };
    let answers: Vec<_> = stream::iter(RIGHTS).map(ask).buffered(at_a_time).collect().await;
    let what = "rights to install";
    let (mut lacks, mut unknown) = (Vec::new(), None);
    for (name, answer) in answers {
        match answer {
            Ok(answer) if answer.text().trim() == "yes" => {}
            Ok(answer) if answer.text().trim().starts_with("no") => lacks.push(name),
            Ok(answer) => unknown = Some(answer.complaint()),
            Err(cause) => unknown = Some(cause.to_string()),
        }
    }
    match unknown {
        Some(cause) => vec![CheckRow::warn(what, cause, "look with `kubectl auth can-i`")],
        None if lacks.is_empty() => vec![CheckRow::ok(what, format!("all that the chart needs, in {namespace}"))],
        None => {
            vec![CheckRow::fail(what, format!("may not {}", lacks.join(", ")), "install as a cluster administrator")]
        }
    }
}

/// Whether the namespace lets Portway's pods in.
pub(super) async fn namespace(kubectl: &Kubectl, name: &str) -> CheckRow {
    #[derive(serde::Deserialize)]
    struct Namespace {
        metadata: Metadata,
    }
    match kubectl.json::<Namespace>(&["get", "namespace", name]).await {
        Ok(found) => {
            let level = found.metadata.labels.get("pod-security.kubernetes.io/enforce");
            of_namespace(name, level.map(String::as_str))
        }
        Err(KubectlError::Refused(_, cause)) if cause.contains("NotFound") => {
            CheckRow::warn("namespace", format!("there is no {name}"), "create it: docs/install.md, Strict namespaces")
        }
        Err(cause) => CheckRow::warn("namespace", cause.to_string(), "ask as somebody who may get namespaces"),
    }
}

fn of_namespace(name: &str, level: Option<&str>) -> CheckRow {
    let what = "namespace";
    match level {
        Some(level @ ("baseline" | "restricted")) => CheckRow::fail(
            what,
            format!("{name} enforces the Pod Security level {level}"),
            "choose another one, or label it: docs/install.md, Strict namespaces",
        ),
        Some(level) => CheckRow::ok(what, format!("{name}, Pod Security level {level}")),
        None => CheckRow::ok(what, format!("{name}, no Pod Security label")),
    }
}

/// Where the API server is without a Service.
pub(super) async fn own_address(kubectl: &Kubectl) -> CheckRow {
    let label = "kubernetes.io/service-name=kubernetes";
    let slices: Result<Value, _> = kubectl.json(&["get", "endpointslices", "-n", "default", "-l", label]).await;
    match slices {
        Ok(slices) => of_slices(&slices),
        Err(cause) => CheckRow::warn("API server", cause.to_string(), ADDRESS_UNKNOWN),
    }
}

const ADDRESS_UNKNOWN: &str = "find an address that nodes reach without a Service, for k8sServiceHost";

fn of_slices(slices: &Value) -> CheckRow {
    let of_slice = |slice: &Value| -> Vec<String> {
        let port = slice["ports"][0]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ips = endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok());
        ips.filter_map(|ip| Some(SocketAddr::new(ip, port?).to_string())).collect()
    };
    let addresses: Vec<String> = slices["items"].as_array().into_iter().flatten().flat_map(of_slice).collect();
    if addresses.is_empty() {
        return CheckRow::warn("API server", "the Service kubernetes has no endpoints", ADDRESS_UNKNOWN);
    }
    CheckRow::ok("API server", format!("{}: for k8sServiceHost and k8sServicePort", addresses.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::State;

    #[test]
    fn versions() {
        let state = |minor: &str| of_version("v1.x", minor).state;
        assert_eq!([state("36"), state("33+")], [State::Ok; 2]);
        assert_eq!([state("25"), state("99"), state("")], [State::Warn; 3]);
        assert_eq!(state("20"), State::Fail);
    }

    #[test]
    fn namespaces_that_are_strict() {
        let state = |level| of_namespace("n", level).state;
        assert_eq!([state(None), state(Some("privileged"))], [State::Ok; 2]);
        assert_eq!([state(Some("baseline")), state(Some("restricted"))], [State::Fail; 2]);
    }

    #[test]
    fn the_server_s_own_addresses() {
        let slices = json!({"items": [{"ports": [{"port": 6443}], "endpoints": [{"addresses": ["10.0.0.1"]},
            {"addresses": ["fd00::1"]}]}]});
        assert_eq!(of_slices(&slices).detail, "10.0.0.1:6443, [fd00::1]:6443: for k8sServiceHost and k8sServicePort");
        assert_eq!(of_slices(&json!({"items": []})).state, State::Warn);
    }
}
