//! Which Service a frontend belongs to, and which others claim it.

use super::claims::{Claim, Conflict};
use super::mirror::Mirror;
use crate::model::{Family, ObjectKey};
use crate::plan::{Class, FrontendKey, FrontendOwner};

impl Mirror {
    /// The Service that has a frontend, or whose health check server has it.
    pub fn owner(&self, family: Family, frontend: FrontendKey) -> Option<&ObjectKey> {
        Some(&self.claim(family, frontend)?.service)
    }

    /// Who has a frontend instead of a Service that claims it in vain.
    pub fn other_owner(&self, family: Family, frontend: FrontendKey, loser: &ObjectKey) -> Option<FrontendOwner> {
        let node_ip = self.settings().family(family).and_then(|settings| settings.node_ip);
        let claim = self.claim(family, frontend);
        let others = claim.filter(|claim| claim.class == Class::HealthCheck || claim.service != *loser);
        others.map(Claim::owner).or_else(|| {
            let mut listeners = self.settings().listeners.iter();
            Some(FrontendOwner::Server(listeners.find(|listener| listener.is_hit_by(&frontend, family, node_ip))?.name))
        })
    }

    /// What Services do not get at present, those of one Service together.
    pub fn conflicts(&self) -> impl Iterator<Item = (Family, Conflict)> {
        self.families.iter().flat_map(move |mirror| {
            let family = mirror.family;
            let in_vain = |loser: &ObjectKey, key: &FrontendKey| mirror.claims.check(*key, loser).is_err();
            let lost = mirror.services.iter().flat_map(move |(loser, state)| {
                let checks = state.checks.iter().filter(move |key| in_vain(loser, key));
                state.lost.iter().chain(checks).map(move |key| (loser, *key))
            });
            lost.filter_map(move |(loser, frontend)| {
                let winner = self.other_owner(family, frontend, loser)?;
                Some((family, Conflict { frontend, winner, loser: loser.clone() }))
            })
        })
    }

    /// Where the health check server of a Service answers, unless others have that.
    pub fn checks_of(&self, family: Family, service: &ObjectKey) -> &[FrontendKey] {
        let mirror = self.families.iter().find(|mirror| mirror.family == family);
        mirror.and_then(|mirror| mirror.services.get(service)).map_or(&[], |state| &state.checks)
    }

    fn claim(&self, family: Family, frontend: FrontendKey) -> Option<&Claim> {
        self.families.iter().find(|mirror| mirror.family == family)?.claims.winner(frontend)
    }
}
