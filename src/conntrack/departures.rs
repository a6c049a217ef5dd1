//! Which TCP endpoints have gone: their flows are cut while a flow table forwards them past the rules.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Sweep;
use crate::controller::Synced;
use crate::diff::target;
use crate::model::Family;
use crate::plan::Target;
use crate::ruleset::{EndpointMap, Op, Transaction, Value};

/// How long an endpoint that has gone is remembered: longer than its sweep waits and is tried again. One that comes back
/// until then is to be told, so that no flow to it is cut any more.
const MEMORY: Duration = Duration::from_secs(120);

/// The TCP endpoints that have left all slices of late. One that terminates is still in its slice, and keeps its flows.
#[derive(Debug, Default)]
pub(super) struct Departures {
    gone: HashMap<Target, Instant>,
}

impl Departures {
    /// Adds what a sync tells of endpoints to a sweep: those that have gone, and those that are back.
    pub(super) fn follow(&mut self, sync: &Synced<'_>, now: Instant, sweep: &mut Sweep) {
        let family = sync.family;
        self.gone.retain(|_, at| now.duration_since(*at) < MEMORY);
        let mut ask = |target, is_there| sweep.family_mut(family).ask_endpoint(target, is_there);
        if !self.gone.is_empty() {
            for slice in sync.changes.services.iter().flat_map(|service| sync.model.slices(service)) {
                for (ip, port) in slice.tcp_targets() {
                    if self.gone.remove(&Target { ip, port }).is_some() {
                        ask(Target { ip, port }, true);
                    }
                }
            }
        }
        let departed = sync.model.departed(sync.changes).into_iter().map(|(ip, port)| Target { ip, port });
        let mut departed: HashSet<Target> = departed.filter(|target| Family::of(target.ip) == family).collect();
        if sync.full {
            // A process before this one may have sent flows there.
            let left = |target: &Target| !sync.model.has_tcp_target((target.ip, target.port));
            departed.extend(taken_out(family, sync.transaction).filter(left));
        }
        for gone in departed {
            ask(gone, false);
            self.gone.insert(gone, now);
        }
    }
}

/// The endpoints that a transaction takes out of the maps of a family.
fn taken_out(family: Family, transaction: &Transaction) -> impl Iterator<Item = Target> {
    let of_family = transaction.ops.iter().filter(move |(of, _)| *of == family);
    of_family
        .filter_map(|(_, op)| match op {
            Op::DeleteElements(name, elements) if EndpointMap::ALL.iter().any(|map| map.set() == name.set) => {
                Some(elements)
            }
            _ => None,
        })
        .flatten()
        .filter_map(|element| match element.value {
            Value::Data(data) => target(&data),
            _ => None,
        })
}

#[cfg(test)]
#[path = "departures_tests.rs"]
mod tests;
