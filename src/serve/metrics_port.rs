//! The metrics port: Prometheus and people on the node ask here.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONTENT_TYPE, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tokio::sync::Semaphore;

use super::http::{Request, Response, Routes, answer, json, not_found, text};
use super::zpages::{self, Page};
use super::{ServeOptions, Sources};
use crate::logging::{LogLevel, filter_of};
use crate::metrics::{Format, Metrics};

/// What `/statusz` lists, besides what a feature gate turns off.
const PATHS: [&str; 8] =
    ["/configz", "/debug/loglevel", FLAGZ, "/healthz", "/metrics", "/metrics/slis", "/proxyMode", STATUSZ];
const STATUSZ: &str = "/statusz";
const FLAGZ: &str = "/flagz";

#[derive(Debug, Clone)]
pub(super) struct MetricsPort {
    metrics: Arc<Metrics>,
    log: Option<LogLevel>,
    options: Arc<ServeOptions>,
    /// Of scrapes: they may ask the kernel.
    queue: Arc<Semaphore>,
}

impl MetricsPort {
    pub(super) fn new(mut options: ServeOptions, sources: &Sources) -> Self {
        options.flagz.sort();
        Self {
            metrics: sources.metrics.clone(),
            log: sources.log.clone(),
            options: Arc::new(options),
            queue: Arc::new(Semaphore::new(1)),
        }
    }

    fn exposition(&self, request: &Request, encode: impl FnOnce(Format) -> String) -> Response {
        let format = Format::accepted(request.accept().as_deref());
        let mut response = answer(StatusCode::OK, format.content_type(), encode(format));
        let started = self.metrics.started().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        response.headers_mut().insert("process-start-time-unix", HeaderValue::from(started.as_secs()));
        response
    }

    fn healthz(&self, request: &Request) -> Response {
        self.metrics.slis().pinged();
        if request.has_query("verbose") {
            text(StatusCode::OK, "[+]ping ok\nhealthz check passed\n")
        } else {
            text(StatusCode::OK, "ok")
        }
    }

    fn slis(&self, request: &Request) -> Response {
        if request.head.method == Method::DELETE {
            self.metrics.slis().reset();
            return text(StatusCode::OK, "metrics reset\n");
        }
        self.exposition(request, |format| self.metrics.slis().encode(format))
    }

    fn configz(&self) -> Response {
        json(StatusCode::OK, serde_json::json!({"kubeproxy.config.k8s.io": self.options.configz}).to_string())
    }

    fn log_level(&self, request: &Request) -> Response {
        let Some(log) = self.changeable_log(request) else { return forbidden() };
        if !is_change(&request.head.method) {
            return text(StatusCode::OK, format!("{}\n", log.get()));
        }
        match log.set(&String::from_utf8_lossy(&request.body)) {
            Ok(()) => {
                tracing::warn!(level = log.get(), "the log's level was changed");
                text(StatusCode::OK, format!("{}\n", log.get()))
            }
            Err(cause) => text(StatusCode::BAD_REQUEST, format!("{cause}\n")),
        }
    }

    /// klog's verbosity, as kube-proxy takes it.
    fn verbosity(&self, request: &Request) -> Response {
        if request.head.method != Method::PUT {
            return text(StatusCode::NOT_ACCEPTABLE, "unsupported http method");
        }
        let Some(log) = self.changeable_log(request) else { return forbidden() };
        let body = String::from_utf8_lossy(&request.body);
        let set = |verbosity: i32| log.set(filter_of(u32::try_from(verbosity.clamp(0, 10)).unwrap_or(0)));
        match body.trim().parse::<i32>().map_err(|cause| cause.to_string()).map(set) {
            Ok(Ok(())) => text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {}", body.trim())),
            Ok(Err(cause)) => text(StatusCode::BAD_REQUEST, cause.to_string()),
            Err(cause) => {
                let body = body.trim();
                text(StatusCode::BAD_REQUEST, format!("failed to set klog.logging.verbosity {body}: {cause}"))
            }
        }
    }

    /// Only people and programs on this host, and no web page in a browser on it, may touch the log.
    fn changeable_log(&self, request: &Request) -> Option<&LogLevel> {
        let is_here = request.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        let allowed = is_here && !request.head.headers.contains_key(ORIGIN);
        self.log.as_ref().filter(|_| allowed)
    }
}

impl Routes for MetricsPort {
    fn answer(&self, request: &Request) -> Response {
        match request.path() {
            "/metrics" => self.exposition(request, |format| self.metrics.encode(format)),
            "/metrics/slis" => self.slis(request),
            "/healthz" => self.healthz(request),
            "/healthz/ping" => text(StatusCode::OK, "ok"),
            "/proxyMode" => {
                let mut response = text(StatusCode::OK, "nftables");
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                response
            }
            "/configz" => self.configz(),
            STATUSZ if self.options.statusz => {
                let paths: Vec<&str> =
                    PATHS.into_iter().filter(|path| *path != FLAGZ || self.options.has_flagz).collect();
                zpages::respond(&Page::status(self.metrics.started(), &paths), request.accept().as_deref())
            }
            FLAGZ if self.options.has_flagz => {
                zpages::respond(&Page::flags(&self.options.flagz), request.accept().as_deref())
            }
            "/debug/loglevel" => self.log_level(request),
            "/debug/flags/v" if self.options.profiling => self.verbosity(request),
            path if self.options.profiling && path.starts_with("/debug/pprof") => {
                text(StatusCode::NOT_IMPLEMENTED, "this is no Go program: profile it with perf\n")
            }
            _ => not_found(),
        }
    }

    fn queue(&self, head: &Parts) -> Option<Arc<Semaphore>> {
        (head.uri.path() == "/metrics").then(|| self.queue.clone())
    }

    fn wants_body(&self, head: &Parts) -> bool {
        is_change(&head.method) && head.uri.path().starts_with("/debug/")
    }
}

fn is_change(method: &Method) -> bool {
    matches!(*method, Method::PUT | Method::POST)
}

fn forbidden() -> Response {
    text(StatusCode::FORBIDDEN, "only from this host itself\n")
}
