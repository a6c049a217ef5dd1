//! The way back to kube-proxy: what a node still waits for until Portway's tables may go, and until nothing of Portway is
//! needed any more. docs/migration.md has the steps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Family, ObjectKey, Service, ServiceType};

/// What kube-proxy serves once it is back, as the Services of the API have it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Duties {
    /// ClusterIPs, and whose they are.
    addresses: BTreeMap<IpAddr, ObjectKey>,
    /// Ports of `healthCheckNodePort`, and whose they are.
    check_ports: BTreeMap<u16, ObjectKey>,
    /// Services that kube-proxy leaves alone, because their label names Portway.
    labelled: BTreeSet<ObjectKey>,
}

impl Duties {
    /// The duties on a host that has these families.
    pub fn add<'a>(&mut self, services: impl Iterator<Item = &'a Service>, families: &[Family]) {
        for service in services.filter(|service| service.service_type != ServiceType::ExternalName) {
            let addresses = families.iter().filter_map(|family| service.cluster_ip(*family));
            self.addresses.extend(addresses.map(|ip| (ip, service.key.clone())));
            // kube-proxy has a server for these only.
            let is_checked = service.service_type == ServiceType::LoadBalancer && service.external_policy_local;
            let port = service.health_check_node_port.filter(|_| is_checked);
            self.check_ports.extend(port.map(|port| (port, service.key.clone())));
        }
    }

    /// Services with Portway's label; they must lose it first.
    pub fn leave_alone<'a>(&mut self, services: impl Iterator<Item = &'a Service>) {
        self.labelled.extend(services.map(|service| service.key.clone()));
    }
}

/// What was seen on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// Who has Portway's tables, in words; `None`: nobody.
    pub portway: Option<String>,
    /// Addresses that kube-proxy's rules answer for.
    pub served: BTreeSet<IpAddr>,
    /// TCP ports somebody listens on.
    pub listening: BTreeSet<u16>,
}

/// What a node waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// A Portway still runs.
    Portway(String),
    /// The Services are not known yet.
    Services,
    /// What is in the kernel cannot be read, and why.
    Unseen(String),
    /// Services that kube-proxy leaves alone: one of them, and how many more there are.
    Labelled(ObjectKey, usize),
    /// Nobody listens on any of kube-proxy's own ports; whether its rules are there.
    KubeProxy(Vec<u16>, bool),
    /// kube-proxy's rules lack the address of a Service: how many it has, and how many there are.
    Rules(IpAddr, ObjectKey, usize, usize),
    /// Nobody listens on these ports of kube-proxy's, and what for.
    Ports(Vec<(u16, Option<ObjectKey>)>),
}

/// What Portway's tables wait for; `None`: kube-proxy's rules are in force and complete. `own_ports` are kube-proxy's.
pub fn before_removal(duties: Option<&Duties>, sight: &Sight, own_ports: &[u16]) -> Option<Wait> {
    if let Some(who) = &sight.portway {
        return Some(Wait::Portway(who.clone()));
    }
    let Some(duties) = duties else { return Some(Wait::Services) };
    if let Some(first) = duties.labelled.first() {
        return Some(Wait::Labelled(first.clone(), duties.labelled.len() - 1));
    }
    let missing = duties.addresses.iter().find(|(ip, _)| !sight.served.contains(*ip));
    // Rules may be there from a kube-proxy of long ago.
    if !own_ports.is_empty() && own_ports.iter().all(|port| !sight.listening.contains(port)) {
        return Some(Wait::KubeProxy(own_ports.to_vec(), missing.is_none()));
    }
    missing.map(|(ip, key)| {
        let has = duties.addresses.keys().filter(|ip| sight.served.contains(*ip)).count();
        Wait::Rules(*ip, key.clone(), has, duties.addresses.len())
    })
}

/// What the node waits for once the tables are gone; `None`: kube-proxy has all of its ports.
pub fn after_removal(duties: &Duties, sight: &Sight, own_ports: &[u16]) -> Option<Wait> {
    let own = own_ports.iter().map(|port| (*port, None));
    let checks = duties.check_ports.iter().map(|(port, key)| (*port, Some(key.clone())));
    let missing: Vec<_> = own.chain(checks).filter(|(port, _)| !sight.listening.contains(port)).collect();
    (!missing.is_empty()).then_some(Wait::Ports(missing))
}

impl Wait {
    /// Whether kube-proxy has to be started anew, if this is so for long. It does try its own two ports again.
    pub fn wants_restart(&self) -> bool {
        matches!(self, Wait::KubeProxy(_, true) | Wait::Ports(_))
    }

