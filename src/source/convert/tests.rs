//! Each rule of the specification, section 3, with YAML in.

use std::net::IpAddr;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Converted, Converter, Origin};
use crate::model::{Endpoint, EndpointSlice, Event, Family, Placement, Protocol, Service, ServiceType};
use crate::source::api;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_yaml::from_str(text).expect("test YAML")
}

fn converter(origin: Origin) -> Converter {
    Converter::new(origin, "node-1")
}

/// A Service with this spec, and the fields its problems name.
fn service_from(origin: Origin, spec: &str) -> (Service, Vec<String>) {
    let text = format!("{{metadata: {{namespace: ns, name: web}}, spec: {{{spec}}}}}");
    unwrap_service(converter(origin).service(&yaml(&text)))
}

fn unwrap_service(converted: Converted) -> (Service, Vec<String>) {
    let fields = converted.problems.iter().map(|problem| problem.field.clone()).collect();
    match converted.event {
        Some(Event::Service(service)) => (Arc::unwrap_or_clone(service), fields),
        other => panic!("not a Service: {other:?}"),
    }
}

fn service(spec: &str) -> (Service, Vec<String>) {
    service_from(Origin::Api, spec)
}

fn slice_from(origin: Origin, rest: &str) -> Converted {
    let metadata = "metadata: {namespace: ns, name: web-1, labels: {kubernetes.io/service-name: web}}";
    converter(origin).slice(&yaml(&format!("{{{metadata}, {rest}}}")))
}

fn slice(rest: &str) -> (EndpointSlice, Vec<String>) {
    let converted = slice_from(Origin::Api, rest);
    let fields = converted.problems.iter().map(|problem| problem.field.clone()).collect();
    match converted.event {
        Some(Event::Slice(slice)) => (Arc::unwrap_or_clone(slice), fields),
        other => panic!("not a slice: {other:?}"),
    }
}

fn endpoints(list: &str) -> Vec<Endpoint> {
    slice(&format!("addressType: IPv4, endpoints: {list}")).0.endpoints
}

fn texts(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}

#[test]
fn cluster_ips_are_chosen_by_family() {
    let dual = "clusterIPs: [10.0.0.1, 'fd00::1']";
    // (spec, from the API, from a manifest)
    let table: &[(&str, &[&str], &[&str])] = &[
        ("clusterIP: ''", &[], &[]),
        ("clusterIP: 10.0.0.1", &["10.0.0.1"], &["10.0.0.1"]),
        (&format!("clusterIP: 10.0.0.1, {dual}"), &["10.0.0.1"], &["10.0.0.1", "fd00::1"]),
        (
            &format!("clusterIP: 10.0.0.1, ipFamilies: [IPv4, IPv6], {dual}"),
            &["10.0.0.1", "fd00::1"],
            &["10.0.0.1", "fd00::1"],
        ),
        (&format!("clusterIP: 10.0.0.1, ipFamilies: [IPv4], {dual}"), &["10.0.0.1"], &["10.0.0.1"]),
        ("clusterIP: 10.0.0.1, ipFamilies: [IPv4]", &["10.0.0.1"], &["10.0.0.1"]),
        (&format!("ipFamilies: [IPv4, IPv6], {dual}"), &[], &["10.0.0.1", "fd00::1"]),
        ("clusterIP: 10.0.0.1, type: ExternalName, externalName: a.example", &[], &[]),
        ("clusterIP: 010.0.0.001, type: LoadBalancer", &["10.0.0.1"], &["10.0.0.1"]),
        ("clusterIP: '::ffff:10.0.0.1'", &["10.0.0.1"], &["10.0.0.1"]),
    ];
    for (spec, api, manifest) in table {
        assert_eq!(texts(&service_from(Origin::Api, spec).0.cluster_ips), *api, "API: {spec}");
        assert_eq!(texts(&service_from(Origin::Manifest, spec).0.cluster_ips), *manifest, "manifest: {spec}");
    }
}

