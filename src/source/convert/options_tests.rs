use serde_json::{Value, from_str, json};

use super::*;
use crate::model::{EndpointSlice, Event, Service};
use crate::source::api;
use crate::source::{Converted, Converter, Guarded, Origin};

fn converter() -> Converter {
    Converter::new(Origin::Api, "node-1")
}

fn service_json(annotations: &Value) -> String {
    json!({
        "metadata": {"name": "web", "namespace": "ns", "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
    .to_string()
}

fn unwrap_service(converted: Converted) -> Service {
    match converted.event {
        Some(Event::Service(service)) => (*service).clone(),
        other => panic!("{other:?}"),
    }
}

/// The options of a Service with these annotations, and its problems as `field: message`.
fn service(annotations: &Value) -> (ServiceOptions, Vec<String>) {
    let object: api::Service = from_str(&service_json(annotations)).expect("readable");
    let converted = converter().service(&object);
    let problems = converted.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    (unwrap_service(converted).options().clone(), problems)
}

fn slice(annotations: &Value) -> (EndpointSlice, Vec<String>) {
    let text = json!({
        "metadata": {"name": "web-1", "namespace": "ns", "annotations": annotations,
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"]}],
    })
    .to_string();
    let converted = converter().slice(&from_str(&text).expect("readable"));
    let problems = converted.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    match converted.event {
        Some(Event::Slice(slice)) => ((*slice).clone(), problems),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_options_of_a_service_are_read() {
    let (options, problems) = service(&json!({
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "portway.io/balance": " source-ip-port\n",
        "portway.io/external-traffic": "prefer-local",
        "portway.io/internal-traffic": "prefer-local",
        "portway.io/denied-source-ranges": "10.0.0.0/8, 2001:db8::/32,10.0.0.0/8,",
        "portway.io/expose-on-nodes": "edge=yes,!cordoned",
    }));
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        options.texts(),
        [
            "balance=source-ip-port",
            "external-traffic=prefer-local",
            "internal-traffic=prefer-local",
            "denied-source-ranges=10.0.0.0/8,2001:db8::/32",
            "expose-on-nodes=edge=yes,!cordoned",
        ]
    );
    assert_eq!(service(&json!({"portway.io/balance": "source-ip"})).0.balance, Balance::SourceIp);
}

#[test]
fn a_service_without_options_has_none() {
    for annotations in [json!(null), json!({}), json!({"a/b": "c"}), json!({"portway.io/balance": "random"})] {
        let object: api::Service = from_str(&service_json(&annotations)).expect("readable");
        let converted = converter().service(&object);
        assert_eq!(converted.problems, []);
        assert_eq!(unwrap_service(converted).annotated, None, "{annotations}");
    }
}

#[test]
fn what_cannot_be_used_is_reported_and_leaves_the_default() {
    let long = "x".repeat(5000);
    for (name, value, said) in [
        ("balance", json!("Source-IP"), "\"Source-IP\" is neither random, source-ip nor source-ip-port"),
        ("balance", json!(5), "is no text"),
        ("balance", json!(null), "is no text"),
        ("balance", json!({"a": [1, {"b": 2}]}), "is no text"),
        ("balance", json!([1.5, true]), "is no text"),
        ("external-traffic", json!("local"), "\"local\" is not prefer-local"),
        ("internal-traffic", json!(""), "\"\" is not prefer-local"),
        ("denied-source-ranges", json!("10.0.0.0/99"), "\"10.0.0.0/99\" is not a CIDR"),
        ("expose-on-nodes", json!("a=b,"), "is not the key of a label"),
        ("expose-on-nodes", json!(""), "is not the key of a label"),
        ("balence", json!("source-ip"), "is no annotation of Portway; correct its name (a Service can have balance, "),
        ("weights", json!("{}"), "means nothing on a Service; it belongs on an EndpointSlice"),
        ("a\u{1b}b", json!("x"), "is no annotation of Portway"),
        ("balance", json!(long), "is neither"),
    ] {
        let (options, problems) = service(&json!({format!("portway.io/{name}"): value}));
        let [problem] = problems.as_slice() else { panic!("{name}: {problems:?}") };
        assert!(problem.starts_with("metadata.annotations[portway.io/") && problem.contains(said), "{problem}");
        assert!(problem.len() < 600 && !problem.contains('\u{1b}'), "{problem:?}");
        assert_eq!(options.faults.len(), 1);
        assert_eq!(ServiceOptions { faults: Vec::new(), ..options }, ServiceOptions::DEFAULT, "{name}: {value}");
    }
    // One bad range takes none of the others.
    let (options, problems) = service(&json!({"portway.io/denied-source-ranges": "x,10.0.0.0/8,y"}));
    assert_eq!((options.texts(), problems.len()), (vec!["denied-source-ranges=10.0.0.0/8".to_owned()], 2));
    // However many there are.
    let bad = vec!["x"; 10_000].join(",");
    let (options, problems) = service(&json!({"portway.io/denied-source-ranges": bad}));
    assert!(problems.len() <= FAULTS_MAX + 1 && options.faults.len() <= FAULTS_MAX);
}

#[test]
fn weights_of_endpoints_are_read_entry_by_entry() {
    let weights = |text: &str| slice(&json!({"portway.io/weights": text}));
    let (good, problems) = weights(r#"{"10.1.0.1": 3, "fd00::1": 100}"#);
    assert_eq!(problems, [""; 0]);
    let weight = |slice: &EndpointSlice, ip: &str| slice.weight(&ip.parse().expect("an address"));
    assert_eq!(["10.1.0.1", "10.1.0.2", "fd00::1"].map(|ip| weight(&good, ip)), [3, 1, 100]);
    for (text, count) in [
        (
            r#"{"10.1.0.1": 0, "10.1.0.2": 101, "x": 1, "10.1.0.3": 1.5, "10.1.0.4": "2", "10.1.0.5": -1, "fd00::1": 7}"#,
            6,
        ),
        ("10.1.0.1: 3", 1),
        ("[]", 1),
        ("", 1),
    ] {
        let (slice, problems) = weights(text);
        assert_eq!(problems.len(), count, "{problems:?}");
        assert_eq!(weight(&slice, "10.1.0.1"), 1);
        assert_eq!(slice.weights.as_ref().map(|weights| weights.faults.len()), Some(count));
        assert_eq!(weight(&slice, "fd00::1"), if count == 6 { 7 } else { 1 });
    }
    let time = "endpoints.kubernetes.io/last-change-trigger-time";
    let (other, problems) = slice(&json!({time: "2026-01-01T00:00:00Z", "portway.io/balance": "source-ip"}));
    assert!(other.changed_at.is_some() && problems[0].contains("it belongs on a Service"), "{problems:?}");
    assert_eq!(slice(&json!({time: "2026-01-01T00:00:00Z"})).0.weights, None);
}

#[test]
fn annotations_arrive_by_all_ways_of_reading() {
    let annotations = json!({
        "portway.io/balance": "source-ip",
        "endpoints.kubernetes.io/last-change-trigger-time": 7,
        "": "", "portway.io/": "odd",
    });
    let read = |object: &api::Service| {
        let ours = object.metadata.annotations.as_ref().map(|annotations| annotations.ours.clone());
        assert!(
            ours.clone().is_some_and(|ours| ours.contains(&("balance".into(), Some("source-ip".into())))),
            "{ours:?}"
        );
    };
    let text = service_json(&annotations);
    // As in lists and watches: from text. Then as the value of a faulty object is examined, with the fault taken out.
    read(&from_str::<Guarded<api::Service>>(&text).expect("JSON").object.expect("good"));
    let value: Value = from_str(&text).expect("JSON");
    read(&serde_path_to_error::deserialize(&value).expect("good"));
    // As in manifests.
    let yaml: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
    read(&serde_path_to_error::deserialize(&yaml).expect("good"));
    read(
        &serde_yaml::from_str(
            "{metadata: {name: a, annotations: {1: a, true: b, 1.5: c, ~: d, portway.io/balance: source-ip}}}",
        )
        .expect("YAML"),
    );
    // A faulty object beside good annotations names its field all the same.
    let faulty = text.replace("\"port\":80", "\"port\":\"http\"");
    let fault = from_str::<Guarded<api::Service>>(&faulty).expect("JSON").object.expect_err("faulty");
    assert_eq!(fault.field, "spec.ports[0].port");
    let fault = from_str::<Guarded<api::Service>>(r#"{"metadata": {"annotations": []}}"#).expect("JSON").object;
    assert_eq!(fault.expect_err("faulty").field, "metadata.annotations");
}
