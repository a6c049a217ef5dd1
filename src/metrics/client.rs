//! Requests to the API server, measured by a layer around the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::labels;
use super::sync::add;

#[derive(Debug, Clone)]
pub(super) struct RestClientMetrics {
    requests: Labelled<labels::Request, Counter>,
    duration: Labelled<labels::ByVerb, Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

impl RestClientMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("rest_client");
        let duration = Labelled::new_with_constructor(histogram as fn() -> Histogram);
        Self {
            requests: add(registry, "requests", "Requests to the API server", Labelled::default()),
            duration: add(registry, "request_duration_seconds", "Time to the head of the answer", duration),
        }
    }

    fn answered(&self, verb: &str, host: &str, code: &str, start: Instant) {
        let (verb, host) = (verb.to_owned(), host.to_owned());
        let request = labels::Request { code: code.to_owned(), method: verb.clone(), host: host.clone() };
        self.requests.get_or_create(&request).inc();
        self.duration.get_or_create(&labels::ByVerb { verb, host }).observe(start.elapsed().as_secs_f64());
    }
}

/// Wraps the client's HTTP service: `ClientBuilder::with_layer`.
#[derive(Debug, Clone)]
pub struct RestClientLayer {
    metrics: RestClientMetrics,
    host: Option<String>,
}

impl RestClientLayer {
    pub(super) fn new(metrics: RestClientMetrics) -> Self {
        Self { metrics, host: None }
    }

    /// For the client of this server: around the client, requests do not say yet where they go.
    #[must_use]
    pub fn for_server(&self, server: &http::Uri) -> Self {
        Self { host: server.authority().map(ToString::to_string), ..self.clone() }
    }
}

impl<S> Layer<S> for RestClientLayer {
    type Service = RestClientService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RestClientService { inner, layer: self.clone() }
    }
}

/// A service that counts and times requests.
#[derive(Debug, Clone)]
pub struct RestClientService<S> {
    inner: S,
    layer: RestClientLayer,
}

impl<S, A, B> Service<Request<A>> for RestClientService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let verb = request.method().to_string();
        let host = request.uri().authority().map(ToString::to_string).or_else(|| self.layer.host.clone());
        let host = host.unwrap_or_default();
        let (metrics, start) = (self.layer.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = answer.await;
            match &result {
                Ok(response) => metrics.answered(&verb, &host, response.status().as_str(), start),
                // client-go's word for a request without an answer.
                Err(_) => metrics.answered(&verb, &host, "<error>", start),
            }
            result
        })
    }
}
