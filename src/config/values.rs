//! Settings whose values are checked and turned into what the program uses.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ConfigError, GoDuration};
use crate::host;

/// The kernel itself forgets endpoints that are gone after two hours: Portway must do so before.
pub(super) fn reset_for(wanted: GoDuration) -> Result<GoDuration, ConfigError> {
    if wanted.is_negative() || wanted > GoDuration::from_secs(3600) {
        let (value, cause) = (wanted.to_string(), "want a time from 0 to 1h".to_owned());
        return Err(ConfigError::Flag { flag: "reset-connections-for", value, cause });
    }
    Ok(wanted)
}

/// The name in the configuration or else the host's, as kube-proxy compares it (specification 2.2).
pub(super) fn node_name(configured: &str) -> Result<String, ConfigError> {
    if configured.is_empty() {
        return host::name().ok_or(ConfigError::NoName);
    }
    let name = configured.trim().to_lowercase();
    if name.is_empty() { Err(ConfigError::BlankName) } else { Ok(name) }
}

/// What may be a label's value; empty: none.
pub(super) fn proxy_name(text: &str) -> Result<Option<Arc<str>>, ConfigError> {
    let is_edge = |edge: Option<char>| edge.is_none_or(|c| c.is_ascii_alphanumeric());
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() > 63 || !text.chars().all(is_inner) || !is_edge(text.chars().next()) || !is_edge(text.chars().last())
    {
        return Err(ConfigError::ProxyName(text.to_owned()));
    }
    Ok(Some(text.into()).filter(|_| !text.is_empty()))
}

/// Names that chains and maps can have in them, each once, sorted.
pub(super) fn devices(names: Vec<String>) -> Result<Vec<Arc<str>>, ConfigError> {
    match names.iter().find(|name| name.is_empty() || !is_plain(name)) {
        Some(bad) => Err(ConfigError::DirectDevice(bad.clone())),
        None => Ok(sorted(names)),
    }
}

/// Names, or beginnings of names with a `*` behind them, each once, sorted.
pub(super) fn device_patterns(patterns: Vec<String>) -> Result<Vec<Arc<str>>, ConfigError> {
    let is_pattern = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => is_plain(beginning),
        None => !pattern.is_empty() && is_plain(pattern),
    };
    match patterns.iter().find(|pattern| !is_pattern(pattern)) {
        Some(bad) => Err(ConfigError::FastDevice(bad.clone())),
        None => Ok(sorted(patterns)),
    }
}

/// What an interface's name, or its beginning, can consist of.
fn is_plain(name: &str) -> bool {
    let fits = name.len() <= 15 && !matches!(name, "." | "..");
    fits && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn sorted(names: Vec<String>) -> Vec<Arc<str>> {
    names.into_iter().map(Arc::from).collect::<BTreeSet<_>>().into_iter().collect()
}
