//! Who has a frontend, and who claims it in vain.

use super::claims::{Claim, Conflict};
use super::mirror::Mirror;
use crate::model::{Family, ObjectKey};
use crate::plan::{Class, FrontendKey, Holder};

impl Mirror {
    /// The Service that has a frontend, or whose health check server has it.
    pub fn owner(&self, family: Family, frontend: FrontendKey) -> Option<&ObjectKey> {
        Some(&self.claim(family, frontend)?.service)
    }

    /// Who has a frontend instead of a Service that claims it in vain.
    pub fn holder(&self, family: Family, frontend: FrontendKey, loser: &ObjectKey) -> Option<Holder> {
        let node_ip = self.settings().family(family).and_then(|settings| settings.node_ip);
        let claim = self.claim(family, frontend);
        let others = claim.filter(|claim| claim.class == Class::HealthCheck || claim.service != *loser);
        others.map(Claim::holder).or_else(|| {
            let mut listeners = self.settings().listeners.iter();
            Some(Holder::Server(listeners.find(|listener| listener.is_hit_by(&frontend, family, node_ip))?.name))
        })
    }

    /// What Services do not get at present, those of one Service together.
    pub fn conflicts(&self) -> impl Iterator<Item = (Family, Conflict)> {
        self.families.iter().flat_map(move |mirror| {
            let family = mirror.family;
            let lost =
                mirror.services.iter().flat_map(|(loser, state)| state.lost.iter().map(move |key| (loser, *key)));
            lost.filter_map(move |(loser, frontend)| {
                let winner = self.holder(family, frontend, loser)?;
                Some((family, Conflict { frontend, winner, loser: loser.clone() }))
            })
        })
    }

    fn claim(&self, family: Family, frontend: FrontendKey) -> Option<&Claim> {
        self.families.iter().find(|mirror| mirror.family == family)?.claims.winner(frontend)
    }
}
