//! What Prometheus reads: kube-proxy's metrics under their names (specification 10.2), and our own.
//!
//! [`Metrics`] holds every value; [`MetricsObserver`] and [`Stopwatch`] follow the sync loop, [`RestClientLayer`]
//! the requests to the API server. docs/metrics.md explains each metric.

mod faults;
mod frontends;
mod kernel;
mod labels;
mod localhost;
mod observer;
mod process;
mod services;
mod slis;
mod sources;
mod sync;
mod table;
mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

pub use kernel::Stopwatch;
pub use observer::MetricsObserver;
pub use slis::Slis;
pub use text::Format;

use self::frontends::FrontendMetrics;
use self::localhost::Localhost;
use self::process::Process;
use self::sources::WatchedSources;
use self::sync::SyncMetrics;
use self::table::TableMetrics;
use crate::instruments::{self, FaultCounts, RestClientLayer, RestClientMetrics};
use crate::model::Family;
use crate::nftables::FrontendCount;
use crate::ruleset::KernelError;
use crate::source::SourceStats;

/// The version of kube-proxy whose behaviour this is; what dashboards compare with the cluster's version.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: SystemTime,
    slis: Slis,
    sync: SyncMetrics,
    table: TableMetrics,
    client: RestClientMetrics,
    sources: WatchedSources,
    faults: FaultCounts,
    features: Labelled<labels::FeatureLabels, Gauge>,
    frontends: FrontendMetrics,
    process: Process,
    localhost: Localhost,
}

impl Metrics {
    /// All at zero. The process counts as started now.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        build_info(&mut registry);
        let process = Process::default();
        registry.register_collector(Box::new(process.clone()));
        let table = TableMetrics::register(&mut registry);
        let help = "Whether a feature gate of Kubernetes is on";
        let (sources, faults) = (WatchedSources::register(&mut registry), FaultCounts::default());
        faults::register(&mut registry, faults.clone(), sources.clone());
        Arc::new(Self {
            started: SystemTime::now(),
            process,
            slis: Slis::default(),
            sync: SyncMetrics::register(&mut registry),
            frontends: FrontendMetrics::register(&mut registry, table.clone()),
            table,
            localhost: Localhost::register(&mut registry),
            features: instruments::add(&mut registry, "kubernetes_feature_enabled", help, Labelled::default()),
            client: RestClientMetrics::register(&mut registry),
            sources,
            faults,
            registry,
        })
    }

    /// The exposition.
    pub fn encode(&self, format: Format) -> String {
        text::encode(&self.registry, format)
    }

    /// When the process started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// The metrics of the health checks on the metrics port.
    pub fn slis(&self) -> &Slis {
        &self.slis
    }

    /// An answer on `/healthz` of the health port.
    pub fn answered_healthz(&self, code: u16) {
        self.sync.healthz.get_or_create(&labels::Code { code }).inc();
    }

    /// An answer on `/livez` of the health port.
    pub fn answered_livez(&self, code: u16) {
        self.sync.livez.get_or_create(&labels::Code { code }).inc();
    }

    /// A run of the conntrack cleaning, and how many entries it deleted.
    pub fn conntrack_cleaned(&self, family: Family, duration: Duration, deleted: u64) {
        let family = labels::ByFamily::from(family);
        self.sync.conntrack_duration.get_or_create(&family).observe(duration.as_secs_f64());
        self.sync.conntrack_deleted.get_or_create(&family).inc_by(deleted);
    }

    /// Shows a source's counters from now on. `name` is `kubernetes` or `manifests`.
    pub fn watch_source(&self, name: &'static str, stats: Arc<SourceStats>) {
        self.sources.watch(name, stats);
    }

    /// What is wrong in objects at present, as far as sources can tell.
    pub fn present_problems(&self) -> Vec<crate::source::Problem> {
        self.watched_sources().iter().flat_map(|(_, stats)| stats.present()).collect()
    }

    /// Where present faults are counted.
    pub fn faults(&self) -> FaultCounts {
        self.faults.clone()
    }

    /// The sources and their counters.
    pub fn watched_sources(&self) -> Vec<(&'static str, Arc<SourceStats>)> {
        self.sources.watched()
    }

    /// Counts the tasks of a runtime from now on.
    pub fn watch_runtime(&self, runtime: tokio::runtime::Handle) {
        self.process.watch(runtime);
    }

    /// Shows feature gates: name, stage (empty for general availability), and whether they are on.
    pub fn show_gates(&self, gates: impl IntoIterator<Item = (&'static str, &'static str, bool)>) {
        for (name, stage, is_on) in gates {
            self.features.get_or_create(&labels::FeatureLabels { name, stage }).set(is_on.into());
        }
    }

    /// Shows connections of each frontend from now on, as long as there are at most `max` of them.
    pub fn show_frontends(
        &self,
        read: impl FnMut(Family) -> Result<Vec<FrontendCount>, KernelError> + Send + 'static,
        families: &[Family],
        max: u32,
    ) {
        self.frontends.show(Box::new(read), families, max);
    }

    /// Shows what the relay of NodePorts on localhost counts from now on.
    /// `rejected` asks the kernel how many packets of a family came for what is not relayed.
    pub fn show_localhost(
        &self,
        stats: Arc<crate::localhost::Stats>,
        rejected: impl FnMut(Family) -> Result<u64, KernelError> + Send + 'static,
    ) {
        self.localhost.show(stats, Box::new(rejected));
    }

    /// Measures the requests of a client of the API server.
    pub fn rest_client_layer(self: &Arc<Self>) -> RestClientLayer {
        RestClientLayer::new(self.client.clone())
    }
}

fn build_info(registry: &mut Registry) {
    let version = KUBERNETES_VERSION.trim_start_matches('v');
    let mut numbers = version.split('.');
    let kubernetes = labels::KubernetesBuild {
        major: numbers.next().unwrap_or_default().to_owned(),
        minor: numbers.next().unwrap_or_default().to_owned(),
        git_version: KUBERNETES_VERSION.to_owned(),
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        compiler: "rustc".to_owned(),
    };
    let one = |help: &str| format!("{help}; the value is always 1");
    let info = Labelled::<_, ConstGauge>::new_with_constructor(|| ConstGauge::new(1));
    drop(info.get_or_create(&kubernetes));
    registry.register("kubernetes_build_info", one("The Kubernetes version whose kube-proxy this replaces"), info);
    let info = Labelled::<_, ConstGauge>::new_with_constructor(|| ConstGauge::new(1));
    drop(info.get_or_create(&labels::PortwayBuild { version: env!("CARGO_PKG_VERSION") }));
    registry.register("portway_build_info", one("The version of Portway"), info);
}

#[cfg(test)]
mod tests;
