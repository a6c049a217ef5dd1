//! Which interfaces the flow table has.

use std::sync::Arc;

use crate::ruleset::FastDevices;

/// The loopback interface, which forwards nothing.
const LOOPBACK: &str = "lo";

/// Those of the interfaces that are there which the patterns name: by their whole name, or by its beginning before a `*`.
pub fn chosen<'a>(patterns: &[Arc<str>], there: impl IntoIterator<Item = &'a Arc<str>>) -> FastDevices {
    let names = |pattern: &Arc<str>, device: &str| match pattern.strip_suffix('*') {
        Some(beginning) => device.starts_with(beginning),
        None => **pattern == *device,
    };
    let is_chosen = |device: &str| device != LOOPBACK && patterns.iter().any(|pattern| names(pattern, device));
    there.into_iter().filter(|device| is_chosen(device)).cloned().collect()
}

/// Says which interfaces should be there and are not. Where only the beginning of a name is given there may be none at times,
/// but some interface there must be.
pub(super) fn missing(patterns: &[Arc<str>], devices: &FastDevices) -> Option<String> {
    let is_open = |pattern: &str| pattern.ends_with('*');
    let names: Vec<&str> = match devices.is_empty() {
        true => patterns.iter().map(|pattern| &**pattern).collect(),
        false => {
            patterns.iter().map(|name| &**name).filter(|name| !is_open(name) && !devices.contains(*name)).collect()
        }
    };
    (!names.is_empty()).then(|| format!("no interface that is up is called {}", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arcs(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn names_and_beginnings_of_names_choose() {
        let there = arcs(&["lo", "eth0", "eth0.5", "cali1", "cali", "xcali", "*"]);
        let by = |patterns: &[&str]| chosen(&arcs(patterns), &there).into_iter().collect::<Vec<_>>();
        assert_eq!(by(&["eth0"]), arcs(&["eth0"]));
        assert_eq!(by(&["cali*"]), arcs(&["cali", "cali1"]));
        assert_eq!(by(&["eth0", "eth*"]), arcs(&["eth0", "eth0.5"]), "each once");
        assert_eq!(by(&["*"]), arcs(&["*", "cali", "cali1", "eth0", "eth0.5", "xcali"]), "not loopback");
        assert_eq!(by(&["lo", "none0"]), []);
        assert_eq!(by(&[]), []);
    }

    #[test]
    fn interfaces_that_should_be_there_are_missed() {
        let missed = |patterns: &[&str], there: &[&str]| missing(&arcs(patterns), &arcs(there).into_iter().collect());
        assert_eq!(missed(&["cali*", "eth0"], &["eth0"]), None, "no pods");
        let words = missed(&["cali*", "eth0", "eth1"], &["cali1", "eth0"]).expect("eth1 is missing");
        assert_eq!(words, "no interface that is up is called eth1");
        let words = missed(&["cali*", "veth*"], &[]).expect("there is none");
        assert_eq!(words, "no interface that is up is called cali* or veth*");
    }
}