#[test]
fn faulty_cluster_ips_are_reported() {
    for (spec, field) in [
        ("clusterIP: 10.0.0.256", "spec.clusterIP"),
        ("clusterIP: 10.0.0.1, ipFamilies: [IPv6, IPv4], clusterIPs: [10.0.0.1, 10.0.0.2]", "spec.clusterIPs[0]"),
        ("clusterIP: 10.0.0.1, ipFamilies: [IPv4, IPv4], clusterIPs: [10.0.0.1, 10.0.0.2]", "spec.clusterIPs[1]"),
    ] {
        assert_eq!(service(spec).1, [field], "{spec}");
    }
}

#[test]
fn headless_and_foreign_services_are_not_delivered_for_programming() {
    assert!(service("clusterIP: None").0.cluster_ips.is_empty());
    let headless: api::Service = yaml("{metadata: {name: web}, spec: {clusterIP: None}}");
    let converted = converter(Origin::Manifest).service(&headless);
    assert!(matches!(&converted.event, Some(Event::ServiceDeleted(key)) if key.to_string() == "default/web"));
    for value in ["other", "''", "null"] {
        let foreign = format!(
            "{{metadata: {{namespace: ns, name: web, labels: {{service.kubernetes.io/service-proxy-name: {value}}}}},
               spec: {{clusterIP: 10.0.0.1}}}}"
        );
        let converted = converter(Origin::Api).service(&yaml(&foreign));
        assert!(matches!(converted.event, Some(Event::ServiceDeleted(_))), "{value}");
        // A proxy of that name takes them, and only them.
        let ours = |text: &str| {
            let converted = converter(Origin::Api).serving(Some("other".into())).service(&yaml(text));
            matches!(converted.event, Some(Event::Service(_)))
        };
        assert_eq!(ours(&foreign), value == "other", "{value}");
        assert!(!ours("{metadata: {namespace: ns, name: web}, spec: {clusterIP: 10.0.0.1}}"));
    }
}

#[test]
fn an_object_without_a_name_is_a_problem() {
    let converted = converter(Origin::Manifest).service(&yaml("{metadata: {generateName: web-}, spec: {}}"));
    assert_eq!(converted.event, None);
    assert_eq!(converted.problems[0].field, "metadata.name");
}

#[test]
fn service_ports() {
    let (service, problems) = service(
        "clusterIP: 10.0.0.1, ports: [{port: 80}, {name: dns, port: 53, protocol: UDP, nodePort: 30053, targetPort: x},
           {port: 0, name: zero}, {name: none}, {port: 70000, name: big}, {port: 1, protocol: ICMP, name: odd},
           {name: np, port: 9, protocol: SCTP, nodePort: 0}, {name: badnp, port: 10, nodePort: -1}]",
    );
    let ports: Vec<_> = service.ports.iter().map(|p| (&*p.name, p.protocol, p.port, p.node_port)).collect();
    assert_eq!(
        ports,
        [
            ("", Protocol::Tcp, 80, None),
            ("dns", Protocol::Udp, 53, Some(30053)),
            ("np", Protocol::Sctp, 9, None),
            ("badnp", Protocol::Tcp, 10, None),
        ]
    );
    assert_eq!(
        problems,
        [
            "spec.ports[2].port",
            "spec.ports[3].port",
            "spec.ports[4].port",
            "spec.ports[5].protocol",
            "spec.ports[7].nodePort",
        ]
    );
}

#[test]
fn external_ips() {
    let (service, problems) = service(
        "externalIPs: [192.0.2.1, '', ' ', bad, 127.0.0.1, '::', 169.254.1.1, 'fe80::1', 'fd00::0001', 192.0.2.001]",
    );
    assert_eq!(texts(&service.external_ips), ["192.0.2.1", "fd00::1"]);
    let bad: Vec<String> = (3..=7).map(|index| format!("spec.externalIPs[{index}]")).collect();
    assert_eq!(problems, bad);
}

#[test]
fn load_balancer_ips_by_mode() {
    let text = "{metadata: {name: a}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: VIP},
        {ip: 192.0.2.3, ipMode: Proxy}, {hostname: lb.example}, {ip: x}, {ip: ''}]}}}";
    let (service, problems) = unwrap_service(converter(Origin::Api).service(&yaml(text)));
    assert_eq!(texts(&service.load_balancer_ips), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(problems, ["status.loadBalancer.ingress[4].ip"]);
}

