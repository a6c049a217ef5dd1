//! Slices that have endpoints and yet give a Service none: legal, and nearly always a mistake somebody looks for.

use std::fmt;
use std::sync::Arc;

use crate::model::{EndpointSlice, Family, ObjectKey, Service, ServicePort, ServiceType, SlicePort};

/// The most ports of a slice that a message quotes; most slices have one.
const PORTS_QUOTED: usize = 4;

/// Why endpoints of a Service lead nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// No slice of the family has a port of that name and protocol.
    Port {
        /// The family.
        family: Family,
        /// The port of the Service.
        port: ServicePort,
        /// A slice with endpoints.
        slice: ObjectKey,
        /// The ports it has.
        offered: Vec<SlicePort>,
    },
    /// The Service has no ClusterIP of the slice's family.
    Family {
        /// The slice's family.
        family: Family,
        /// A slice with endpoints.
        slice: ObjectKey,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Port { family, port, slice, offered } => {
                write!(f, "port {} has no {family} endpoints: ", Quoted(&port.name, port.port, port.protocol))?;
                write!(f, "EndpointSlice {} has {}", slice.name(), Offered(offered))
            }
            Mismatch::Family { family, slice } => write!(
                f,
                "EndpointSlice {} has {family} endpoints, but the Service has no {family} ClusterIP",
                slice.name()
            ),
        }
    }
}

/// A port by what it is matched with.
struct Quoted<'a>(&'a str, u16, crate::model::Protocol);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quoted(name, number, protocol) = self;
        write!(f, "{name:?} ({number}/{protocol})")
    }
}

/// What a slice has instead of the port that is looked for.
struct Offered<'a>(&'a [SlicePort]);

impl fmt::Display for Offered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Offered(ports) = self;
        if ports.is_empty() {
            return f.write_str("no port with a number; give it one of that name and protocol");
        }
        let quoted = ports.iter().take(PORTS_QUOTED);
        let quoted: Vec<String> = quoted.map(|p| Quoted(&p.name, p.port, p.protocol).to_string()).collect();
        let more = if ports.len() > PORTS_QUOTED { ", ..." } else { "" };
        write!(f, "{}{more}; names and protocols must be equal", quoted.join(", "))
    }
}

impl EndpointSlice {
    /// Why its endpoints are none of a Service port; `None` when they are.
    pub fn refuses(&self, port: &ServicePort) -> Option<String> {
        if self.numbers_of(&port.name, port.protocol).next().is_some() {
            return None;
        }
        let wanted = Quoted(&port.name, port.port, port.protocol);
        Some(format!("the Service has port {wanted}, EndpointSlice {} {}", self.key.name(), Offered(&self.ports)))
    }
}

/// What does not fit between a Service and its slices in the families that are served.
pub fn mismatches<'a, I>(service: &Service, slices: impl Fn() -> I, families: &[Family]) -> Vec<Mismatch>
where
    I: Iterator<Item = &'a Arc<EndpointSlice>>,
{
    if service.service_type == ServiceType::ExternalName || service.cluster_ips.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for family in families {
        let with_endpoints = || slices().filter(|slice| slice.family == *family && !slice.endpoints.is_empty());
        let Some(first) = with_endpoints().next() else { continue };
        if service.cluster_ip(*family).is_none() {
            found.push(Mismatch::Family { family: *family, slice: first.key.clone() });
            continue;
        }
        for port in &service.ports {
            if with_endpoints().all(|slice| slice.numbers_of(&port.name, port.protocol).next().is_none()) {
                found.push(Mismatch::Port {
                    family: *family,
                    port: port.clone(),
                    slice: first.key.clone(),
                    offered: first.ports.clone(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::testing::{self, ip, service_port, slice_port};

    fn service(cluster_ips: &[&str], ports: &[(&str, Protocol)]) -> Service {
        let port = |(name, protocol): &(&str, Protocol)| ServicePort { protocol: *protocol, ..service_port(name, 80) };
        Service {
            cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
            ports: ports.iter().map(port).collect(),
            ..testing::service("web", "10.96.0.1")
        }
    }

    fn slice(name: &str, address: &str, ports: &[(&str, Protocol)]) -> Arc<EndpointSlice> {
        let port = |(name, protocol): &(&str, Protocol)| SlicePort { protocol: *protocol, ..slice_port(name, 8080) };
        let addresses: &[&str] = if address.is_empty() { &[] } else { &[address] };
        Arc::new(EndpointSlice {
            key: ObjectKey::new("ns", name),
            ports: ports.iter().map(port).collect(),
            ..testing::slice("web", "n1", addresses)
        })
    }

    fn sentences(service: &Service, slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        mismatches(service, || slices.iter(), &Family::ALL).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_does_not_fit_is_named() {
        use Protocol::{Tcp, Udp};
        let web = service(&["10.96.0.1"], &[("http", Tcp)]);
        assert_eq!(
            sentences(&web, &[slice("a", "10.1.0.1", &[("", Tcp)])]),
            ["port \"http\" (80/TCP) has no IPv4 endpoints: EndpointSlice a has \"\" (8080/TCP); names and protocols \
              must be equal"]
        );
        assert_eq!(
            sentences(&web, &[slice("a", "10.1.0.1", &[])]),
            [
                "port \"http\" (80/TCP) has no IPv4 endpoints: EndpointSlice a has no port with a number; give it one of \
              that name and protocol"
            ]
        );
        assert_eq!(
            sentences(&web, &[slice("a", "10.1.0.1", &[("http", Tcp)]), slice("b", "fd00::1", &[("http", Tcp)])]),
            ["EndpointSlice b has IPv6 endpoints, but the Service has no IPv6 ClusterIP"]
        );
        assert_eq!(sentences(&web, &[slice("a", "10.1.0.1", &[("http", Udp)])]).len(), 1, "another protocol");
        let refused = slice("a", "10.1.0.1", &[("x", Tcp)]).refuses(&web.ports[0]).expect("not its port");
        assert_eq!(
            refused,
            "the Service has port \"http\" (80/TCP), EndpointSlice a \"x\" (8080/TCP); names and protocols must be equal"
        );
    }

    #[test]
    fn what_is_in_order_gives_nothing() {
        use Protocol::{Tcp, Udp};
        let dns = service(&["10.96.0.1", "fd00::1"], &[("dns", Udp), ("dns-tcp", Tcp)]);
        let both = [("dns", Udp), ("dns-tcp", Tcp), ("metrics", Tcp)];
        let nothing: [&[Arc<EndpointSlice>]; 4] = [
            &[],
            &[slice("a", "10.1.0.1", &both), slice("b", "fd01::1", &both)],
            // Pods that name their ports otherwise have a slice of their own.
            &[slice("a", "10.1.0.1", &both[..1]), slice("b", "10.1.0.2", &both[1..])],
            // Nobody is selected.
            &[slice("a", "", &[])],
        ];
        for slices in nothing {
            assert_eq!(sentences(&dns, slices), [""; 0], "{slices:?}");
        }
        let headless = service(&[], &[("http", Tcp)]);
        assert_eq!(sentences(&headless, &[slice("a", "10.1.0.1", &[])]), [""; 0]);
    }
}
