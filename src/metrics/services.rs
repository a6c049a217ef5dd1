//! Totals over Services, kept up to date one Service at a time.

use foldhash::HashMap;

use super::labels::{ByFamily, ByPolicy, TrafficPolicy};
use super::sync::SyncMetrics;
use super::table::TableMetrics;
use crate::controller::Synced;
use crate::model::{Family, ObjectKey};
use crate::plan::{candidates, select};

/// What a Service adds to the totals, in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    endpoints: u32,
    /// Ports without an endpoint here, by internal and by external traffic policy.
    no_local: [u32; 2],
}

/// The shares of all Services, and their sums, by family.
#[derive(Debug, Default)]
pub(super) struct Shares {
    families: [FamilyShares; 2],
}

#[derive(Debug, Default)]
struct FamilyShares {
    shares: HashMap<ObjectKey, Share>,
    sum: Share,
}

impl Shares {
    /// Brings the Services of a sync up to date.
    pub(super) fn follow(&mut self, sync: &Synced<'_>) {
        let known = &mut self.families[sync.family as usize];
        if sync.full {
            *known = FamilyShares::default();
            sync.model.services().for_each(|service| known.update(&service.key, sync));
        } else {
            sync.changes.services.iter().for_each(|key| known.update(key, sync));
        }
    }

    /// Sets the metrics to the sums.
    pub(super) fn show(&self, family: Family, sync: &SyncMetrics, table: &TableMetrics) {
        let sum = self.families[family as usize].sum;
        table.endpoints.get_or_create(&ByFamily::from(family)).set(sum.endpoints.into());
        for (policy, ports) in [TrafficPolicy::internal, TrafficPolicy::external].into_iter().zip(sum.no_local) {
            sync.no_local_endpoints.get_or_create(&ByPolicy::new(policy, family)).set(ports.into());
        }
    }
}

impl FamilyShares {
    fn update(&mut self, key: &ObjectKey, sync: &Synced<'_>) {
        let new = share(key, sync.family, sync);
        let old = if new == Share::default() { self.shares.remove(key) } else { self.shares.insert(key.clone(), new) };
        let (old, sum) = (old.unwrap_or_default(), &mut self.sum);
        // In this order, so that it is never below 0.
        sum.endpoints = sum.endpoints + new.endpoints - old.endpoints;
        for policy in 0..2 {
            sum.no_local[policy] = sum.no_local[policy] + new.no_local[policy] - old.no_local[policy];
        }
    }
}

fn share(key: &ObjectKey, family: Family, sync: &Synced<'_>) -> Share {
    let settings = sync.mirror.settings();
    let (Some(service), true) = (sync.model.service(key), settings.family(family).is_some()) else {
        return Share::default();
    };
    if service.cluster_ip(family).is_none() {
        return Share::default();
    }
    let of_family = sync.model.slices(key).filter(|slice| slice.family == family);
    let mut share = Share { endpoints: of_family.map(|slice| slice.endpoints.len() as u32).sum(), no_local: [0; 2] };
    let reachable = |ips: &[std::net::IpAddr]| ips.iter().any(|ip| Family::of(*ip) == family);
    let has_vip = reachable(&service.load_balancer_ips) || (settings.external_ips && reachable(&service.external_ips));
    for port in &service.ports {
        let external = service.external_local() && (has_vip || port.node_port.is_some());
        if !service.internal_policy_local && !external {
            continue;
        }
        let found = candidates(sync.model.slices(key), family, port, &settings.node_name);
        let selection = select(&found, &settings.node_name, &settings.zone, false, true);
        if selection.has_endpoints && selection.local.is_empty() {
            share.no_local[0] += u32::from(service.internal_policy_local);
            share.no_local[1] += u32::from(external);
        }
    }
    share
}