#[test]
fn source_ranges_are_trimmed_and_reduced() {
    let (service, problems) = service("loadBalancerSourceRanges: [' 10.1.2.3/08 ', 'fd00::/64', 10.0.0.0/33, '']");
    let ranges: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "fd00::/64"]);
    assert_eq!(problems, ["spec.loadBalancerSourceRanges[2]", "spec.loadBalancerSourceRanges[3]"]);
}

#[test]
fn a_source_range_that_cannot_be_read_is_remembered() {
    for (ranges, bad, word) in [
        ("[]", false, ""),
        ("[198.51.100.0/24]", false, ""),
        ("['198.51.100.0/244']", true, "closed to everybody"),
        ("['198.51.100.0/244', 10.0.0.0/8]", true, "lets nobody in"),
        ("['']", true, "closed to everybody"),
    ] {
        let text = format!("{{metadata: {{name: web}}, spec: {{loadBalancerSourceRanges: {ranges}}}}}");
        let converted = converter(Origin::Api).service(&yaml(&text));
        let messages: String = converted.problems.iter().map(ToString::to_string).collect();
        assert_eq!(unwrap_service(converted).0.bad_source_ranges, bad, "{ranges}");
        assert!(messages.contains(word) && messages.is_empty() != bad, "{ranges}: {messages}");
    }
}

#[test]
fn what_a_slice_has_in_vain_is_reported() {
    for (rest, field, word) in [
        ("endpoints: [{addresses: [10.1.0.1, 10.1.0.2]}]", "endpoints[0].addresses[1]", "10.1.0.2 is not used"),
        ("endpoints: [{addresses: [10.1.0.1]}, {}]", "endpoints[1].addresses", "empty"),
        ("ports: [{name: ''}]", "ports[0].port", "all ports"),
        ("ports: [{name: web, port: 0}]", "ports[0].port", "all ports"),
        ("ports: [{port: 80}]", "ports[0].name", "missing"),
    ] {
        let converted = slice_from(Origin::Api, &format!("addressType: IPv4, {rest}"));
        let [problem] = &converted.problems[..] else { panic!("{rest}: {:?}", converted.problems) };
        assert!(problem.field == field && problem.message.contains(word), "{rest}: {problem}");
        assert!(matches!(converted.event, Some(Event::Slice(_))), "{rest}");
    }
}

#[test]
fn traffic_policies_and_types() {
    let plain = service("clusterIP: 10.0.0.1").0;
    assert!(!plain.external_policy_local && !plain.internal_policy_local);
    assert_eq!((plain.service_type, plain.affinity_seconds), (ServiceType::ClusterIp, None));
    let local = service("type: NodePort, externalTrafficPolicy: Local, internalTrafficPolicy: Local").0;
    assert!(local.external_local() && local.internal_policy_local);
    assert!(!service("externalTrafficPolicy: Local").0.external_local(), "no meaning without external frontends");
    assert!(!service("type: NodePort, externalTrafficPolicy: local").0.external_policy_local);
    assert_eq!(service("type: Strange").1, ["spec.type"]);
    assert_eq!(
        service("externalTrafficPolicy: local, internalTrafficPolicy: Zone").1,
        ["spec.externalTrafficPolicy", "spec.internalTrafficPolicy"]
    );
}

#[test]
fn affinity_timeouts() {
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig:";
    for (spec, seconds, faulty) in [
        ("sessionAffinity: None".to_owned(), None, false),
        ("sessionAffinity: ClientIP".to_owned(), Some(10800), false),
        (format!("{config} {{clientIP: {{timeoutSeconds: 60}}}}"), Some(60), false),
        (format!("{config} {{clientIP: {{timeoutSeconds: 86400}}}}"), Some(86400), false),
        (format!("{config} {{clientIP: {{timeoutSeconds: 86401}}}}"), Some(10800), true),
        (format!("{config} {{clientIP: {{timeoutSeconds: 0}}}}"), Some(10800), true),
        (format!("{config} {{clientIP: {{timeoutSeconds: -5}}}}"), Some(10800), true),
        (format!("{config} {{clientIP: null}}"), Some(10800), false),
        ("sessionAffinity: Cookie".to_owned(), None, true),
    ] {
        let (service, problems) = service(&spec);
        assert_eq!((service.affinity_seconds, !problems.is_empty()), (seconds, faulty), "{spec}");
    }
}

