//! kube-proxy's metrics of NodePorts on localhost (KEP-6032), and our own, read when somebody asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::labels::{ByFamily, ByFamilyAndProtocol, ByProtocol};
use crate::localhost::Stats;
use crate::model::{Family, Protocol};
use crate::ruleset::KernelError;

/// Asks the kernel how many packets came for NodePorts on localhost that nobody can relay.
pub(super) type Rejected = Box<dyn FnMut(Family) -> Result<u64, KernelError> + Send>;

struct Shown {
    stats: Arc<Stats>,
    rejected: Rejected,
}

/// The counters of the relay, if there is one.
#[derive(Clone, Default)]
pub(super) struct Localhost(Arc<Mutex<Option<Shown>>>);

impl fmt::Debug for Localhost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Localhost").finish_non_exhaustive()
    }
}

impl Localhost {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register_collector(Box::new(this.clone()));
        this
    }

    pub(super) fn show(&self, stats: Arc<Stats>, rejected: Rejected) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown { stats, rejected });
    }
}

const LISTENERS: (&str, &str) =
    ("kubeproxy_nftables_localhost_nodeport_listeners", "NodePorts that are open on localhost.");
const FAILURES: (&str, &str) = (
    "kubeproxy_nftables_localhost_nodeport_listener_creation_failures",
    "Failed attempts to open a NodePort on localhost.",
);
const REJECTED: (&str, &str) = (
    "kubeproxy_nftables_localhost_nodeport_rejected_packets",
    "Packets to NodePorts on localhost of a protocol that is not relayed there.",
);
const OPEN: (&str, &str) =
    ("portway_localhost_connections", "Connections (TCP) and flows (UDP) to NodePorts on localhost that are open.");
const REFUSED: (&str, &str) = (
    "portway_localhost_refused_connections",
    "Connections and flows to NodePorts on localhost that were refused for want of room or file descriptors.",
);

impl Collector for Localhost {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Shown { stats, rejected }) = shown.as_mut() else { return Ok(()) };
        let mut metric = encoder.encode_descriptor(LISTENERS.0, LISTENERS.1, None, MetricType::Gauge)?;
        for family in stats.families() {
            ConstGauge::new(stats.listeners(*family)).encode(metric.encode_family(&ByFamily::from(*family))?)?;
        }
        let mut metric = encoder.encode_descriptor(FAILURES.0, FAILURES.1, None, MetricType::Counter)?;
        for family in stats.families() {
            ConstCounter::new(stats.failures(*family)).encode(metric.encode_family(&ByFamily::from(*family))?)?;
        }
        let mut metric = encoder.encode_descriptor(REJECTED.0, REJECTED.1, None, MetricType::Counter)?;
        for family in stats.families() {
            // A map is listed for that: not where there is nothing to count.
            let packets = if stats.has_unrelayed() { rejected(*family) } else { Ok(0) };
            match packets {
                Ok(packets) => {
                    let labels = ByFamilyAndProtocol::new(*family, Protocol::Sctp);
                    ConstCounter::new(packets).encode(metric.encode_family(&labels)?)?;
                }
                Err(cause) => tracing::debug!(%cause, "cannot read how many packets were rejected on localhost"),
            }
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
