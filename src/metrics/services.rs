//! Totals over Services, kept up to date one Service at a time.

use std::collections::HashMap;

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

/// The shares of all Services, and their sums.
#[derive(Debug, Default)]
pub(super) struct Shares {
    known: HashMap<ObjectKey, [Share; 2]>,
    sums: [Share; 2],
}

impl Shares {
    /// Brings the Services of a sync up to date.
    pub(super) fn follow(&mut self, sync: &Synced<'_>) {
        if sync.full {
            *self = Self::default();
            sync.model.services().for_each(|service| self.update(&service.key, sync));
        } else {
            sync.changes.services.iter().for_each(|key| self.update(key, sync));
        }
    }

    /// Writes the sums down.
    pub(super) fn show(&self, families: &[Family], sync: &SyncMetrics, table: &TableMetrics) {
        for family in families {
            let sum = self.sums[*family as usize];
            table.endpoints.get_or_create(&ByFamily::from(*family)).set(sum.endpoints.into());
            for (policy, ports) in [TrafficPolicy::internal, TrafficPolicy::external].into_iter().zip(sum.no_local) {
                sync.no_local_endpoints.get_or_create(&ByPolicy::new(policy, *family)).set(ports.into());
            }
        }
    }

    fn update(&mut self, key: &ObjectKey, sync: &Synced<'_>) {
        let new = Family::ALL.map(|family| share(key, family, sync));
        let old =
            if new == [Share::default(); 2] { self.known.remove(key) } else { self.known.insert(key.clone(), new) };
        for (index, sum) in self.sums.iter_mut().enumerate() {
            let (old, new) = (old.unwrap_or_default()[index], new[index]);
            // In this order, so that it is never below 0.
            sum.endpoints = sum.endpoints + new.endpoints - old.endpoints;
            for policy in 0..2 {
                sum.no_local[policy] = sum.no_local[policy] + new.no_local[policy] - old.no_local[policy];
            }
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