#[test]
fn health_check_port_needs_load_balancer_and_local() {
    let local = "externalTrafficPolicy: Local, healthCheckNodePort:";
    for (origin, spec, port, problems) in [
        (Origin::Api, format!("type: LoadBalancer, {local} 32000"), Some(32000), 0),
        (Origin::Api, format!("type: NodePort, {local} 32000"), None, 0),
        (Origin::Api, "type: LoadBalancer, healthCheckNodePort: 32000".to_owned(), None, 0),
        (Origin::Api, format!("type: LoadBalancer, {local} 0"), None, 1),
        (Origin::Manifest, format!("type: LoadBalancer, {local} 0"), None, 0),
        (Origin::Api, format!("type: LoadBalancer, {local} 99999"), None, 1),
    ] {
        let (service, fields) = service_from(origin, &format!("clusterIP: 10.0.0.1, {spec}"));
        assert_eq!((service.health_check_node_port, fields.len()), (port, problems), "{origin:?} {spec}");
    }
}

#[test]
fn creation_time_in_seconds() {
    let at = |time: &str| {
        let text = format!("{{metadata: {{name: a, creationTimestamp: {time}}}}}");
        unwrap_service(converter(Origin::Api).service(&yaml(&text)))
    };
    assert_eq!(at("2024-01-02T03:04:05Z").0.created, Some(1_704_164_645));
    assert_eq!(at("null"), at("null"));
    assert_eq!(at("null").0.created, None);
    assert_eq!(at("yesterday").1, ["metadata.creationTimestamp"]);
}

#[test]
fn slices_that_belong_to_nobody_are_deletions() {
    let labels = |labels: &str| {
        let text = format!("{{metadata: {{namespace: ns, name: s, labels: {labels}}}, addressType: IPv4}}");
        converter(Origin::Api).slice(&yaml(&text))
    };
    for (text, problems) in [
        ("null", 1),
        ("{kubernetes.io/service-name: ''}", 1),
        ("{kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}", 0),
    ] {
        let converted = labels(text);
        assert!(matches!(converted.event, Some(Event::SliceDeleted(_))), "{text}");
        assert_eq!(converted.problems.len(), problems, "{text}");
    }
    for (kind, problems) in [("FQDN", 1), ("IPv5", 1), ("''", 1)] {
        let converted = slice_from(Origin::Api, &format!("addressType: {kind}"));
        assert!(matches!(converted.event, Some(Event::SliceDeleted(_))), "{kind}");
        assert_eq!(converted.problems.len(), problems, "{kind}");
    }
}

#[test]
fn a_slice_names_its_service_in_its_namespace() {
    let (slice, problems) = slice("addressType: IPv6, endpoints: null, ports: null");
    assert_eq!((slice.key.to_string(), slice.service.to_string()), ("ns/web-1".into(), "ns/web".into()));
    assert_eq!((slice.family, problems.len()), (Family::Ipv6, 0));
}

#[test]
fn slice_ports() {
    let ports = "addressType: IPv4, ports: [{port: 80}, {name: '', port: 81}, {name: a}, {name: b, port: 0},
        {name: c, port: 53, protocol: UDP}, {name: d, port: 99999}, {name: e, port: 1, protocol: x}]";
    let (from_api, problems) = slice(ports);
    let named: Vec<_> = from_api.ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
    assert_eq!(named, [("", Protocol::Tcp, 81), ("c", Protocol::Udp, 53)]);
    assert_eq!(problems, ["ports[0].name", "ports[2].port", "ports[3].port", "ports[5].port", "ports[6].protocol"]);
    match slice_from(Origin::Manifest, ports).event {
        Some(Event::Slice(slice)) => assert_eq!((slice.ports.len(), slice.ports[0].port), (3, 80), "default name"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    let found = endpoints("[{addresses: [10.1.0.1, 10.1.0.2]}, {addresses: []}, {}, {addresses: [010.1.0.003]}]");
    let ips: Vec<IpAddr> = found.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(texts(&ips), ["10.1.0.1", "10.1.0.3"]);
}

#[test]
fn endpoints_with_forbidden_or_foreign_addresses_are_left_out() {
    for address in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "'fd00::1'", "bad", "'::ffff:127.0.0.1'"] {
        let (slice, problems) =
            slice(&format!("addressType: IPv4, endpoints: [{{addresses: [{address}]}}, {{addresses: [10.1.0.1]}}]"));
        assert_eq!((slice.endpoints.len(), problems), (1, vec!["endpoints[0].addresses[0]".to_owned()]), "{address}");
    }
    for address in ["::1", "::", "fe80::1", "ff02::1", "10.1.0.1", "::ffff:10.1.0.1"] {
        let (slice, problems) = slice(&format!("addressType: IPv6, endpoints: [{{addresses: ['{address}']}}]"));
        assert_eq!((slice.endpoints.len(), problems.len()), (0, 1), "{address}");
    }
}

