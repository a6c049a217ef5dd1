//! A small API server: lists (paged), streaming lists, watches and selectors over real HTTP, and its usual failures.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// Namespace (empty if cluster-scoped) and name.
type Name = (String, String);

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The path, as `/api/v1/services`.
    pub path: String,
    /// The decoded query.
    pub query: BTreeMap<String, String>,
    /// The header `User-Agent`.
    pub user_agent: String,
    /// The header `Authorization`.
    pub authorization: String,
}

/// An object somebody wrote.
#[derive(Debug, Clone)]
pub struct Written {
    /// POST or PATCH.
    pub method: String,
    /// The path, as `/apis/events.k8s.io/v1/namespaces/default/events`.
    pub path: String,
    /// What was sent.
    pub body: Value,
}

impl Seen {
    /// A parameter of the query, or "".
    pub fn param(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether it asks for a streaming list.
    pub fn is_streaming_list(&self) -> bool {
        self.param("sendInitialEvents") == "true"
    }

    /// Whether it asks for a plain watch.
    pub fn is_watch(&self) -> bool {
        self.param("watch") == "true" && !self.is_streaming_list()
    }
}

/// One change of one object, or a line sent to watchers as it is.
#[derive(Debug, Clone)]
struct Change {
    version: u64,
    plural: String,
    old: Option<Value>,
    new: Option<Value>,
    raw: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    oldest: u64,
    objects: BTreeMap<String, BTreeMap<Name, Value>>,
    log: Vec<Change>,
    seen: Vec<Seen>,
    written: Vec<Written>,
    failures: BTreeMap<String, (u16, usize)>,
    hidden: BTreeSet<String>,
    refuse_streaming: bool,
    withhold_bookmark: bool,
    epoch: u64,
}

/// The server; it ends with the runtime.
#[derive(Clone)]
pub struct ApiDouble {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl ApiDouble {
    /// Listens on a free port of the loopback interface.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let double = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::new(Mutex::new(State { version: 100, ..State::default() })),
            changed: watch::Sender::new(()),
        };
        let server = double.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = server.clone();
                        async move {
                            let answer = match request.method().as_str() {
                                "GET" => server.answer(&request),
                                _ => server.take(request).await,
                            };
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    // Clients hang up as they like.
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        double
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or replaces an object, by its kind, namespace and name.
    pub fn put(&self, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let plural = format!("{}s", object["kind"].as_str().expect("a kind").to_lowercase());
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let name = (text("namespace"), text("name"));
        let old = state.objects.entry(plural.clone()).or_default().insert(name, object.clone());
        let version = state.version;
        state.log.push(Change { version, plural, old, new: Some(object), raw: None });
        drop(state);
        self.wake();
    }

    /// Deletes an object.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let objects = state.objects.get_mut(plural).expect("a known kind");
        let old = objects.remove(&(namespace.to_owned(), name.to_owned()));
        assert!(old.is_some(), "{plural} {namespace}/{name} does not exist");
        let version = state.version;
        state.log.push(Change { version, plural: plural.to_owned(), old, new: None, raw: None });
        drop(state);
        self.wake();
    }

    /// Sends a line to the present watchers of a kind.
    pub fn send_raw(&self, plural: &str, line: &str) {
        let mut state = self.lock();
        let (version, raw) = (state.version, Some(line.to_owned()));
        state.log.push(Change { version, plural: plural.to_owned(), old: None, new: None, raw });
        drop(state);
        self.wake();
    }

    /// Breaks all connections that carry a watch.
    pub fn drop_connections(&self) {
        self.lock().epoch += 1;
        self.wake();
    }

    /// Forgets the history: who wants to watch on from an older version must list anew.
    pub fn expire(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.oldest = state.version;
    }

    /// Answers streaming lists as a server without them does.
    pub fn refuse_streaming(&self) {
        self.lock().refuse_streaming = true;
    }

    /// Starts streaming lists but never ends them, as servers do that ignore the parameter.
    pub fn withhold_bookmarks(&self) {
        self.lock().withhold_bookmark = true;
    }

    /// Does not know this kind (or knows it again).
    pub fn hide(&self, plural: &str, hidden: bool) {
        let mut state = self.lock();
        if hidden {
            state.hidden.insert(plural.to_owned());
        } else {
            state.hidden.remove(plural);
        }
    }

    /// Answers the next requests for a kind with this status.
    pub fn fail(&self, plural: &str, code: u16, times: usize) {
        self.lock().failures.insert(plural.to_owned(), (code, times));
    }

    /// The requests for a kind so far.
    pub fn requests(&self, plural: &str) -> Vec<Seen> {
        let suffix = format!("/{plural}");
        self.lock().seen.iter().filter(|seen| seen.path.ends_with(&suffix)).cloned().collect()
    }

    /// The objects written so far.
    pub fn written(&self) -> Vec<Written> {
        self.lock().written.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let seen = Seen {
            path: request.uri().path().to_owned(),
            query: decode(request.uri().query().unwrap_or_default()),
            user_agent: header("user-agent").to_owned(),
            authorization: header("authorization").to_owned(),
        };
        let plural = seen.path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut state = self.lock();
        state.seen.push(seen.clone());
        if let Some((code, times)) = state.failures.get_mut(&plural).filter(|(_, times)| *times > 0) {
            *times -= 1;
            return status(*code, "made to fail");
        }
        if state.hidden.contains(&plural) {
            return status(404, "the server could not find the requested resource");
        }
        if seen.is_streaming_list() && state.refuse_streaming {
            return status(
                422,
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            );
        }
        if seen.param("watch") == "true" {
            drop(state);
            self.watch(plural, seen)
        } else {
            list(&state, &plural, &seen)
        }
    }

