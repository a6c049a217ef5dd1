//! What Portway answers over HTTP (specification 5.6 and 10): the health port, the metrics port, and the servers behind
//! `healthCheckNodePort`.
//!
//! Plain HTTP without authentication, as kube-proxy's: the health ports tell load balancers and the kubelet what they
//! need, and the metrics port is on loopback by default.

pub(crate) mod accept;
mod check_ports;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod health_port;
pub(crate) mod http;
mod listen;
mod metrics_port;
mod proxy_header;
mod runtimes;
mod zpages;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

pub use check_ports::CheckPorts;
pub use runtimes::Runtimes;

use self::accept::ConnectionSlots;
use self::health_port::HealthPort;
use self::http::Routes;
use self::metrics_port::MetricsPort;
use crate::events::{EventSink, EventWanted};
use crate::health::Health;
use crate::logging::LogLevel;
use crate::metrics::Metrics;

/// Before a server is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Where to serve what.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// `healthzBindAddress`; `None` for no health port.
    pub health: Option<SocketAddr>,
    /// `metricsBindAddress`; `None` for no metrics port.
    pub metrics: Option<SocketAddr>,
    /// `bindAddressHardFail`: a server that cannot listen ends the process.
    pub hard_fail: bool,
    /// `enableProfiling`.
    pub profiling: bool,
    /// The configuration in force, as KubeProxyConfiguration with `kind` and `apiVersion`.
    pub configz: serde_json::Value,
    /// Flags and their values.
    pub flagz: Vec<(String, String)>,
    /// Feature gate ComponentFlagz: serve them on `/flagz`.
    pub has_flagz: bool,
    /// Feature gate ComponentStatusz: serve `/statusz`.
    pub statusz: bool,
}

impl Default for ServeOptions {
    /// kube-proxy's defaults.
    fn default() -> Self {
        Self {
            health: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
            hard_fail: false,
            profiling: false,
            configz: serde_json::Value::Null,
            flagz: Vec::new(),
            has_flagz: true,
            statusz: true,
        }
    }
}

/// What the servers report.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Health.
    pub health: Arc<Health>,
    /// The log's level; `None` when it cannot be changed.
    pub log: Option<LogLevel>,
    /// Where Kubernetes Events go.
    pub events: EventSink,
}

/// A server could not listen although it must.
#[derive(Debug, thiserror::Error)]
#[error("the {name} server cannot listen on {address}: {cause}; free the port, or choose another address")]
pub struct ServeError {
    /// `health` or `metrics`.
    pub name: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub cause: io::Error,
}

/// Serves until the runtimes end. The future ends only when a server has failed for good, with
/// [`ServeOptions::hard_fail`].
pub fn serve(options: ServeOptions, sources: Sources, runtimes: &Runtimes) -> impl Future<Output = ServeError> + use<> {
    let health = runtimes.vital.spawn(serve_health(options.clone(), sources.clone()));
    let metrics = runtimes.operator.spawn(serve_metrics(options, sources));
    async {
        tokio::select! {
            Ok(error) = health => error,
            Ok(error) = metrics => error,
            else => never().await,
        }
    }
}

async fn serve_health(options: ServeOptions, sources: Sources) -> ServeError {
    let port = HealthPort::new(&sources);
    let event = |cause| EventWanted::HealthServerFailed { cause };
    keep_up("health", options.health, options.hard_fail, port, &sources.events, event).await
}

async fn serve_metrics(options: ServeOptions, sources: Sources) -> ServeError {
    let (address, hard_fail) = (options.metrics, options.hard_fail);
    let port = MetricsPort::new(options, &sources);
    let event = |cause| EventWanted::MetricsServerFailed { cause };
    keep_up("metrics", address, hard_fail, port, &sources.events, event).await
}

/// Keeps one server up.
async fn keep_up<R: Routes>(
    name: &'static str,
    address: Option<SocketAddr>,
    hard_fail: bool,
    routes: R,
    events: &EventSink,
    event: impl Fn(String) -> EventWanted,
) -> ServeError {
    let Some(address) = address else { return never().await };
    let mut complained = false;
    loop {
        match listen::on(address) {
            Ok(listener) => {
                info!(%address, "the {name} server listens");
                return accept::serve(listener, routes, ConnectionSlots::default()).await;
            }
            Err(cause) if hard_fail => {
                events.wanted(event(cause.to_string()));
                return ServeError { name, address, cause };
            }
            Err(cause) => {
                // Once is enough: the next line about it says that it works.
                if !std::mem::replace(&mut complained, true) {
                    warn!(%address, %cause, "the {name} server cannot listen; trying again every {} s", RETRY.as_secs());
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn never() -> impl Future<Output = ServeError> {
    std::future::pending()
}

#[cfg(test)]
mod tests;
