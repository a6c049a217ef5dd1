//! Events that somebody should create in the cluster (specification 11.1).

use std::fmt;

use crate::model::ObjectKey;

/// An event worth creating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventWanted {
    /// Regarding the Node: FailedToStartProxierHealthcheck.
    HealthServerFailed {
        /// What the system said.
        cause: String,
    },
    /// Regarding the Node: FailedToStartMetricServer.
    MetricsServerFailed {
        /// What the system said.
        cause: String,
    },
    /// Regarding a Service: FailedToStartServiceHealthcheck.
    ServiceHealthCheckFailed {
        /// The Service.
        service: ObjectKey,
        /// Its health check port.
        port: u16,
        /// What the system said.
        cause: String,
    },
}

/// Takes events. Called from servers, so it must not wait; losing one does no harm.
pub trait EventSink: Send + Sync + fmt::Debug {
    /// This happened.
    fn wanted(&self, event: EventWanted);
}

/// Creates no events: the log says it all.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOnly;

impl EventSink for LogOnly {
    fn wanted(&self, _: EventWanted) {}
}
