//! Requests to the API server, measured by a layer around the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::InspectFrame;
use hyper::body::{Body, Bytes, Frame};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::add;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: String,
    method: String,
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerb {
    verb: String,
    host: String,
}

/// The metrics of all requests to the API server.
#[derive(Debug, Clone)]
pub struct RestClientMetrics {
    requests: Labelled<ByCode, Counter>,
    duration: VerbHistograms,
    request_size: VerbHistograms,
    response_size: VerbHistograms,
}

type VerbHistograms = Labelled<ByVerb, Histogram>;

/// client-go's buckets for times.
fn seconds() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

/// client-go's buckets for sizes: 64 bytes to 16 MiB.
fn bytes() -> Histogram {
    Histogram::new([
        64.0,
        256.0,
        512.0,
        1024.0,
        4096.0,
        16384.0,
        65536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
        16_777_216.0,
    ])
}

impl RestClientMetrics {
    /// All at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("rest_client");
        let requests = add(registry, "requests", "Requests to the API server", Labelled::default());
        let mut histogram = |name, help, buckets: fn() -> Histogram| {
            add(registry, name, help, VerbHistograms::new_with_constructor(buckets))
        };
        Self {
            requests,
            duration: histogram("request_duration_seconds", "Time to the head of the answer", seconds),
            request_size: histogram("request_size_bytes", "Size of a request's body", bytes),
            response_size: histogram(
                "response_size_bytes",
                "Size of an answer's body, unpacked; not of watches",
                bytes,
            ),
        }
    }

    fn answered(&self, labels: &ByVerb, code: &str, start: Instant) {
        let ByVerb { verb, host } = labels.clone();
        self.requests.get_or_create(&ByCode { code: code.to_owned(), method: verb, host }).inc();
        self.duration.get_or_create(labels).observe(start.elapsed().as_secs_f64());
    }
}

/// Wraps the client's HTTP service: `ClientBuilder::with_layer`.
#[derive(Debug, Clone)]
pub struct RestClientLayer {
    metrics: RestClientMetrics,
    host: Option<String>,
}

impl RestClientLayer {
    /// Counts there.
    pub fn new(metrics: RestClientMetrics) -> Self {
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

/// An answer's body whose size is observed when it is dropped, read or not.
type Measured<B> = InspectFrame<B, Box<dyn FnMut(&Frame<Bytes>) + Send>>;

struct Size {
    bytes: usize,
    histogram: Histogram,
}

impl Drop for Size {
    fn drop(&mut self) {
        self.histogram.observe(self.bytes as f64);
    }
}

fn measured<B: Body<Data = Bytes>>(body: B, histogram: Option<Histogram>) -> Measured<B> {
    let mut size = histogram.map(|histogram| Size { bytes: 0, histogram });
    body.inspect_frame(Box::new(move |frame| {
        if let (Some(size), Some(data)) = (&mut size, frame.data_ref()) {
            size.bytes += data.len();
        }
    }))
}

impl<S, A, B> Service<Request<A>> for RestClientService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    A: Body,
    B: Body<Data = Bytes>,
{
    type Response = Response<Measured<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let host = request.uri().authority().map(ToString::to_string).or_else(|| self.layer.host.clone());
        let labels = ByVerb { verb: request.method().to_string(), host: host.unwrap_or_default() };
        let (metrics, start) = (self.layer.metrics.clone(), Instant::now());
        if let Some(size) = request.body().size_hint().exact() {
            metrics.request_size.get_or_create(&labels).observe(size as f64);
        }
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = answer.await;
            // client-go's word for a request without an answer.
            let status = result.as_ref().map(Response::status);
            metrics.answered(&labels, status.as_ref().map_or("<error>", |status| status.as_str()), start);
            let size = (!is_watch).then(|| metrics.response_size.get_or_create(&labels).clone());
            result.map(|response| response.map(|body| measured(body, size)))
        })
    }
}
