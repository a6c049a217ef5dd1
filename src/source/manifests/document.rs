//! One file of manifests: its documents, the objects in them, and where the faults are.

use std::cell::Cell;

use serde::de::{DeserializeOwned, Error as _};
use serde_json::de::StrRead;
use serde_yaml::Value;
use serde_yaml::value::Mapping;

use super::locate::{PathStep, line_of, steps};
use super::unknown;
use crate::source::api;
use crate::source::problem::Problem;
use crate::yaml::split;

/// Faults of one document whose exact lines are looked up, which costs a parse each; more get the document's line.
const LOOKUPS: u32 = 20;

/// An object of a kind that is read.
#[derive(Debug)]
pub(super) enum Object {
    Service(api::Service),
    Slice(api::EndpointSlice),
    Node(api::Node),
    Cidr(api::ServiceCidr),
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// The good objects and the lines their documents begin at.
    pub(super) objects: Vec<(usize, Object)>,
    /// The documents and list items that cannot be read.
    pub(super) broken: Vec<Problem>,
    /// Fields of good objects that are not read because there are none of that name.
    pub(super) notes: Vec<Problem>,
    /// Objects of kinds that are not read.
    pub(super) unread: Vec<Unread>,
}

/// An object of a kind that is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) line: usize,
    /// `Deployment`; with the group's version where the kind alone misleads, as in `serving.knative.dev/v1 Service`.
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Reads all documents of a file; `file` is its name for messages.
pub(super) fn parse(file: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file.ends_with(".json") {
        parse_json(file, text, &mut parsed);
    } else {
        for (line, document) in split(text) {
            Document::new(file, line, document).parse_yaml(&mut parsed);
        }
    }
    parsed
}

fn parse_json(file: &str, text: &str, parsed: &mut Parsed) {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let start = next_json(text, &stream);
        let line = 1 + text[..start].matches('\n').count();
        match stream.next() {
            None => return,
            Some(Ok(value)) => {
                let end = stream.byte_offset();
                Document::new(file, line, &text[start..end]).read(value, &mut Vec::new(), None, parsed);
            }
            Some(Err(error)) => {
                let message = format!("not valid JSON: {error}; the rest of the file is left out");
                parsed.broken.push(Problem::at(format!("{file}:{}", error.line()), "", message));
                return;
            }
        }
    }
}

fn next_json(text: &str, stream: &serde_json::StreamDeserializer<'_, StrRead<'_>, Value>) -> usize {
    let offset = stream.byte_offset();
    offset + text[offset..].len() - text[offset..].trim_start().len()
}

/// One document and its place in the file.
struct Document<'t> {
    file: &'t str,
    line: usize,
    text: &'t str,
    lookups: Cell<u32>,
}

impl<'t> Document<'t> {
    fn new(file: &'t str, line: usize, text: &'t str) -> Self {
        Self { file, line, text, lookups: Cell::new(0) }
    }

    fn parse_yaml(&self, parsed: &mut Parsed) {
        let value = serde_yaml::from_str::<Value>(self.text).and_then(|mut value| {
            if self.text.contains("<<") {
                value.apply_merge()?;
            }
            Ok(value)
        });
        match value {
            Ok(value) => self.read(value, &mut Vec::new(), None, parsed),
            Err(error) => parsed.broken.push(self.syntax_problem(error)),
        }
    }

