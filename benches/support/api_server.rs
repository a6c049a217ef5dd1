//! An API server that costs nothing: lists are serialised before anybody asks, changes are written from the caller's thread.
//!
//! It knows streaming lists and watches, over plain HTTP on the loopback interface of the caller's network namespace. It
//! runs in the benchmark's process, so that the program measured shares none of its memory or CPU time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use super::objects;
use crate::cluster;

/// The version of everything in a list.
const LIST_VERSION: u64 = 1_000_000;
/// What watches begin with.
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A streaming list, ready to be sent.
struct List {
    /// Each is written by itself, as a real server does.
    chunks: Vec<String>,
    /// Without HTTP's chunk heads.
    json_bytes: usize,
}

impl List {
    /// The end is marked by an object of the same kind: typed clients want that.
    fn new(api_version: &str, kind: &str, objects: impl Iterator<Item = Value>) -> Self {
        let mut list = Self { chunks: Vec::new(), json_bytes: 0 };
        objects.for_each(|object| list.push(&line("ADDED", &object)));
        let metadata = json!({"resourceVersion": LIST_VERSION.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}});
        list.push(&line("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})));
        list
    }

    fn push(&mut self, line: &str) {
        self.json_bytes += line.len();
        self.chunks.push(chunk(line));
    }
}

/// The server; its threads end with the process.
pub struct ApiServer {
    address: SocketAddr,
    lists: Arc<HashMap<&'static str, List>>,
    watchers: Arc<Mutex<HashMap<String, TcpStream>>>,
    version: u64,
    /// Of each Service, at first.
    endpoints: usize,
}

impl ApiServer {
    /// Serves a generated cluster. Call it in the network namespace it shall listen in.
    pub fn start(services: usize, endpoints: usize) -> Self {
        Self::start_with(services, endpoints, &json!({}))
    }

    /// The same with these annotations on each Service besides.
    pub fn start_with(services: usize, endpoints: usize, annotations: &Value) -> Self {
        let service = |n| {
            let mut service = objects::service(&cluster::service(n), LIST_VERSION);
            for (key, value) in annotations.as_object().into_iter().flatten() {
                service["metadata"]["annotations"][key] = value.clone();
            }
            service
        };
        let slices = (0..services).map(|n| objects::slice(&cluster::slice(n, endpoints, 0), LIST_VERSION));
        let lists = HashMap::from([
            ("services", List::new("v1", "Service", (0..services).map(service))),
            ("endpointslices", List::new("discovery.k8s.io/v1", "EndpointSlice", slices)),
            ("nodes", List::new("v1", "Node", [objects::node("node-0", LIST_VERSION)].into_iter())),
            ("servicecidrs", List::new("networking.k8s.io/v1", "ServiceCIDR", std::iter::empty())),
        ]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            lists: Arc::new(lists),
            watchers: Arc::default(),
            version: LIST_VERSION,
            endpoints,
        };
        let (lists, watchers) = (server.lists.clone(), server.watchers.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (lists, watchers) = (lists.clone(), watchers.clone());
                std::thread::spawn(move || answer(stream, &lists, &watchers));
            }
        });
        server
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// JSON bytes of a list.
    pub fn list_bytes(&self, plural: &str) -> usize {
        self.lists[plural].json_bytes
    }

    /// Sends a new version of a slice to whoever watches; when, and how many bytes of JSON.
    pub fn change(&mut self, n: usize, endpoints: usize, generation: usize) -> (Instant, usize) {
        self.version += 1;
        let object = objects::slice(&cluster::resized(n, self.endpoints, endpoints, generation), self.version);
        let line = line("MODIFIED", &object);
        let chunk = chunk(&line);
        let mut watchers = self.watchers.lock().expect("no panic with it");
        let stream = watchers.get_mut("endpointslices").expect("somebody watches slices");
        let sent = Instant::now();
        stream.write_all(chunk.as_bytes()).expect("the program reads its watch");
        (sent, line.len())
    }
}

/// Answers one connection, which ends as the watch of one kind.
fn answer(stream: TcpStream, lists: &HashMap<&'static str, List>, watchers: &Mutex<HashMap<String, TcpStream>>) {
    stream.set_nodelay(true).expect("TCP");
    let mut reader = BufReader::new(stream);
    // A client that hangs up is no fault.
    while let Some(request) = head(&mut reader) {
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plural = path.rsplit('/').next().unwrap_or_default();
        let stream = reader.get_mut();
        let Some(list) = lists.get(plural).filter(|_| query.contains("watch=")) else {
            // Nothing else is asked by a client that knows streaming lists.
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok();
            continue;
        };
        let chunks = if query.contains("sendInitialEvents=true") { &list.chunks[..] } else { &[] };
        let mut pieces = iter::once(HEAD).chain(chunks.iter().map(String::as_str));
        if pieces.try_for_each(|piece| stream.write_all(piece.as_bytes())).is_ok()
            && let Ok(copy) = stream.try_clone()
        {
            watchers.lock().expect("no panic with it").insert(plural.to_owned(), copy);
        }
    }
}

/// The first line of a request, once its headers are read.
fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut lines = reader.lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.take_while(|header| !header.is_empty()).for_each(drop);
    Some(request)
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn chunk(line: &str) -> String {
    format!("{:x}\r\n{line}\r\n", line.len())
}
