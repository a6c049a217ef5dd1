//! What is answered, byte for byte as kube-proxy does.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::HealthVerdict;
use crate::model::ObjectKey;

/// An answer about health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    /// 200 or 503.
    pub ok: bool,
    /// The JSON body.
    pub body: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    last_updated: String,
    healthy: bool,
}

impl HealthAnswer {
    /// For `/healthz`, where load balancers ask.
    pub fn healthz(verdict: &HealthVerdict) -> Self {
        Self::of(verdict, Some(verdict.node_eligible))
    }

    /// For `/livez`, where the kubelet asks.
    pub fn livez(verdict: &HealthVerdict) -> Self {
        Self::of(verdict, None)
    }

    fn of(verdict: &HealthVerdict, node_eligible: Option<bool>) -> Self {
        let healthy = verdict.is_healthy();
        let ok = healthy && node_eligible != Some(false);
        // Load balancers of old read the time only: while all is well it is the present.
        let last_updated = if ok { Some(verdict.now) } else { verdict.last_success() };
        let status = |family: &super::FamilyVerdict| {
            let status = Status { last_updated: rfc3339(Some(family.updated)), healthy: family.healthy };
            (family.family.to_string(), status)
        };
        let body = Body {
            last_updated: rfc3339(last_updated),
            current_time: rfc3339(Some(verdict.now)),
            node_eligible,
            healthy,
            status: verdict.families.iter().map(status).collect(),
        };
        Self { ok, body: serde_json::to_string(&body).unwrap_or_default() }
    }
}

/// The body of a `healthCheckNodePort` server.
pub fn check_body(service: &ObjectKey, local_endpoints: usize, healthy: bool) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Check<'a> {
        service: Name<'a>,
        local_endpoints: usize,
        service_proxy_healthy: bool,
    }
    #[derive(Serialize)]
    struct Name<'a> {
        namespace: &'a str,
        name: &'a str,
    }
    let service = Name { namespace: service.namespace(), name: service.name() };
    let check = Check { service, local_endpoints, service_proxy_healthy: healthy };
    let mut bytes = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Writing strings and numbers to memory does not fail.
    check.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, tabs)).ok();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Go's RFC3339Nano in UTC; `None` is Go's zero time.
fn rfc3339(time: Option<SystemTime>) -> String {
    let timestamp = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    timestamp.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::FamilyVerdict;
    use super::*;
    use crate::model::Family;

    fn at(nanos: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_000 + nanos)
    }

    fn verdict(eligible: bool, ipv4: bool, ipv6: bool) -> HealthVerdict {
        let family = |family, nanos, healthy| FamilyVerdict { family, updated: at(nanos), healthy };
        HealthVerdict {
            now: at(987_654_321),
            node_eligible: eligible,
            families: vec![family(Family::Ipv4, 120_000_000, ipv4), family(Family::Ipv6, 0, ipv6)],
        }
    }

    const STATUS: &str = concat!(
        r#""status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:20.12Z","healthy":true},"#,
        r#""IPv6":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":"#
    );
    const NOW: &str = r#""2023-11-14T22:13:20.987654321Z""#;

    #[test]
    fn healthz_when_all_is_well() {
        let body = format!(
            r#"{{"lastUpdated":{NOW},"currentTime":{NOW},"nodeEligible":true,"healthy":true,{STATUS}true}}}}}}"#
        );
        assert_eq!(HealthAnswer::healthz(&verdict(true, true, true)), HealthAnswer { ok: true, body });
    }

    #[test]
    fn livez_does_not_speak_of_the_node() {
        let body = format!(r#"{{"lastUpdated":{NOW},"currentTime":{NOW},"healthy":true,{STATUS}true}}}}}}"#);
        assert_eq!(HealthAnswer::livez(&verdict(false, true, true)), HealthAnswer { ok: true, body });
    }

    #[test]
    fn a_node_on_its_way_out_is_healthy_but_not_for_load_balancers() {
        let last = r#""2023-11-14T22:13:20.12Z""#;
        let body = format!(
            r#"{{"lastUpdated":{last},"currentTime":{NOW},"nodeEligible":false,"healthy":true,{STATUS}true}}}}}}"#
        );
        assert_eq!(HealthAnswer::healthz(&verdict(false, true, true)), HealthAnswer { ok: false, body });
    }

    #[test]
    fn one_unhealthy_family_is_enough() {
        let last = r#""2023-11-14T22:13:20.12Z""#;
        let body = format!(r#"{{"lastUpdated":{last},"currentTime":{NOW},"healthy":false,{STATUS}false}}}}}}"#);
        assert_eq!(HealthAnswer::livez(&verdict(true, true, false)), HealthAnswer { ok: false, body });
    }

    #[test]
    fn no_family_no_status() {
        let nothing = HealthVerdict { now: at(0), node_eligible: false, families: Vec::new() };
        let body = concat!(
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2023-11-14T22:13:20Z","#,
            r#""nodeEligible":false,"healthy":true}"#
        );
        assert_eq!(HealthAnswer::healthz(&nothing), HealthAnswer { ok: false, body: body.to_owned() });
    }

    #[test]
    fn the_body_of_a_check_is_indented_with_tabs() {
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"till\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(check_body(&ObjectKey::new("shop", "till"), 2, true), body);
    }
}
