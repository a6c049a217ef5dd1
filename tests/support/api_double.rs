//! A small API server: lists, streaming lists, watches and selectors over real HTTP and TLS, and its usual
//! failures.

pub mod compress;
pub mod delivery;
mod server;
pub mod tls;
pub mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use compress::{Encoder, Gzip};
use delivery::{Delivery, Hangup, Sink};
use traffic::Traffic;

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
    /// The header `Accept`.
    pub accept: String,
    /// The version of HTTP.
    pub http: hyper::Version,
    /// When it came.
    pub at: Instant,
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

    /// Whether it asks for all objects without watching on, or for a page of them.
    pub fn is_plain_list(&self) -> bool {
        self.param("watch") != "true" && !self.is_question()
    }

    /// Whether it only asks which version is the present one.
    pub fn is_question(&self) -> bool {
        self.param("limit") == "1"
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

/// The next answers for a kind.
#[derive(Debug, Clone, Copy)]
struct Failure {
    code: u16,
    times: usize,
    retry_after: Option<u64>,
}

#[derive(Debug)]
struct State {
    version: u64,
    oldest: u64,
    objects: BTreeMap<String, BTreeMap<Name, Value>>,
    log: Vec<Change>,
    seen: Vec<Seen>,
    written: Vec<Written>,
    opened: BTreeMap<String, usize>,
    failures: BTreeMap<String, Failure>,
    hidden: BTreeSet<String>,
    refuse_streaming: bool,
    withhold_bookmark: bool,
    token: Option<String>,
    delivery: Delivery,
    gzip: Gzip,
    drops_managed_fields: bool,
    epoch: u64,
}

/// Where the server listens.
#[derive(Default)]
struct Listening {
    scheme: &'static str,
    address: Option<SocketAddr>,
    tls: Option<TlsAcceptor>,
    serving: Option<JoinHandle<()>>,
}

/// The server; it ends with the runtime.
#[derive(Clone)]
pub struct ApiDouble {
    state: Arc<Mutex<State>>,
    listening: Arc<Mutex<Listening>>,
    changed: watch::Sender<()>,
    traffic: Traffic,
}

impl Default for ApiDouble {
    fn default() -> Self {
        let state = State {
            version: 100,
            oldest: 0,
            objects: BTreeMap::new(),
            log: Vec::new(),
            seen: Vec::new(),
            written: Vec::new(),
            opened: BTreeMap::new(),
            failures: BTreeMap::new(),
            hidden: BTreeSet::new(),
            refuse_streaming: false,
            withhold_bookmark: false,
            token: None,
            delivery: Delivery::Good,
            gzip: Gzip::Never,
            drops_managed_fields: false,
            epoch: 0,
        };
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::Sender::new(()));
        Self { state, listening: Arc::default(), changed, traffic: Traffic::default() }
    }
}

/// All objects at a certain version.
#[derive(Debug)]
pub struct Backup {
    version: u64,
    objects: BTreeMap<String, BTreeMap<Name, Value>>,
}

impl ApiDouble {
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

    /// Breaks all connections.
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

    /// Sends a bookmark to the present watchers of a kind.
    pub fn bookmark(&self, plural: &str) {
        let version = self.lock().version;
        self.send_raw(plural, line("BOOKMARK", &bookmark(plural, version, json!({}))).trim_end());
    }

    /// Tells the present watchers of a kind that their history is lost, as a server does within a watch.
    pub fn send_gone(&self, plural: &str) {
        self.send_raw(plural, line("ERROR", &gone()).trim_end());
    }

    /// Remembers what is there.
    pub fn backup(&self) -> Backup {
        let state = self.lock();
        Backup { version: state.version, objects: state.objects.clone() }
    }