    /// Takes an object, and answers with it.
    async fn take(&self, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.expect("a whole request").to_bytes();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        self.lock().written.push(Written { method, path, body: body.clone() });
        respond(201, full(body.to_string()))
    }

    fn watch(&self, plural: String, seen: Seen) -> Response<Body> {
        let (lines, receiver) = mpsc::unbounded_channel::<Result<String, std::io::Error>>();
        let mut changed = self.changed.subscribe();
        let (mut position, epoch) = {
            let state = self.lock();
            let from: u64 = seen.param("resourceVersion").parse().unwrap_or(0);
            if seen.is_streaming_list() {
                for object in state.objects.get(&plural).into_iter().flat_map(BTreeMap::values) {
                    if matches(&seen, object) {
                        drop(lines.send(Ok(line("ADDED", object))));
                    }
                }
                if !state.withhold_bookmark {
                    let annotations = json!({"k8s.io/initial-events-end": "true"});
                    let metadata = json!({"resourceVersion": state.version.to_string(), "annotations": annotations});
                    let bookmark = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
                    drop(lines.send(Ok(line("BOOKMARK", &bookmark))));
                }
                (state.log.len(), state.epoch)
            } else {
                if from < state.oldest {
                    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                        "reason": "Expired", "message": "too old resource version"});
                    drop(lines.send(Ok(line("ERROR", &gone))));
                }
                (state.log.partition_point(|change| change.version <= from), state.epoch)
            }
        };
        let state = self.state.clone();
        tokio::spawn(async move {
            loop {
                {
                    let state = state.lock().expect("no test panicked with it");
                    if state.epoch != epoch {
                        drop(lines.send(Err(std::io::Error::other("cut"))));
                        return;
                    }
                    for change in state.log[position..].iter().filter(|change| change.plural == plural) {
                        if let Some(text) = describe(change, &seen)
                            && lines.send(Ok(text)).is_err()
                        {
                            return;
                        }
                    }
                    position = state.log.len();
                }
                tokio::select! {
                    () = lines.closed() => return,
                    changed = changed.changed() => if changed.is_err() { return },
                }
            }
        });
        let lines = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (line, receiver))
        });
        let frames = lines.map(|line| line.map(|text| Frame::data(Bytes::from(text))));
        respond(200, BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

/// The line a watcher with these selectors gets for a change, if any.
fn describe(change: &Change, seen: &Seen) -> Option<String> {
    if let Some(raw) = &change.raw {
        return Some(format!("{raw}\n"));
    }
    let before = change.old.as_ref().is_some_and(|object| matches(seen, object));
    let now = change.new.as_ref().filter(|object| matches(seen, object));
    let mut last = change.new.clone().or_else(|| change.old.clone())?;
    last["metadata"]["resourceVersion"] = json!(change.version.to_string());
    match (before, now) {
        (false, Some(object)) => Some(line("ADDED", object)),
        (true, Some(object)) => Some(line("MODIFIED", object)),
        (true, None) => Some(line("DELETED", &last)),
        (false, None) => None,
    }
}

/// The selectors this program uses: `!key` and `key=value` for labels, `=` and `!=` for fields.
fn matches(seen: &Seen, object: &Value) -> bool {
    let labels = seen.param("labelSelector").split(',').filter(|term| !term.is_empty()).all(|term| {
        let label = |key| object["metadata"]["labels"].get(key);
        match (term.strip_prefix('!'), term.split_once('=')) {
            (Some(key), _) => label(key).is_none(),
            (None, Some((key, value))) => label(key).and_then(Value::as_str) == Some(value),
            _ => panic!("label selector {term:?}"),
        }
    });
    let fields = seen.param("fieldSelector").split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, value) = term.split_once('=').unwrap_or_else(|| panic!("field selector {term:?}"));
        let (path, wanted) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
        let found = path.split('.').fold(object, |object, key| &object[key]);
        (found.as_str() == Some(value)) == wanted
    });
    labels && fields
}

fn list(state: &State, plural: &str, seen: &Seen) -> Response<Body> {
    let objects = state.objects.get(plural).into_iter().flat_map(BTreeMap::values);
    let all: Vec<&Value> = objects.filter(|object| matches(seen, object)).collect();
    let start: usize = seen.param("continue").parse().unwrap_or(0);
    let limit: usize = seen.param("limit").parse().unwrap_or(usize::MAX);
    let end = all.len().min(start.saturating_add(limit));
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if end < all.len() {
        metadata["continue"] = json!(end.to_string());
    }
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": &all[start..end]});
    respond(200, full(body.to_string()))
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "Test", "message": message});
    respond(code, full(body.to_string()))
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn respond(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    response
}

fn decode(query: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
            match (first, escaped) {
                (b'%', Some(byte)) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                    continue;
                }
                (b'+', _) => bytes.push(b' '),
                (other, _) => bytes.push(*other),
            }
            rest = tail;
        }
        String::from_utf8(bytes).expect("UTF-8")
    };
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (plain(key), plain(value))).collect()
}