    /// As a sentence that says what to do on this node.
    pub fn in_words(&self, node: &str) -> String {
        match self {
            Wait::Portway(who) => format!("Portway{who} still runs on this node and has the tables: end it"),
            Wait::Services => "the Services are not known yet: is the API server reachable?".to_owned(),
            Wait::Unseen(why) => format!("cannot see what kube-proxy has put in force: {why}"),
            Wait::Labelled(first, more) => format!(
                "{first}{} still has the label service.kubernetes.io/service-proxy-name, so kube-proxy leaves it alone: \
                 take the label away",
                others(*more)
            ),
            Wait::KubeProxy(ports, false) => {
                format!("kube-proxy does not run on this node, nobody listens on {}: start it", in_words(ports))
            }
            Wait::KubeProxy(ports, true) => {
                format!("kube-proxy's rules are there, but nobody listens on {}: {}", in_words(ports), restart(node))
            }
            Wait::Rules(ip, key, has, of) => format!(
                "kube-proxy's rules answer for {has} of {of} addresses of Services; {key} ({ip}) is missing. It adds them \
                 some seconds after its start; if not, see its log and restart it"
            ),
            Wait::Ports(missing) => {
                let port = |(port, service): &(u16, Option<ObjectKey>)| match service {
                    Some(service) => format!("port {port} (health checks of {service})"),
                    None => format!("port {port}"),
                };
                let ports: Vec<String> = missing.iter().map(port).collect();
                let ports = ports.join(", ");
                format!("kube-proxy's rules are in force, but nobody listens on {ports}: {}", restart(node))
            }
        }
    }
}

/// kube-proxy tries the port of a Service's health checks once, when it hears of the Service.
fn restart(node: &str) -> String {
    format!(
        "if kube-proxy runs, it found them taken when it started and does not try again; restart it on this node (kubectl -n \
         kube-system delete pod -l k8s-app=kube-proxy --field-selector spec.nodeName={node})"
    )
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more)") }
}

fn in_words(ports: &[u16]) -> String {
    let words: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("port {}", words.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, ip};

    fn service(name: &str, last: u8, check: Option<u16>) -> Service {
        Service {
            service_type: ServiceType::LoadBalancer,
            cluster_ips: [format!("10.96.0.{last}"), format!("fd00::{last}")].map(|text| ip(&text)).into(),
            external_policy_local: check.is_some(),
            health_check_node_port: check,
            ..testing::service(name, "10.96.0.1")
        }
    }

    const OWN: [u16; 2] = [10256, 10249];

    #[test]
    fn tables_stay_until_everything_of_kube_proxys_is_in_force() {
        let services = [service("a", 1, Some(31_000)), service("b", 2, None)];
        let mut duties = Duties::default();
        duties.add(services.iter(), &[Family::Ipv4]);
        let wait = |sight: &Sight| before_removal(Some(&duties), sight, &OWN).map(|wait| wait.in_words("n"));
        let mut sight = Sight { portway: Some(" (portway, pid 7)".into()), ..Sight::default() };
        assert!(wait(&sight).expect("waits").starts_with("Portway (portway, pid 7) still runs"));
        sight.portway = None;
        assert_eq!(before_removal(None, &sight, &OWN), Some(Wait::Services));
        assert!(wait(&sight).expect("waits").starts_with("kube-proxy does not run"));
        sight.served = [[10, 96, 0, 1], [10, 96, 0, 2]].map(IpAddr::from).into();
        assert!(wait(&sight).expect("waits").contains("rules are there, but nobody listens on port 10256 or 10249"));
        sight.listening.insert(10249);
        assert_eq!(wait(&sight), None, "IPv6 is not for this host, and ports do not keep the tables");
        sight.served.pop_last();
        let said = wait(&sight).expect("waits");
        assert!(said.contains("1 of 2") && said.contains("ns/b (10.96.0.2)"), "{said}");
        duties.leave_alone([service("c", 3, None)].iter());
        let said = before_removal(Some(&duties), &sight, &OWN).expect("waits").in_words("n");
        assert!(said.starts_with("ns/c still has the label"), "{said}");
    }

    #[test]
    fn ports_nobody_has_are_named() {
        let mut duties = Duties::default();
        duties.add([service("a", 1, Some(31_000)), service("b", 2, None)].iter(), &Family::ALL);
        let mut sight = Sight { listening: [10249, 10256].into(), ..Sight::default() };
        let said = after_removal(&duties, &sight, &OWN).expect("waits").in_words("n");
        assert!(said.contains("port 31000 (health checks of ns/a): if kube-proxy runs"), "{said}");
        assert!(said.ends_with("spec.nodeName=n)"), "{said}");
        sight.listening.insert(31_000);
        assert_eq!(after_removal(&duties, &sight, &OWN), None);
    }
}
