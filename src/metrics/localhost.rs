//! kube-proxy's metrics of NodePorts on localhost (KEP-6032), and our own, read when somebody asks.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::labels::{ByFamily, ByProtocol};
use crate::localhost::Stats;
use crate::model::Protocol;

/// The counters of the relay, if there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Localhost(Arc<Mutex<Option<Arc<Stats>>>>);

impl Localhost {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register_collector(Box::new(this.clone()));
        this
    }

    pub(super) fn show(&self, stats: Arc<Stats>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats);
    }
}

const LISTENERS: (&str, &str) =
    ("kubeproxy_nftables_localhost_nodeport_listeners", "NodePorts that are open on localhost.");
const FAILURES: (&str, &str) = (
    "kubeproxy_nftables_localhost_nodeport_listener_creation_failures",
    "Failed attempts to open a NodePort on localhost.",
);
const OPEN: (&str, &str) =
    ("portway_localhost_connections", "Connections (TCP) and flows (UDP) to NodePorts on localhost that are open.");
const REFUSED: (&str, &str) = (
    "portway_localhost_refused_connections",
    "Connections and flows to NodePorts on localhost that were refused for want of room or file descriptors.",
);

impl Collector for Localhost {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stats) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(()) };
        let mut metric = encoder.encode_descriptor(LISTENERS.0, LISTENERS.1, None, MetricType::Gauge)?;
        for family in stats.families() {
            ConstGauge::new(stats.listeners(*family)).encode(metric.encode_family(&ByFamily::from(*family))?)?;
        }
        let mut metric = encoder.encode_descriptor(FAILURES.0, FAILURES.1, None, MetricType::Counter)?;
        for family in stats.families() {
            ConstCounter::new(stats.failures(*family)).encode(metric.encode_family(&ByFamily::from(*family))?)?;
        }
        let mut metric = encoder.encode_descriptor(OPEN.0, OPEN.1, None, MetricType::Gauge)?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            ConstGauge::new(stats.open(protocol)).encode(metric.encode_family(&ByProtocol::from(protocol))?)?;
        }
        let mut metric = encoder.encode_descriptor(REFUSED.0, REFUSED.1, None, MetricType::Counter)?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            ConstCounter::new(stats.refused(protocol)).encode(metric.encode_family(&ByProtocol::from(protocol))?)?;
        }
        Ok(())
    }
}
