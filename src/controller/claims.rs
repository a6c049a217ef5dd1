//! Which frontends a sync may have changed, for observers that follow some of them.

use std::collections::{BTreeSet, HashMap};

use super::Synced;
use crate::model::ObjectKey;
use crate::plan::Settings;

/// What Services claim of the frontends an observer follows, with or without getting it. A frontend may come from one Service
/// to another that did not change, so it is what both claim that has to be looked at.
#[derive(Debug)]
pub struct FollowedClaims<K> {
    of_services: HashMap<ObjectKey, BTreeSet<K>>,
    settings: Option<Settings>,
}

/// The frontends that a sync may have changed.
#[derive(Debug)]
pub struct Touched<K> {
    /// Those of Services that were looked at, before and after.
    pub frontends: BTreeSet<K>,
    /// All Services were looked at.
    pub all: bool,
}

impl<K> Default for FollowedClaims<K> {
    fn default() -> Self {
        Self { of_services: HashMap::new(), settings: None }
    }
}

impl<K: Copy + Ord> FollowedClaims<K> {
    /// Takes over what a sync changed. `claimed` says what a Service claims now.
    pub fn follow(&mut self, sync: &Synced<'_>, claimed: impl Fn(&ObjectKey) -> BTreeSet<K>) -> Touched<K> {
        let settings = sync.mirror.settings();
        // Another name or zone of this node concerns the endpoints of all Services.
        let all = sync.full || self.settings.as_ref() != Some(settings);
        if all {
            self.settings = Some(settings.clone());
        }
        let services: BTreeSet<ObjectKey> = if all {
            let present = sync.model.services().map(|service| &service.key);
            present.chain(self.of_services.keys()).cloned().collect()
        } else {
            sync.changes.services.clone()
        };
        let mut frontends = BTreeSet::new();
        for service in services {
            frontends.extend(self.of_services.remove(&service).into_iter().flatten());
            let claimed = claimed(&service);
            frontends.extend(&claimed);
            if !claimed.is_empty() {
                self.of_services.insert(service, claimed);
            }
        }
        Touched { frontends, all }
    }

    /// All that is claimed; what several Services claim comes several times.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.of_services.values().flatten()
    }
}
