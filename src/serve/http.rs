//! Requests and answers.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::sync::Semaphore;

/// An answer.
pub(crate) type Response = http::Response<Full<Bytes>>;

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Parts,
    /// Only if [`Routes::wants_body`].
    pub(crate) body: Bytes,
    /// `None` over a unix socket.
    pub(crate) peer: Option<SocketAddr>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The Accept headers, joined.
    pub(crate) fn accept(&self) -> Option<String> {
        let clauses: Vec<&str> =
            self.head.headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        if clauses.is_empty() { None } else { Some(clauses.join(",")) }
    }

    /// Whether the query has this key, with any value or none.
    pub(crate) fn has_query(&self, key: &str) -> bool {
        self.query(key).is_some()
    }

    /// The value of a key of the query, as it is written; empty when it has none.
    pub(crate) fn query(&self, key: &str) -> Option<&str> {
        let pairs = self.head.uri.query().unwrap_or_default().split('&');
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find_map(|(k, value)| (k == key).then_some(value))
    }
}

/// What a server answers.
pub(crate) trait Routes: Clone + Send + Sync + 'static {
    /// Answers. Not async: everything is at hand, or there is a [`Routes::queue`].
    fn answer(&self, request: &Request) -> Response;

    /// For requests that take long, as those that ask the kernel: they are answered on a thread that may block, as many
    /// at a time as this has permits.
    fn queue(&self, _: &Parts) -> Option<Arc<Semaphore>> {
        None
    }

    /// Whether the body is needed for the answer.
    fn wants_body(&self, _: &Parts) -> bool {
        false
    }

    /// Whether a PROXY header may come first. What it says is ignored.
    fn skips_proxy_header(&self) -> bool {
        false
    }

    /// Whether a connection may bring more than one request.
    fn keeps_alive(&self) -> bool {
        true
    }
}

/// An answer of some type; browsers shall not guess another.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Text.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// JSON.
pub(crate) fn json(status: StatusCode, body: String) -> Response {
    answer(status, "application/json", body)
}

/// Nothing here.
pub(crate) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