#[test]
fn absent_conditions_have_defaults() {
    let state = |conditions: &str| {
        let endpoint = endpoints(&format!("[{{addresses: [10.1.0.1], conditions: {conditions}}}]")).remove(0);
        (endpoint.ready, endpoint.serving, endpoint.terminating)
    };
    assert_eq!(state("null"), (true, true, false));
    assert_eq!(state("{}"), (true, true, false));
    assert_eq!(state("{ready: null, serving: null, terminating: null}"), (true, true, false));
    assert_eq!(state("{ready: false}"), (false, true, false));
    assert_eq!(state("{ready: false, serving: false, terminating: true}"), (false, false, true));
}

#[test]
fn endpoints_with_the_same_node_and_hints_share_them() {
    let hint = "addresses: [10.1.0.1], nodeName: n1, hints: {forZones: [{name: za}], forNodes: [{name: n1}, {}]}";
    let found = endpoints(&format!("[{{{hint}}}, {{{hint}}}, {{addresses: [10.1.0.2], hints: null}}]"));
    let placement = Placement { node: Some("n1".into()), zone_hints: vec!["za".into()], node_hints: vec!["n1".into()] };
    assert_eq!(*found[0].placement, placement);
    assert!(Arc::ptr_eq(&found[0].placement, &found[1].placement));
    assert_eq!(*found[2].placement, Placement::default());
}

#[test]
fn the_node_of_this_name() {
    let text = "{metadata: {name: node-1, labels: {topology.kubernetes.io/zone: za}},
        spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64', bad]},
        status: {addresses: [{type: Hostname, address: node-1}, {type: ExternalIP, address: 'fd00::9'},
          {type: InternalIP, address: x}, {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: 192.0.2.2}]}}";
    let mut converter = converter(Origin::Api);
    let converted = converter.node(&yaml(text));
    let Some(Event::Node(node)) = converted.event else { panic!("no node") };
    assert_eq!((texts(&node.ips), &*node.zone), (vec!["192.0.2.1".into(), "fd00::9".into()], "za"));
    assert_eq!((node.pod_cidrs.len(), node.deleting), (2, false));
    let fields: Vec<_> = converted.problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(fields, ["spec.podCIDRs[2]", "status.addresses[2].address"]);
    assert_eq!(converter.node(&yaml("{metadata: {name: node-2}}")).event, None);
    for text in [
        "{metadata: {name: node-1, deletionTimestamp: 2024-01-02T03:04:05Z}}",
        "{metadata: {name: node-1}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}",
    ] {
        assert!(matches!(converter.node(&yaml(text)).event, Some(Event::Node(node)) if node.deleting), "{text}");
    }
}

#[test]
fn service_cidrs() {
    let converted = converter(Origin::Api)
        .service_cidr(&yaml("{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/12, 'fd00:a::/112', x]}}"));
    let Some(Event::ServiceCidr(cidr)) = converted.event else { panic!("no ServiceCIDR") };
    assert_eq!((&*cidr.name, cidr.cidrs.len()), ("kubernetes", 2));
    assert_eq!(
        converted.problems[0].to_string(),
        concat!(
            "ServiceCIDR kubernetes: spec.cidrs[2]: \"x\" is not a CIDR ",
            "(want address/prefix-length, as in 10.0.0.0/8); it is left out"
        )
    );
}

