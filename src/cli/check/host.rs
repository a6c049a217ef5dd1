//! Settings of the host that traffic to Services depends on.

use std::path::Path;

use super::CheckRow;
use crate::host::Flows;
use crate::host::sysctl::Roots;

pub(super) fn rows(roots: &Roots) -> Vec<CheckRow> {
    let mut rows = vec![conntrack(roots), ipvs(roots)];
    rows.extend(
        [("net.ipv4.ip_forward", true), ("net.ipv6.conf.all.forwarding", false)]
            .map(|(name, needed)| forwarding(roots, name, needed)),
    );
    rows.push(bridges(roots));
    rows.push(unless(
        roots,
        "net.ipv4.conf.all.rp_filter",
        "1",
        "strict: answers that take another way are dropped",
        "set it to 2 (loose) if pods or load balancers are reached through several interfaces",
    ));
    rows.push(unless(
        roots,
        "net.ipv4.conf.all.route_localnet",
        "1",
        "other machines may reach what listens on loopback",
        "set it to 0: NodePorts of Portway do not answer on loopback and need no such route",
    ));
    rows
}

fn sysctl(roots: &Roots, name: &str) -> Option<String> {
    let path = roots.proc.join("sys").join(name.replace('.', "/"));
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn conntrack(roots: &Roots) -> CheckRow {
    let what = "connection tracking";
    match Flows::read(roots) {
        Some(flows) if flows.is_nearly_full() => CheckRow::warn(
            what,
            flows.to_string(),
            "raise conntrack.maxPerCore (--conntrack-max-per-core), or find out who opens so many connections",
        ),
        Some(flows) => CheckRow::ok(what, flows.to_string()),
        None => {
            CheckRow::warn(what, "not active", "load the kernel module nf_conntrack; Portway's own rules do it, too")
        }
    }
}

fn ipvs(roots: &Roots) -> CheckRow {
    let what = "IPVS";
    let table = std::fs::read_to_string(roots.proc.join("net/ip_vs")).unwrap_or_default();
    let services = table.lines().filter(|line| ["TCP", "UDP", "SCTP"].iter().any(|p| line.starts_with(p))).count();
    match services {
        0 => CheckRow::ok(what, "no services"),
        services => CheckRow::warn(
            what,
            format!("{services} services"),
            "if they are kube-proxy's: stop it; then run with --takeover, or `portway cleanup --kube-proxy`",
        ),
    }
}

fn forwarding(roots: &Roots, name: &str, needed: bool) -> CheckRow {
    match sysctl(roots, name).as_deref() {
        Some("1") => CheckRow::ok(name, "1"),
        Some(value) if needed => {
            CheckRow::fail(name, value, &format!("sysctl -w {name}=1: pods and NodePorts need forwarding"))
        }
        Some(value) => CheckRow::warn(name, value, &format!("sysctl -w {name}=1 if the cluster has IPv6")),
        None if needed => CheckRow::fail(name, "not there", "this kernel has no IPv4"),
        None => CheckRow::ok(name, "no IPv6"),
    }
}

/// Frames between two pods on one bridge pass the rules only with br_netfilter.
fn bridges(roots: &Roots) -> CheckRow {
    let what = "bridges";
    let is_bridge = |name: &str| roots.sys.join("class/net").join(name).join("bridge").exists();
    let names = names(&roots.sys.join("class/net"));
    let bridges: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_bridge(name)).collect();
    if bridges.is_empty() {
        return CheckRow::ok(what, "none");
    }
    let off: Vec<&str> = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"]
        .into_iter()
        .filter(|name| sysctl(roots, name).as_deref() != Some("1"))
        .collect();
    if off.is_empty() {
        return CheckRow::ok(what, format!("{}: frames pass the rules", bridges.join(", ")));
    }
    CheckRow::warn(
        what,
        format!("{}: not 1: {}", bridges.join(", "), off.join(", ")),
        "if pods hang on it: modprobe br_netfilter and set both to 1, or pods do not reach Services on their own bridge",
    )
}

fn unless(roots: &Roots, name: &str, bad: &str, why: &str, remedy: &str) -> CheckRow {
    match sysctl(roots, name) {
        Some(value) if value == bad => CheckRow::warn(name, format!("{value}: {why}"), remedy),
        Some(value) => CheckRow::ok(name, value),
        None => CheckRow::ok(name, "not there"),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::State;

    /// Paths and their text.
    type Files = &'static [(&'static str, &'static str)];

    fn roots(files: Files) -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, format!("{text}\n")).expect("a file");
        }
        let roots = Roots { proc: folder.path().join("proc"), sys: folder.path().join("sys"), ..Roots::default() };
        (folder, roots)
    }

    fn state(files: Files, what: &str) -> State {
        let (_folder, roots) = roots(files);
        rows(&roots).into_iter().find(|row| row.what == what).expect(what).state
    }

    #[test]
    fn what_is_wrong_is_found_and_has_a_remedy() {
        let cases: [(Files, &str, State); 9] = [
            (&[("proc/sys/net/ipv4/ip_forward", "0")], "net.ipv4.ip_forward", State::Fail),
            (&[("proc/sys/net/ipv4/ip_forward", "1")], "net.ipv4.ip_forward", State::Ok),
            (&[("proc/sys/net/ipv6/conf/all/forwarding", "0")], "net.ipv6.conf.all.forwarding", State::Warn),
            (&[("proc/sys/net/ipv4/conf/all/rp_filter", "1")], "net.ipv4.conf.all.rp_filter", State::Warn),
            (&[("proc/sys/net/ipv4/conf/all/rp_filter", "2")], "net.ipv4.conf.all.rp_filter", State::Ok),
            (&[("proc/net/ip_vs", "IP Virtual Server\nTCP  0A600001:0050 rr")], "IPVS", State::Warn),
            (&[("sys/class/net/cbr0/bridge/x", "")], "bridges", State::Warn),
            (
                &[
                    ("proc/sys/net/netfilter/nf_conntrack_count", "95"),
                    ("proc/sys/net/netfilter/nf_conntrack_max", "100"),
                ],
                "connection tracking",
                State::Warn,
            ),
            (&[], "bridges", State::Ok),
        ];
        for (files, what, expected) in cases {
            assert_eq!(state(files, what), expected, "{what} with {files:?}");
        }
        let (_folder, roots) = roots(&[]);
        assert!(rows(&roots).iter().all(|row| (row.state == State::Ok) == row.remedy.is_empty()));
    }
}
