//! What the pure middle costs: reading JSON, compiling all Services, the transaction of a first load, one changed endpoint,
//! and a copy for the operator's commands.

#![allow(missing_docs)]

mod cluster;
mod support;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portway::diff::Mirror;
use portway::model::Event;

use support::phases;

const SIZES: [usize; 2] = [1_000, 10_000];
const ENDPOINTS: usize = 10;

fn decode(c: &mut Criterion) {
    let slices = phases::slices(1_000, ENDPOINTS);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(slices.iter().map(String::len).sum::<usize>() as u64));
    group.bench_function("1000 slices x10", |b| b.iter(|| phases::decode(black_box(&slices))));
    group.finish();
}

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile everything");
    for services in SIZES {
        let (options, model) = cluster::model(services, ENDPOINTS);
        group.bench_function(name(services), |b| b.iter(|| phases::plan(&options, &model)));
    }
    group.finish();
}

fn first_load(c: &mut Criterion) {
    let mut group = c.benchmark_group("transaction of a first load");
    for services in SIZES {
        let (options, model) = cluster::model(services, ENDPOINTS);
        let mirror = phases::plan(&options, &model);
        group.bench_function(name(services), |b| b.iter(|| phases::first_load(&mirror)));
    }
    group.finish();
}

fn diff(c: &mut Criterion) {
    let mut group = c.benchmark_group("replace one endpoint");
    for services in SIZES {
        let (options, mut model) = cluster::model(services, ENDPOINTS);
        let mut mirror = phases::plan(&options, &model);
        model.take_changes();
        let mut round = 0;
        let mut next = || {
            round += 1;
            vec![Event::Slice(cluster::slice(services / 2, ENDPOINTS, round).into())]
        };
        group.bench_function(name(services), |b| {
            b.iter_batched(
                &mut next,
                |changed| phases::diff(&options, &mut model, &mut mirror, changed),
                // One after the other: each must differ from the one before.
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What a question of the operator's costs the sync loop.
fn snapshot(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    for services in SIZES {
        let (options, model) = cluster::model(services, ENDPOINTS);
        let (mirror, _) = Mirror::build(options.settings(&model), &model);
        group.bench_function(name(services), |b| {
            b.iter_with_large_drop(|| (model.clone(), mirror.clone()));
        });
    }
    group.finish();
}

fn name(services: usize) -> BenchmarkId {
    BenchmarkId::from_parameter(format!("{services}x{ENDPOINTS}"))
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = decode, plan, first_load, diff, snapshot
}
criterion_main!(benches);
