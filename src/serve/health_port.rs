//! The health port: load balancers and the kubelet ask here.

use std::sync::Arc;

use http::StatusCode;

use super::Sources;
use super::http::{Request, Response, Routes, json, not_found, text};
use crate::health::{Health, HealthAnswer};
use crate::metrics::Metrics;

#[derive(Debug, Clone)]
pub(super) struct HealthPort {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl HealthPort {
    pub(super) fn new(sources: &Sources) -> Self {
        Self { health: sources.health.clone(), metrics: sources.metrics.clone() }
    }
}

impl Routes for HealthPort {
    fn answer(&self, request: &Request) -> Response {
        match request.path() {
            "/healthz" => {
                let answer = self.health.healthz();
                self.metrics.answered_healthz(status(answer.ok).as_u16());
                response(answer)
            }
            "/livez" => {
                let answer = self.health.livez();
                self.metrics.answered_livez(status(answer.ok).as_u16());
                response(answer)
            }
            // Our own: for readiness probes.
            "/readyz" if self.health.is_ready() => text(StatusCode::OK, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "no sync has succeeded yet\n"),
            _ => not_found(),
        }
    }

    fn skips_proxy_header(&self) -> bool {
        true
    }
}

fn response(answer: HealthAnswer) -> Response {
    json(status(answer.ok), answer.body)
}

/// 200 or 503.
pub(super) fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
