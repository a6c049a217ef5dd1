//! `/statusz` and `/flagz`: text for people, and kinds of `config.k8s.io` for programs (specification 10.5).

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::http::{Response, answer, json as json_answer};
use crate::metrics::KUBERNETES_VERSION;

/// What it says first, lest somebody parses the text.
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// Which one is used changes from process to process, for the same reason.
const SEPARATORS: [&str; 4] = [": ", "= ", " ", " - "];

/// A page in both forms.
#[derive(Debug)]
pub(super) struct Page {
    kind: &'static str,
    title: &'static str,
    lines: Vec<(String, String)>,
    fields: Map<String, Value>,
}

/// A media type a page can be had in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json(&'static str),
    Yaml(&'static str),
}

impl Page {
    /// `/statusz`.
    pub(super) fn status(started: SystemTime, paths: &[&str]) -> Self {
        let up = started.elapsed().unwrap_or_default().as_secs();
        let start = jiff::Timestamp::try_from(started).unwrap_or_default();
        // `metav1.Time` has whole seconds.
        let start = jiff::Timestamp::from_second(start.as_second()).unwrap_or_default();
        let binary = env!("CARGO_PKG_VERSION");
        let emulates = KUBERNETES_VERSION.trim_start_matches('v');
        let go = "none (Rust)";
        let lines = [
            ("Started", start.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
            ("Up", format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60)),
            ("Go version", go.to_owned()),
            ("Binary version", binary.to_owned()),
            ("Emulation version", emulates.to_owned()),
            ("Paths", paths.join(" ")),
        ];
        let fields = [
            ("startTime", json!(start.to_string())),
            ("uptimeSeconds", json!(up)),
            ("goVersion", json!(go)),
            ("binaryVersion", json!(minor(binary))),
            ("emulationVersion", json!(minor(emulates))),
            ("paths", json!(paths)),
        ];
        Self {
            kind: "Statusz",
            title: "kube-proxy statusz",
            lines: lines.map(|(name, value)| (name.to_owned(), value)).into(),
            fields: fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        }
    }

    /// `/flagz`, for flags in order.
    pub(super) fn flags(flags: &[(String, String)]) -> Self {
        let map: Map<String, Value> = flags.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let fields = [("flags".to_owned(), Value::Object(map))].into_iter().collect();
        Self { kind: "Flagz", title: "kube-proxy flagz", lines: flags.to_vec(), fields }
    }

    fn text(&self) -> String {
        let separator = SEPARATORS[std::process::id() as usize % SEPARATORS.len()];
        let lines = self.lines.iter().map(|(name, value)| format!("{name}{separator}{value}\n"));
        format!("\n{}\n{WARNING}\n\n{}", self.title, lines.collect::<String>())
    }

    fn object(&self, version: &str) -> Value {
        let mut object = json!({
            "kind": self.kind,
            "apiVersion": format!("config.k8s.io/{version}"),
            "metadata": {"name": "kube-proxy"},
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(self.fields.clone());
        }
        object
    }
}

/// Answers with the form a client accepts, or 406.
pub(super) fn respond(page: &Page, accept: Option<&str>) -> Response {
    match negotiate(page.kind, accept) {
        Some(Form::Text) => answer(StatusCode::OK, "text/plain; charset=utf-8", page.text()),
        Some(Form::Json(version)) => json_answer(StatusCode::OK, format!("{}\n", page.object(version))),
        Some(Form::Yaml(version)) => {
            let yaml = serde_yaml::to_string(&page.object(version)).unwrap_or_default();
            answer(StatusCode::OK, "application/yaml", yaml)
        }
        None => not_acceptable(page.kind),
    }
}

fn not_acceptable(kind: &str) -> Response {
    let message = format!(
        "only the following media types are accepted: text/plain, application/json;v=v1beta1;g=config.k8s.io;as={kind}, \
         application/yaml;v=v1beta1;g=config.k8s.io;as={kind}"
    );
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "NotAcceptable",
        "code": 406,
    });
    json_answer(StatusCode::NOT_ACCEPTABLE, format!("{status}\n"))
}

/// The first form that the best clause allows.
fn negotiate(kind: &str, accept: Option<&str>) -> Option<Form> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Some(Form::Text) };
    let mut clauses: Vec<(f32, Form)> = accept.split(',').filter_map(|clause| form(kind, clause)).collect();
    // Stable: among equals the first counts.
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.first().map(|(_, form)| *form)
}

/// What a clause allows, and how much the client wants it.
fn form(kind: &str, clause: &str) -> Option<(f32, Form)> {
    let mut parts = clause.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (mut weight, mut version, mut group, mut wanted) = (1.0_f32, None, None, None);
    for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        match name.trim() {
            "q" => weight = value.trim().parse().ok()?,
            "v" => version = ["v1beta1", "v1alpha1"].into_iter().find(|known| *known == value),
            "g" => group = Some(value),
            "as" => wanted = Some(value),
            _ => {}
        }
    }
    let object = || version.filter(|_| group == Some("config.k8s.io") && wanted == Some(kind));
    let form = match media.as_str() {
        "text/plain" | "text/*" | "*/*" => Form::Text,
        "application/json" => Form::Json(object()?),
        "application/yaml" => Form::Yaml(object()?),
        _ => return None,
    };
    (weight > 0.0).then_some((weight, form))
}

/// `1.36.2` is `1.36`.
fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
#[path = "zpages_tests.rs"]
mod tests;
