//! The steps from JSON to netlink messages, as functions of their own: callgrind counts by function.

use std::collections::HashMap;
use std::hint::black_box;

use portway::config::Options;
use portway::diff::Mirror;
use portway::model::{Event, Family, Model};
use portway::netlink::NftKernel;
use portway::ruleset::Transaction;
use portway::source::{Converter, Origin, api};

use super::objects;
use crate::cluster;

/// Slices as JSON.
pub fn slices(services: usize, endpoints: usize) -> Vec<String> {
    (0..services).map(|n| objects::slice(&cluster::slice(n, endpoints, 0), 1).to_string()).collect()
}

/// JSON to the model's objects, as `source` does for each object of a list or watch.
#[inline(never)]
pub fn decode(slices: &[String]) -> Vec<Event> {
    let mut converter = Converter::new(Origin::Api, "node-0");
    let decode = |text: &String| {
        let object: api::EndpointSlice = serde_json::from_str(text).expect("a slice");
        converter.slice(&object).event.expect("it is for us")
    };
    slices.iter().map(decode).collect()
}

/// What all Services mean, and who gets which element.
#[inline(never)]
pub fn plan(options: &Options, model: &Model) -> Mirror {
    Mirror::build(options.settings(model), black_box(model), &HashMap::new()).0
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
        assert_eq!(update.steps.main.element_counts(), (1, 1));
        black_box(update);
    }
}

/// The messages of a transaction. The kernel checks them, which callgrind does not see, and forgets them.
#[inline(never)]
pub fn encode(kernel: &mut NftKernel, transaction: &Transaction) {
    kernel.check(transaction).expect("what can be loaded");
}
