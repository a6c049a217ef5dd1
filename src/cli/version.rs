//! `portway version` and `--version`.

use crate::config::Flags;

/// The name under which the program behaves as kube-proxy does.
pub(super) const KUBE_PROXY: &str = "kube-proxy";
/// The kube-proxy whose behaviour this is.
const MINOR: &str = "1.36";
const PORTWAY: &str = env!("CARGO_PKG_VERSION");

/// What to print, if the flags ask for it.
pub(super) fn asked_for(flags: &Flags, as_kube_proxy: bool) -> Option<String> {
    let asked = flags.value("version");
    match asked {
        "raw" => Some(raw()),
        // Scripts read the line of kube-proxy and compare the number.
        _ if flags.is_set("version") && as_kube_proxy => Some(format!("Kubernetes {}", git_version())),
        _ if flags.is_set("version") => Some(of_portway()),
        _ => None,
    }
}

/// The line for people.
pub(super) fn of_portway() -> String {
    format!("Portway {PORTWAY} (kube-proxy v{MINOR} compatible)")
}

/// As distributions mark builds of their own.
fn git_version() -> String {
    format!("v{MINOR}.0+portway.{PORTWAY}")
}

fn raw() -> String {
    let (major, minor) = MINOR.split_once('.').unwrap_or((MINOR, ""));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "version.Info{{Major:{major:?}, Minor:{minor:?}, GitVersion:{:?}, Compiler:\"rustc\", Platform:\"linux/{arch}\"}}",
        git_version()
    )
}
