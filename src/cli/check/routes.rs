//! Whether this node's own connections to Services get as far as the rules.

use std::net::IpAddr;

use super::CheckRow;
use crate::host;
use crate::model::Family;

const REMEDY: &str = "without a route to the ClusterIPs this node's own connections to them fail before any rule is asked: add \
                      a default route, or one for the Services' range";

pub(super) fn rows() -> Vec<CheckRow> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(look()),
        Err(cause) => vec![CheckRow::warn("default route", cause.to_string(), "try again")],
    }
}

async fn look() -> Vec<CheckRow> {
    let mut rows = Vec::new();
    let addresses = host::addresses().await.unwrap_or_default();
    for family in Family::ALL {
        let what = format!("default route, {family}");
        // Many nodes have no IPv6 but link-local addresses.
        if family == Family::Ipv6 && !addresses.iter().any(is_global_v6) {
            continue;
        }
        rows.push(match host::has_default_route(family).await {
            Ok(true) => CheckRow::ok(&what, "there"),
            Ok(false) => CheckRow::warn(&what, "none", REMEDY),
            Err(cause) => CheckRow::warn(&what, cause.to_string(), "run as root"),
        });
    }
    rows
}

fn is_global_v6(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local())
}
