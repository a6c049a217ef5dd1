//! What the pure middle costs: compiling all Services, one changed endpoint, and a copy for the operator's commands.

#![allow(missing_docs)]

mod cluster;

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portway::diff::Mirror;
use portway::model::Event;

const SIZES: [usize; 2] = [1_000, 10_000];

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile everything");
    group.sample_size(10);
    for services in SIZES {
        let (options, model) = cluster::model(services, 10);
        group.bench_function(BenchmarkId::from_parameter(format!("{services}x10")), |b| {
            b.iter(|| Mirror::build(options.settings(&model), black_box(&model), &HashMap::new()));
        });
    }
    group.finish();
}

fn one_endpoint(c: &mut Criterion) {
    let mut group = c.benchmark_group("replace one endpoint");
    for services in SIZES {
        let (options, mut model) = cluster::model(services, 10);
        let (mut mirror, _) = Mirror::build(options.settings(&model), &model, &HashMap::new());
        model.take_changes();
        let mut round = 0;
        group.bench_function(BenchmarkId::from_parameter(format!("{services}x10")), |b| {
            b.iter(|| {
                round += 1;
                model.apply(Event::Slice(Box::new(cluster::slice(services / 2, 10, round))));
                let changes = model.take_changes();
                let update = mirror.update(&options.settings(&model), &model, &changes);
                assert_eq!(update.main.element_counts(), (1, 1));
                update
            });
        });
    }
    group.finish();
}

/// What a question of the operator's costs the sync loop.
fn snapshot(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    for services in SIZES {
        let (options, model) = cluster::model(services, 10);
        let (mirror, _) = Mirror::build(options.settings(&model), &model, &HashMap::new());
        group.bench_function(BenchmarkId::from_parameter(format!("{services}x10")), |b| {
            b.iter_with_large_drop(|| (model.clone(), mirror.clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, build, one_endpoint, snapshot);
criterion_main!(benches);
