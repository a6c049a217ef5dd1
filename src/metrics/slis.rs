//! `/metrics/slis`: how the health check of the metrics port went.

use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::text::{self, Format};

/// The results of health checks; empty until somebody asks for one.
#[derive(Debug)]
pub struct Slis(Mutex<Values>);

#[derive(Debug)]
struct Values {
    registry: Registry,
    check: Labelled<CheckLabels, Gauge>,
    checks: Labelled<OutcomeLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

impl Default for Slis {
    fn default() -> Self {
        Self(Mutex::new(Values::default()))
    }
}

impl Default for Values {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (check, checks) = (Labelled::default(), Labelled::default());
        registry.register("kubernetes_healthcheck", "Result of the last check: 1 is success", Labelled::clone(&check));
        registry.register("kubernetes_healthchecks", "Results of all checks", Labelled::clone(&checks));
        Self { registry, check, checks }
    }
}

impl Slis {
    /// The check `ping` of `/healthz` succeeded.
    pub fn pinged(&self) {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.check.get_or_create(&CheckLabels { name: "ping", r#type: "healthz" }).set(1);
        values.checks.get_or_create(&OutcomeLabels { name: "ping", status: "success", r#type: "healthz" }).inc();
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Values::default();
    }

    /// The exposition.
    pub fn encode(&self, format: Format) -> String {
        text::encode(&self.0.lock().unwrap_or_else(PoisonError::into_inner).registry, format)
    }
}
