//! Which Service has a frontend that several claim.
//!
//! kube-proxy leaves this undefined and may flip at each sync (specification 3.5). Here a ClusterIP beats every other
//! kind of claim; then come health check servers, load balancer IPs and external IPs; then the oldest Service, then
//! namespace and name.

use std::collections::BTreeSet;
use std::fmt;

use foldhash::HashMap;

use crate::model::{Family, ObjectKey};
use crate::plan::{Class, FrontendKey, FrontendOwner};

/// A Service's claim to a frontend. The smallest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) class: Class,
    /// Creation time in seconds since the epoch; unknown counts as youngest.
    pub(super) created: i64,
    pub(super) service: ObjectKey,
}

impl Claim {
    /// The owner of the frontend if this claim wins.
    pub(super) fn owner(&self) -> FrontendOwner {
        match self.class {
            Class::HealthCheck => FrontendOwner::HealthCheck(self.service.clone()),
            _ => FrontendOwner::Service(self.service.clone()),
        }
    }
}

/// A frontend that one Service has and another does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub frontend: FrontendKey,
    /// Who has it.
    pub winner: FrontendOwner,
    /// Who does not.
    pub loser: ObjectKey,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, winner, loser } = self;
        write!(f, "{frontend} belongs to {winner}; Service {loser} does not get it: give it another port or address")
    }
}

/// What a Service does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// Somebody else has it.
    Contested(Conflict),
    /// It has so many ports, addresses, source ranges and endpoints that none of them is in force.
    Oversized {
        /// The Service.
        service: ObjectKey,
        /// Where.
        family: Family,
        /// Elements it would need, at least.
        elements: usize,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Contested(conflict) => conflict.fmt(f),
            Objection::Oversized { service, family, elements } => write!(
                f,
                "Service {service} would take more than {elements} {family} elements for its ports, addresses, source ranges \
                 and endpoints; none of it is in force"
            ),
        }
    }
}

/// All claims of one family.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    winners: HashMap<FrontendKey, Claim>,
    losers: HashMap<FrontendKey, BTreeSet<Claim>>,
}

impl Claims {
    /// Enters a claim; the Service that loses the frontend by it, if any.
    pub(super) fn add(&mut self, key: FrontendKey, claim: Claim) -> Option<ObjectKey> {
        let Some(winner) = self.winners.get_mut(&key) else {
            self.winners.insert(key, claim);
            return None;
        };
        if claim < *winner {
            let beaten = std::mem::replace(winner, claim);
            let service = beaten.service.clone();
            self.losers.entry(key).or_default().insert(beaten);
            Some(service)
        } else {
            self.losers.entry(key).or_default().insert(claim);
            None
        }
    }

    /// Withdraws a claim; the Service that gets the frontend by it, if any.
    pub(super) fn remove(&mut self, key: FrontendKey, service: &ObjectKey) -> Option<ObjectKey> {
        if self.winners.get(&key).is_some_and(|winner| winner.service == *service) {
            let next = self.losers.get_mut(&key).and_then(BTreeSet::pop_first);
            self.drop_if_empty(key);
            match next {
                Some(next) => {
                    let service = next.service.clone();
                    self.winners.insert(key, next);
                    Some(service)
                }
                None => {
                    self.winners.remove(&key);
                    None
                }
            }
        } else {
            if let Some(losers) = self.losers.get_mut(&key) {
                losers.retain(|claim| claim.service != *service);
            }
            self.drop_if_empty(key);
            None
        }
    }

    /// The claim that counts.
    pub(super) fn winner(&self, key: FrontendKey) -> Option<&Claim> {
        self.winners.get(&key)
    }

    /// Whether the Service has the frontend; otherwise who does.
    pub(super) fn check(&self, key: FrontendKey, service: &ObjectKey) -> Result<(), Conflict> {
        match self.winners.get(&key) {
            Some(winner) if winner.service != *service => {
                Err(Conflict { frontend: key, winner: winner.owner(), loser: service.clone() })
            }
            _ => Ok(()),
        }
    }

    fn drop_if_empty(&mut self, key: FrontendKey) {
        if self.losers.get(&key).is_some_and(BTreeSet::is_empty) {
            self.losers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn claim(class: Class, created: i64, name: &str) -> Claim {
        Claim { class, created, service: ObjectKey::new("ns", name) }
    }

    #[test]
    fn the_oldest_service_wins_whatever_the_order_of_arrival() {
        let key = FrontendKey::NodePort { protocol: Protocol::Tcp, port: 30_000 };
        let service = |name: &str| ObjectKey::new("ns", name);
        let mut claims = Claims::default();
        assert_eq!(claims.add(key, claim(Class::NodePort, 20, "young")), None);
        assert_eq!(claims.add(key, claim(Class::NodePort, 10, "old")), Some(service("young")));
        assert_eq!(claims.add(key, claim(Class::NodePort, 15, "middle")), None);
        assert!(claims.check(key, &service("old")).is_ok());
        assert!(claims.check(key, &service("young")).is_err());
        assert_eq!(claims.remove(key, &service("young")), None);
        assert_eq!(claims.remove(key, &service("old")), Some(service("middle")));
        assert_eq!(claims.remove(key, &service("middle")), None);
        assert!(claims.winners.is_empty() && claims.losers.is_empty());
    }

    #[test]
    fn a_health_check_keeps_its_port_from_older_frontends() {
        let key = FrontendKey::NodePort { protocol: Protocol::Tcp, port: 30_073 };
        let service = |name: &str| ObjectKey::new("ns", name);
        let mut claims = Claims::default();
        claims.add(key, claim(Class::NodePort, 1, "second"));
        assert_eq!(claims.add(key, claim(Class::HealthCheck, 9, "first")), Some(service("second")));
        let conflict = claims.check(key, &service("second")).expect_err("lost");
        assert_eq!(
            conflict.to_string(),
            "node port 30073/TCP belongs to the healthCheckNodePort of Service ns/first; Service ns/second does not get \
             it: give it another port or address"
        );
        assert_eq!(claims.remove(key, &service("first")), Some(service("second")));
        assert!(claims.check(key, &service("second")).is_ok());
    }

    #[test]
    fn a_cluster_ip_beats_an_older_external_ip() {
        let key = FrontendKey::Address { ip: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 443 };
        let mut claims = Claims::default();
        claims.add(key, claim(Class::ExternalIp, 1, "thief"));
        assert_eq!(claims.add(key, claim(Class::ClusterIp, 9, "victim")), Some(ObjectKey::new("ns", "thief")));
    }
}