    /// All objects.
    pub fn objects(&self) -> Vec<Value> {
        self.lock().objects.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Goes back to what was there, and to its version, with all connections broken. Who then watches on from a version
    /// that does not exist yet hears nothing, as with real servers.
    pub fn restore(&self, backup: Backup) {
        let mut state = self.lock();
        state.log.retain(|change| change.version <= backup.version);
        (state.version, state.objects) = (backup.version, backup.objects);
        state.epoch += 1;
        drop(state);
        self.wake();
    }

    /// Comes back from an older backup with what is there now: its versions are less by so many, and it has no history.
    pub fn rewind(&self, by: u64) {
        let mut state = self.lock();
        state.version -= by;
        state.oldest = 0;
        state.log.clear();
        state.epoch += 1;
        drop(state);
        self.wake();
    }

    /// Lets only requests with this bearer token in.
    pub fn require_token(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    /// What goes wrong with answers from now on.
    pub fn deliver(&self, delivery: Delivery) {
        self.lock().delivery = delivery;
        self.wake();
    }

    /// Compresses answers from now on, for those who ask for it.
    pub fn compress(&self, gzip: Gzip) {
        self.lock().gzip = gzip;
    }

    /// Leaves managedFields out for those who ask for it, as Kubernetes from 1.37 on does with its gate.
    pub fn drop_managed_fields(&self) {
        self.lock().drops_managed_fields = true;
    }

    /// Sockets and bytes so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// Watches of a kind that were opened so far, streaming lists included.
    pub fn opened(&self, plural: &str) -> usize {
        self.lock().opened.get(plural).copied().unwrap_or_default()
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
        self.lock().failures.insert(plural.to_owned(), Failure { code, times, retry_after: None });
    }

    /// Answers the next request for a kind with 429 and asks to come back in so many seconds.
    pub fn overload(&self, plural: &str, seconds: u64) {
        let failure = Failure { code: 429, times: 1, retry_after: Some(seconds) };
        self.lock().failures.insert(plural.to_owned(), failure);
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

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.lock().seen.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().expect("no test panicked with it")
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let seen = Seen {
            path: request.uri().path().to_owned(),
            query: decode(request.uri().query().unwrap_or_default()),
            user_agent: header("user-agent").to_owned(),
            authorization: header("authorization").to_owned(),
            accept: header("accept").to_owned(),
            http: request.version(),
            at: Instant::now(),
        };
        let plural = seen.path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut state = self.lock();
        state.seen.push(seen.clone());
        if state.token.as_ref().is_some_and(|token| header("authorization") != format!("Bearer {token}")) {
            return status(401, "Unauthorized");
        }
        if let Some(failure) = state.failures.get_mut(&plural).filter(|failure| failure.times > 0) {
            failure.times -= 1;
            let mut response = status(failure.code, "made to fail");
            if let Some(seconds) = failure.retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            return response;
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
        let wants = header("accept-encoding").contains("gzip");
        let is_list = seen.param("watch") != "true";
        let encoder = Encoder::new(state.gzip, is_list).filter(|_| wants && (is_list || seen.is_streaming_list()));
        let (mut sink, response) = Sink::new(encoder);
        if is_list {
            let (double, text) = (self.clone(), list(&state, &plural, &seen));
            tokio::spawn(async move { drop(sink.send(&double, &text).await) });
        } else {
            drop(state);
            tokio::spawn(self.clone().watch(plural, seen, sink));
        }
        response
    }

    /// Takes an object, and answers with it.
    async fn take(&self, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.expect("a whole request").to_bytes();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let mut state = self.lock();
        let name = &body["metadata"]["name"];
        let is_same = |one: &Written| one.method == method && one.path == path && one.body["metadata"]["name"] == *name;
        if method == "POST" && state.written.iter().any(is_same) {
            return status(409, "it is there already");
        }
        state.written.push(Written { method, path, body: body.clone() });
        respond(201, full(body.to_string()))
    }

    async fn watch(self, plural: String, seen: Seen, mut sink: Sink) {
        // A line that cannot be sent ends the answer.
        drop(self.try_watch(&plural, &seen, &mut sink).await);
    }

    async fn try_watch(&self, plural: &str, seen: &Seen, sink: &mut Sink) -> Result<(), Hangup> {
        let slim = self.lock().drops_managed_fields && seen.accept.contains(";drop=metadata.managedFields");
        let mut changed = self.changed.subscribe();
        let from: u64 = seen.param("resourceVersion").parse().unwrap_or(0);
        let mut lines = Vec::new();
        let (mut position, epoch) = {
            let mut state = self.lock();
            *state.opened.entry(plural.to_owned()).or_default() += 1;
            if seen.is_streaming_list() {
                let objects = state.objects.get(plural).into_iter().flat_map(BTreeMap::values);
                let objects = objects.filter(|object| matches(seen, object));
                lines.extend(objects.map(|object| line("ADDED", &shown(object, slim))));
                if !state.withhold_bookmark {
                    let annotations = json!({"k8s.io/initial-events-end": "true"});
                    lines.push(line("BOOKMARK", &bookmark(plural, state.version, annotations)));
                }
                (state.log.len(), state.epoch)
            } else {
                if from < state.oldest {
                    lines.push(line("ERROR", &gone()));
                }
                (state.log.partition_point(|change| change.version <= from), state.epoch)
            }
        };
        loop {
            for text in lines.drain(..) {
                sink.send(self, &text).await?;
            }
            {
                let state = self.lock();
                if state.epoch == epoch {
                    let changes = state.log[position..].iter().filter(|change| change.plural == plural);
                    // A watch hears nothing of versions that were there before its own.
                    let changes = changes.filter(|change| change.raw.is_some() || change.version > from);
                    lines.extend(changes.filter_map(|change| describe(change, seen, slim)));
                    position = state.log.len();
                    if lines.is_empty() && state.delivery == Delivery::Brief {
                        return Ok(());
                    }
                }
            }
            if !lines.is_empty() {
                continue;
            }
            if self.lock().epoch != epoch {
                sink.cut().await;
                return Ok(());
            }
            tokio::select! {
                () = sink.closed() => return Ok(()),
                changed = changed.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

fn bookmark(plural: &str, version: u64, annotations: Value) -> Value {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    let (api_version, kind) = type_of(plural);
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
}

/// API version and kind of objects. Portway does not look at them, kube-proxy does.
fn type_of(plural: &str) -> (&'static str, &'static str) {
    match plural {
        "services" => ("v1", "Service"),
        "nodes" => ("v1", "Node"),
        "endpointslices" => ("discovery.k8s.io/v1", "EndpointSlice"),
        "servicecidrs" => ("networking.k8s.io/v1", "ServiceCIDR"),
        _ => ("v1", "Any"),
    }
}

fn gone() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version"})
}

/// The line a watcher with these selectors gets for a change, if any.
fn describe(change: &Change, seen: &Seen, slim: bool) -> Option<String> {
    if let Some(raw) = &change.raw {
        return Some(format!("{raw}\n"));
    }
    let before = change.old.as_ref().is_some_and(|object| matches(seen, object));
    let now = change.new.as_ref().filter(|object| matches(seen, object));
    let mut last = change.new.clone().or_else(|| change.old.clone())?;
    last["metadata"]["resourceVersion"] = json!(change.version.to_string());
    match (before, now) {
        (false, Some(object)) => Some(line("ADDED", &shown(object, slim))),
        (true, Some(object)) => Some(line("MODIFIED", &shown(object, slim))),
        (true, None) => Some(line("DELETED", &shown(&last, slim))),
        (false, None) => None,
    }
}

/// An object as it is sent.
fn shown(object: &Value, slim: bool) -> Value {
    let mut object = object.clone();
    if slim && let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
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

fn list(state: &State, plural: &str, seen: &Seen) -> String {
    let objects = state.objects.get(plural).into_iter().flat_map(BTreeMap::values);
    let all: Vec<&Value> = objects.filter(|object| matches(seen, object)).collect();
    let limit: usize = seen.param("limit").parse().unwrap_or(usize::MAX);
    let end = all.len().min(limit);
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if end < all.len() {
        metadata["continue"] = json!(end.to_string());
    }
    let (api_version, kind) = type_of(plural);
    let kind = format!("{kind}List");
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": &all[..end]}).to_string()
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
