//! What tests leave behind when they cannot clean up: found by the label of their namespaces.

use serde::Deserialize;

use super::objects::{LABEL, RUNNER};
use crate::cli::cluster::kubectl::{Kubectl, KubectlError};
use crate::cli::cluster::objects::{List, Metadata};

/// How long a namespace may take to go.
const GONE_WITHIN: &str = "--timeout=60s";

/// A namespace of a test.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    metadata: Metadata,
}

/// Who runs the test: host, process, and when that was started, as another one may get its number.
pub(super) fn runner() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let pid = std::process::id();
    format!("{} {pid} {}", host.to_string_lossy(), start_of(pid).unwrap_or_default())
}

/// The start of a process in the kernel's ticks; none: there is no such process.
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have blanks and brackets itself. Field 22, of which the second ends with the bracket.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// Whether a test on this host is over. Of another host nobody knows.
fn is_over(runner: &str) -> bool {
    let mut words = runner.split(' ');
    let (host, pid, start) = (words.next(), words.next(), words.next());
    let here = nix::unistd::gethostname().unwrap_or_default();
    let is_here = host == Some(&*here.to_string_lossy());
    let pid = pid.and_then(|pid| pid.parse().ok());
    is_here && pid.is_none_or(|pid| start_of(pid).as_deref() != start)
}

/// Deletes what tests of this host have left; with `all` that of every host, and of tests that run.
pub(super) async fn delete(kubectl: &Kubectl, all: bool) -> Result<(), KubectlError> {
    let list: List<Namespace> = kubectl.json(&["get", "namespaces", "-l", LABEL]).await?;
    let staying = list.items.into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    for Namespace { metadata } in staying {
        let runner = metadata.annotations.get(RUNNER).map(String::as_str).unwrap_or_default();
        if all || is_over(runner) {
            eprintln!("portway: deleting namespace {}, left behind by an earlier test", metadata.name);
            delete_namespace(kubectl, &metadata.name, all).await?;
        } else {
            let host = runner.split(' ').next().unwrap_or_default();
            eprintln!(
                "portway: namespace {} is of a test that may still run, started on {host}; if not: `portway test --clean-up`",
                metadata.name
            );
        }
    }
    Ok(())
}

/// Deletes a namespace, which may not be there; `waits`: until all of it is gone.
pub(super) async fn delete_namespace(kubectl: &Kubectl, name: &str, waits: bool) -> Result<(), KubectlError> {
    let wait = format!("--wait={waits}");
    let words = ["delete", "namespace", name, "--ignore-not-found", &wait, GONE_WITHIN];
    kubectl.within(std::time::Duration::from_secs(75)).text(&words, None).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_over_when_its_process_is() {
        let ours = runner();
        assert!(!is_over(&ours), "{ours}");
        let (head, _) = ours.rsplit_once(' ').expect("words");
        assert!(is_over(&format!("{head} 1")), "another process has the number");
        let (host, _) = head.split_once(' ').expect("words");
        assert!(is_over(&format!("{host} 4194305 7")), "there is no such process");
        assert!(!is_over("elsewhere 1 1"), "nobody knows");
        assert!(!is_over(""));
    }
}
