//! The two text formats. The registry speaks OpenMetrics; the older Prometheus format is derived from it.

use std::borrow::Cow;

use prometheus_client::registry::Registry;

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4, as kube-proxy sends.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a client gets that sends this Accept header: OpenMetrics when it asks for that.
    pub fn accepted(accept: Option<&str>) -> Self {
        let wants = |clause: &str| {
            let mut parts = clause.split(';').map(str::trim);
            let openmetrics =
                parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let fits = parts.all(|parameter| match parameter.split_once('=') {
                Some(("version", version)) => matches!(version, "1.0.0" | "0.0.1"),
                Some(("q", weight)) => weight.parse::<f32>().is_ok_and(|weight| weight > 0.0),
                _ => true,
            });
            openmetrics && fits
        };
        if accept.is_some_and(|accept| accept.split(',').any(wants)) { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// The Content-Type header.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The exposition of a registry.
pub(super) fn encode(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    if let Err(cause) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!(%cause, "cannot write metrics");
    }
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => older(&text),
    }
}

/// The same in format 0.0.4, which has no `# EOF`, calls a counter by the name of its sample, and writes whole limits of
/// buckets without decimals.
fn older(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut line = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    let mut help = None;
    for text in text.lines() {
        if let Some(rest) = text.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = text.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                line(&format!("# HELP {name}{suffix} {help}"));
            }
            line(&format!("# TYPE {name}{suffix} {kind}"));
        } else if text != "# EOF" {
            line(&without_decimals(text));
        }
    }
    out
}

/// `le="1.0"` becomes `le="1"`.
fn without_decimals(sample: &str) -> Cow<'_, str> {
    const LIMIT: &str = "_bucket{le=\"";
    let limit = sample.find(LIMIT).map(|at| at + LIMIT.len());
    match limit.and_then(|at| Some((at, sample[at..].find('"')? + at))) {
        Some((start, end)) if sample[start..end].ends_with(".0") => {
            Cow::Owned(format!("{}{}", &sample[..end - 2], &sample[end..]))
        }
        _ => Cow::Borrowed(sample),
    }
}
