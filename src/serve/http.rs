//! Requests and answers.

use std::net::SocketAddr;

use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

/// An answer.
pub(super) type Response = http::Response<Full<Bytes>>;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: Parts,
    /// Only if [`Routes::wants_body`].
    pub(super) body: Bytes,
    pub(super) peer: SocketAddr,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The Accept headers, joined.
    pub(super) fn accept(&self) -> Option<String> {
        let clauses: Vec<&str> =
            self.head.headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        if clauses.is_empty() { None } else { Some(clauses.join(",")) }
    }

    /// Whether the query has this key, with any value or none.
    pub(super) fn has_query(&self, key: &str) -> bool {
        let query = self.head.uri.query().unwrap_or_default();
        query.split('&').any(|pair| pair.split('=').next() == Some(key))
    }
}

/// A site.
pub(super) trait Routes: Clone + Send + Sync + 'static {
    /// Answers. Not async: everything is at hand.
    fn answer(&self, request: &Request) -> Response;

    /// Whether the body is needed for the answer.
    fn wants_body(&self, _: &Parts) -> bool {
        false
    }

    /// Whether a connection may bring more than one request.
    fn keeps_alive(&self) -> bool {
        true
    }
}

/// An answer of some type; browsers shall not guess another.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Text.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// JSON.
pub(super) fn json(status: StatusCode, body: String) -> Response {
    answer(status, "application/json", body)
}

/// Nothing here.
pub(super) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