    /// Reads an object, or the objects of a list. `implied` is the kind of items of a typed list.
    fn read(&self, value: Value, path: &mut Vec<PathStep>, implied: Option<(&str, &str)>, parsed: &mut Parsed) {
        let Value::Mapping(map) = value else {
            if !value.is_null() {
                parsed.broken.push(self.problem(path, "is not a Kubernetes object; it is left out"));
            }
            return;
        };
        let word = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let (version, kind) = match (word("apiVersion"), word("kind"), implied) {
            (Some(version), Some(kind), _) => (version, kind),
            (None, None, Some((version, kind))) => (version.to_owned(), kind.to_owned()),
            (version, _, _) => {
                let missing = if version.is_some() { "kind" } else { "apiVersion" };
                let message = format!("has no {missing}, so it is not a Kubernetes object; it is left out");
                parsed.broken.push(self.problem(path, &message));
                return;
            }
        };
        match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => self.object(&kind, map, path, Object::Service, parsed),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.object(&kind, map, path, Object::Slice, parsed),
            ("v1", "Node") => self.object(&kind, map, path, Object::Node, parsed),
            ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => {
                self.object(&kind, map, path, Object::Cidr, parsed);
            }
            (version, list) if list.ends_with("List") && map.contains_key("items") => {
                let item = list.strip_suffix("List").filter(|item| !item.is_empty());
                self.items(map, path, item.map(|item| (version, item)), parsed);
            }
            (_, "EndpointSlice") => {
                let message = format!("{version} is not read, only discovery.k8s.io/v1; convert the EndpointSlice");
                path.push(PathStep::Key("apiVersion".into()));
                parsed.broken.push(self.problem(path, &message));
                path.pop();
            }
            _ => {
                let metadata = map.get("metadata");
                let text = |key: &str| metadata.and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default();
                let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty()).unwrap_or("default");
                let is_misleading = matches!(kind.as_str(), "Service" | "Node" | "ServiceCIDR");
                parsed.unread.push(Unread {
                    line: self.line,
                    namespace: namespace.to_owned(),
                    name: text("name").to_owned(),
                    kind: if is_misleading { format!("{version} {kind}") } else { kind },
                });
            }
        }
    }

    fn items(&self, mut map: Mapping, path: &mut Vec<PathStep>, item: Option<(&str, &str)>, parsed: &mut Parsed) {
        path.push(PathStep::Key("items".into()));
        match map.remove("items") {
            Some(Value::Sequence(items)) => {
                for (index, value) in items.into_iter().enumerate() {
                    path.push(PathStep::Index(index));
                    self.read(value, path, item, parsed);
                    path.pop();
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => parsed.broken.push(self.problem(path, "is not a list; its objects are left out")),
        }
        path.pop();
    }

    fn object<T: DeserializeOwned>(
        &self,
        kind: &str,
        map: Mapping,
        path: &[PathStep],
        wrap: impl FnOnce(T) -> Object,
        parsed: &mut Parsed,
    ) {
        let value = Value::Mapping(map);
        match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(object) => {
                for field in unknown::fields(kind, &value) {
                    let full: Vec<PathStep> = path.iter().cloned().chain(field).collect();
                    let message = format!("is not a field of a {kind} and is ignored; correct its spelling");
                    parsed.notes.push(self.problem(&full, &message));
                }
                parsed.objects.push((self.line, wrap(object)));
            }
            Err(error) => {
                let mut full = path.to_vec();
                full.extend(steps(error.path()));
                let message = format!("{}; the object is left out", error.into_inner());
                parsed.broken.push(self.problem(&full, &message));
            }
        }
    }

    fn problem(&self, path: &[PathStep], message: &str) -> Problem {
        let lookups = self.lookups.replace(self.lookups.get().saturating_add(1));
        let found = if lookups < LOOKUPS { line_of(self.text, path) } else { None };
        let line = found.map_or(self.line, |line| self.line + line - 1);
        Problem::at(format!("{}:{line}", self.file), PathStep::join(path), message)
    }

    fn syntax_problem(&self, error: serde_yaml::Error) -> Problem {
        // The text of the error names lines itself, so let it count from the top of the file.
        let padded = format!("{}{}", "\n".repeat(self.line - 1), self.text);
        let error = serde_yaml::from_str::<Value>(&padded).err().unwrap_or_else(|| serde_yaml::Error::custom(error));
        let line = error.location().map_or(self.line, |location| location.line());
        let message = format!("not valid YAML: {error}; the document that begins at line {} is left out", self.line);
        Problem::at(format!("{}:{line}", self.file), "", message)
    }
}