#[test]
fn the_time_of_the_trigger_is_read_when_it_can_be() {
    let changed = |value: &str| {
        let annotations = format!("{{endpoints.kubernetes.io/last-change-trigger-time: {value}}}");
        let text = format!(
            "{{metadata: {{namespace: ns, name: a, labels: {{kubernetes.io/service-name: svc}}, \
             annotations: {annotations}}}, addressType: IPv4}}"
        );
        let object: api::EndpointSlice = serde_yaml::from_str(&text).expect("a slice");
        let converted = Converter::new(Origin::Api, "node").slice(&object);
        assert_eq!(converted.problems, [], "a measurement is nobody's problem");
        match converted.event {
            Some(Event::Slice(slice)) => slice.changed_at,
            other => panic!("{other:?}"),
        }
    };
    let expected = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
    assert_eq!(changed("'2023-11-14T22:13:20.123456789Z'"), Some(expected));
    assert_eq!(changed("'2023-11-14T23:13:20.123456789+01:00'"), Some(expected));
    assert_eq!(changed("soon"), None);
    assert_eq!(changed("null"), None);
}

#[test]
fn addresses_that_are_nobodys_own_are_not_served() {
    for ip in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "ff02::1", "::ffff:127.0.0.1"] {
        let (service, fields) = service(&format!("clusterIP: '{ip}'"));
        assert_eq!((texts(&service.cluster_ips), fields), (vec![], vec!["spec.clusterIP".to_owned()]), "{ip}");
        let text = format!("{{metadata: {{name: web}}, status: {{loadBalancer: {{ingress: [{{ip: '{ip}'}}]}}}}}}");
        let (service, fields) = unwrap_service(converter(Origin::Api).service(&yaml(&text)));
        assert!(service.load_balancer_ips.is_empty(), "{ip}");
        assert_eq!(fields, ["status.loadBalancer.ingress[0].ip"], "{ip}");
        let family = if ip.contains(':') && !ip.contains('.') { "IPv6" } else { "IPv4" };
        let converted =
            slice_from(Origin::Api, &format!("addressType: {family}, endpoints: [{{addresses: ['{ip}']}}]"));
        assert_eq!(converted.problems.len(), 1, "{ip}");
    }
    // Caches for DNS and other services of the link live at such addresses.
    assert_eq!(texts(&service("clusterIP: 169.254.20.10").0.cluster_ips), ["169.254.20.10"]);
}

#[test]
fn names_that_cannot_be_told_are_left_out() {
    let long = "x".repeat(254);
    for name in ["a b", "a/b", "a\\u001b[2J", "a\\nb", "\\u00e9", long.as_str()] {
        for metadata in [format!("{{name: \"{name}\"}}"), format!("{{name: web, namespace: \"{name}\"}}")] {
            let converted = converter(Origin::Manifest).service(&yaml(&format!("{{metadata: {metadata}}}")));
            assert_eq!((converted.event, converted.problems.len()), (None, 1), "{metadata}");
            let text = converted.problems[0].to_string();
            assert!(text.len() < 200 && !text.contains(char::is_control), "{text}");
        }
    }
}

#[test]
fn an_object_full_of_faults_does_not_fill_the_log() {
    let ips = vec!["'x'"; 1000].join(", ");
    let converted =
        converter(Origin::Api).service(&yaml(&format!("{{metadata: {{name: web}}, spec: {{externalIPs: [{ips}]}}}}")));
    assert_eq!(converted.problems.len(), 21);
    assert_eq!(converted.problems[20].to_string(), "Service default/web: has 980 more faults");
    let long = "\u{e9}".repeat(100_000);
    let (_, text) = service_with_problem(&format!("externalIPs: ['{long}']"));
    assert!(
        text.len() < 500 && text.contains(" ... ") && text.ends_with("is not an IP address; it is left out"),
        "{text}"
    );
}

fn service_with_problem(spec: &str) -> (Option<Event>, String) {
    let converted = converter(Origin::Api).service(&yaml(&format!("{{metadata: {{name: web}}, spec: {{{spec}}}}}")));
    (converted.event, converted.problems[0].to_string())
}
