//! kube-proxy's metrics of the sync loop (specification 10.2).

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::labels::{ByFamily, ByPolicy, Code};
use crate::instruments::add;

/// A gauge of seconds.
pub(super) type Seconds = Gauge<f64, AtomicU64>;
pub(super) type FamilyHistograms = Labelled<ByFamily, Histogram>;

#[derive(Debug)]
pub(super) struct SyncMetrics {
    pub(super) duration: FamilyHistograms,
    pub(super) full_duration: FamilyHistograms,
    pub(super) partial_duration: FamilyHistograms,
    pub(super) last: Labelled<ByFamily, Seconds>,
    pub(super) last_queued: Labelled<ByFamily, Seconds>,
    pub(super) programming: FamilyHistograms,
    pub(super) endpoint_changes_pending: Gauge,
    pub(super) endpoint_changes: Counter,
    pub(super) service_changes_pending: Gauge,
    pub(super) service_changes: Counter,
    pub(super) no_local_endpoints: Labelled<ByPolicy, Gauge>,
    pub(super) sync_failures: Labelled<ByFamily, Counter>,
    pub(super) cleanup_failures: Labelled<ByFamily, Counter>,
    pub(super) conntrack_duration: FamilyHistograms,
    pub(super) conntrack_deleted: Labelled<ByFamily, Counter>,
    pub(super) healthz: Labelled<Code, Counter>,
    pub(super) livez: Labelled<Code, Counter>,
}

/// Buckets for runs of the sync loop: 1 ms to 16 s.
fn run_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Buckets for the way from a pod's change to the rules: a quarter of a second to 5 minutes.
fn programming_histogram() -> Histogram {
    let steps = |range: std::ops::RangeInclusive<u32>, step| range.step_by(step).map(f64::from);
    Histogram::new(
        [0.25, 0.5].into_iter().chain(steps(1..=59, 1)).chain(steps(60..=115, 5)).chain(steps(120..=300, 30)),
    )
}

impl SyncMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("kubeproxy");
        let mut histogram =
            |name, help| add(registry, name, help, FamilyHistograms::new_with_constructor(run_histogram));
        let duration = histogram("sync_proxy_rules_duration_seconds", "Time a sync took, failed ones too");
        let full_duration = histogram("sync_full_proxy_rules_duration_seconds", "Time a full sync took");
        let partial_duration = histogram("sync_partial_proxy_rules_duration_seconds", "Time a sync of changes took");
        let conntrack_duration =
            histogram("conntrack_reconciler_sync_duration_seconds", "Time a cleaning of conntrack took");
        Self {
            duration,
            full_duration,
            partial_duration,
            conntrack_duration,
            last: add(
                registry,
                "sync_proxy_rules_last_timestamp_seconds",
                "When a sync last succeeded, in Unix time",
                Labelled::default(),
            ),
            last_queued: add(
                registry,
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a sync was last asked for, in Unix time",
                Labelled::default(),
            ),
            programming: add(
                registry,
                "network_programming_duration_seconds",
                "Time from the change of a pod or Service to rules that follow it",
                Labelled::new_with_constructor(programming_histogram),
            ),
            endpoint_changes_pending: add(
                registry,
                "sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices no sync has dealt with yet",
                Gauge::default(),
            ),
            endpoint_changes: add(
                registry,
                "sync_proxy_rules_endpoint_changes",
                "Changes of EndpointSlices seen",
                Counter::default(),
            ),
            service_changes_pending: add(
                registry,
                "sync_proxy_rules_service_changes_pending",
                "Changes of Services no sync has dealt with yet",
                Gauge::default(),
            ),
            service_changes: add(
                registry,
                "sync_proxy_rules_service_changes",
                "Changes of Services seen, once for each IP family",
                Counter::default(),
            ),
            // A gauge, whatever its name says.
            no_local_endpoints: add(
                registry,
                "sync_proxy_rules_no_local_endpoints_total",
                "Service ports with traffic policy Local and endpoints on other nodes only",
                Labelled::default(),
            ),
            sync_failures: add(
                registry,
                "sync_proxy_rules_nftables_sync_failures",
                "Syncs the kernel refused",
                Labelled::default(),
            ),
            cleanup_failures: add(
                registry,
                "sync_proxy_rules_nftables_cleanup_failures",
                "Failed deletions of chains nobody uses any more",
                Labelled::default(),
            ),
            conntrack_deleted: add(
                registry,
                "conntrack_reconciler_deleted_entries",
                "Conntrack entries deleted because their endpoint is gone",
                Labelled::default(),
            ),
            healthz: add(registry, "proxy_healthz", "Answers on /healthz of the health port", Labelled::default()),
            livez: add(registry, "proxy_livez", "Answers on /livez of the health port", Labelled::default()),
        }
    }
}
