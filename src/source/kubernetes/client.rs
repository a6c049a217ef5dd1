//! The way to the API server: TCP, TLS, credentials, and how long to wait for what.
//!
//! kube's own client waits for ever for an answer, does not notice for five minutes that a server has disappeared without
//! closing its connections, and does not expose `Retry-After`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Bytes};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tokio::net::TcpStream;
use tower::util::{BoxCloneSyncService, MapRequestLayer};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_http::timeout::TimeoutBody;

use super::gunzip;
use super::timing::Timing;
use super::token::TokenFile;
use crate::instruments::RestClientLayer;

/// The server ends a watch when its time is over, give or take this much.
pub(super) const WATCH_MARGIN: Duration = Duration::from_secs(5);
/// Bytes read from a connection at once; the head of an answer has to fit.
const READ_BUFFER: usize = 64 * 1024;
/// Bytes of one answer that may be under way on an HTTP/2 connection: 50 MB a second at 10 ms.
const STREAM_WINDOW: u32 = 512 * 1024;
/// The same of all answers: those that nobody reads just now do not stop the others.
const WINDOW: u32 = 8 * STREAM_WINDOW;
/// KEP-5958, from Kubernetes 1.37 on.
const WITHOUT_MANAGED_FIELDS: HeaderValue =
    HeaderValue::from_static("application/json;drop=metadata.managedFields,application/json");
/// The longest `Retry-After` that is obeyed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Makes a client; with a token file, its token goes with each request; with a layer, requests are measured.
pub(super) fn build(
    config: &Config,
    token: Option<TokenFile>,
    proxy: Option<&Intercept>,
    timing: &Timing,
    measure: Option<&RestClientLayer>,
) -> kube::Result<Client> {
    let sign = token.map(|token| MapRequestLayer::new(move |request| token.sign(request)));
    let connector =
        ServiceBuilder::new().map_future(Box::pin).timeout(timing.connect).service(secure(config, way(proxy, timing))?);
    let service = ServiceBuilder::new()
        .layer_fn(|inner| Patient { inner, timing: timing.clone() })
        .option_layer(measure.map(|layer| ServiceBuilder::new().map_response(plain).layer(layer)))
        .map_response(plain)
        .layer(config.base_uri_layer())
        .map_request(ask_for_little)
        .map_response(gunzip::plain)
        .option_layer(sign)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http(timing).build(connector));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// HTTP/2, or HTTP/1.1 where TLS says so or there is none.
fn http(timing: &Timing) -> Builder {
    let mut http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    // Each watch of HTTP/1.1 keeps the buffer its list was read with.
    http.http1_max_buf_size(READ_BUFFER);
    http.http2_initial_stream_window_size(STREAM_WINDOW).http2_initial_connection_window_size(WINDOW);
    http.http2_keep_alive_interval(timing.ping).http2_keep_alive_timeout(timing.ping).http2_keep_alive_while_idle(true);
    // The connection that carries the watches serves the next ones too, however long it was not asked for any.
    http.timer(TokioTimer::new()).pool_idle_timeout(None);
    http
}

/// TLS as the configuration wants it, with a choice of HTTP/2: kube's own connector speaks HTTP/1.1 only.
fn secure<C>(config: &Config, connector: C) -> kube::Result<HttpsConnector<C>> {
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|error| kube::Error::Service(Box::new(error)))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().enable_http2().wrap_connector(connector))
}

/// Asks the server to compress answers and to leave out managed fields. Servers that cannot do so ignore it.
fn ask_for_little<B>(mut request: Request<B>) -> Request<B> {
    if request.method() == Method::GET {
        request.headers_mut().insert(header::ACCEPT_ENCODING, gunzip::GZIP);
        request.headers_mut().entry(header::ACCEPT).or_insert(WITHOUT_MANAGED_FIELDS);
    }
    request
}

/// An answer whose body hides the layers it came through.
fn plain<B>(answer: Response<B>) -> Response<UnsyncBoxBody<Bytes, BoxError>>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    answer.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// To the server, or to a proxy and through it. TCP does not show that a server behind a live proxy is dead: missing
/// bookmarks do ([`Timing::bookmarks`]).
fn way(proxy: Option<&Intercept>, timing: &Timing) -> BoxCloneSyncService<Uri, TokioIo<TcpStream>, BoxError> {
    let tcp = tcp(timing);
    let Some(proxy) = proxy else { return BoxCloneSyncService::new(tcp.map_err(BoxError::from)) };
    let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(credentials.clone());
    }
    BoxCloneSyncService::new(tunnel.map_err(BoxError::from))
}

/// Names are resolved, and all their addresses tried, for every new connection.
fn tcp(timing: &Timing) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // For all addresses of a name together.
    tcp.set_connect_timeout(Some(timing.connect * 2 / 5));
    let probes = timing.silence / 6;
    tcp.set_keepalive(Some((probes * 3).max(Duration::from_secs(1))));
    tcp.set_keepalive_interval(Some(probes.max(Duration::from_secs(1))));
    tcp.set_keepalive_retries(Some(3));
    // Keepalive alone does not watch over data that was sent and not acknowledged.
    tcp.set_tcp_user_timeout(Some(timing.silence));
    tcp
}

/// Why a request has no answer that could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the API server answered {code} and asks to come back after {wait:?}")]
    Busy { code: StatusCode, wait: Duration },
}

/// Limits the wait for answers and for the pieces of their bodies.
struct Patient<S> {
    inner: S,
    timing: Timing,
}

impl<S, B> Service<Request<Body>> for Patient<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<TimeoutBody<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let pieces = if is_watch { self.timing.watch + WATCH_MARGIN } else { self.timing.list };
        let limit = self.timing.answer;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = tokio::time::timeout(limit, answer).await.map_err(|_| NoAnswer::Late(limit))?;
            let answer = answer.map_err(Into::into)?;
            if let Some(wait) = retry_after(&answer) {
                return Err(NoAnswer::Busy { code: answer.status(), wait }.into());
            }
            Ok(answer.map(|body| TimeoutBody::new(pieces, body)))
        })
    }
}

/// What an overloaded server asks for. Dates instead of seconds are not used by API servers.
fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    if !matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_overloaded_servers_may_ask_for_patience_and_not_for_ever() {
        let wait = |code: u16, value: &str| {
            let answer = Response::builder().status(code).header(header::RETRY_AFTER, value);
            retry_after(&answer.body(()).expect("an answer"))
        };
        assert_eq!(wait(429, "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait(503, "18446744073709551615"), Some(LONGEST_WAIT));
        assert_eq!([wait(200, "3"), wait(429, "Fri, 31 Dec 1999 23:59:59 GMT"), wait(429, "-1")], [None; 3]);
    }
}
