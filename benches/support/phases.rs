//! The steps from JSON to netlink messages, as functions of their own: callgrind counts by function.
use std::hint::black_box;

use kube::api::WatchEvent;
use portway::config::Options;
use portway::diff::Mirror;
use portway::model::{Event, Family, Model};
use portway::nftables::NftKernel;
use portway::ruleset::Transaction;
use portway::source::{Converter, Guarded, Origin, api};

use super::objects;
use crate::cluster;

/// Slices as lines of a watch.
pub fn slices(services: usize, endpoints: usize) -> Vec<String> {
    let slice = |n| objects::slice(&cluster::slice(n, endpoints, 0), 1);
    (0..services).map(|n| format!("{{\"type\":\"ADDED\",\"object\":{}}}", slice(n))).collect()
}

/// Lines of a watch to the model's objects, as `source` reads them.
#[inline(never)]
pub fn decode(lines: &[String]) -> Vec<Event> {
    let mut converter = Converter::new(Origin::Api, "node-0");
    let decode = |line: &String| {
        let event: WatchEvent<Guarded<api::EndpointSlice>> = serde_json::from_str(line).expect("an event");
        let WatchEvent::Added(guarded) = event else { panic!("{event:?} is no new slice") };
        converter.slice(&guarded.object.expect("a slice")).event.expect("it is for us")
    };
    lines.iter().map(decode).collect()
}

/// What all Services mean, and who gets which element.
#[inline(never)]
pub fn plan(options: &Options, model: &Model) -> Mirror {
    Mirror::build(options.settings(model), black_box(model)).0
}

/// The transaction that makes it so in an empty kernel.
#[inline(never)]
pub fn first_load(mirror: &Mirror) -> Transaction {
    let mut all = Transaction::default();
    for family in Family::ALL {
        all.ops.extend(mirror.rebase(family, None).main.ops);
    }
    all
}

/// Changes one endpoint of each of these Services, one sync each.
#[inline(never)]
pub fn diff(options: &Options, model: &mut Model, mirror: &mut Mirror, changed: Vec<Event>) {
    for event in changed {
        model.apply(event);
        let changes = model.take_changes();
        let update = mirror.update(&options.settings(model), model, &changes);
        let changed = update.families.iter().map(|family| family.steps.main.element_counts());
        assert_eq!(changed.reduce(|a, b| (a.0 + b.0, a.1 + b.1)), Some((1, 1)));
        black_box(update);
    }
}

/// The messages of a transaction. The kernel checks them, which callgrind does not see, and forgets them.
#[inline(never)]
pub fn encode(kernel: &mut NftKernel, transaction: &Transaction) {
    kernel.check(transaction).expect("what can be loaded");
}
