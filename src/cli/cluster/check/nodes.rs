//! What Nodes say in their status, and what their Portway says; equal things in one line.

use crate::admin::State;
use crate::cli::check::CheckRow;
use crate::cli::cluster::objects::Node;
use crate::cli::table;

/// Those an image is built for.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Linux versions: needed; without a fault of connection tracking; with tables that belong to a process. docs/compatibility.md
const NEEDED: (u32, u32) = (5, 9);
const NO_RESETS: (u32, u32) = (6, 1);
const OWNED: (u32, u32) = (6, 9);

/// What the API knows of nodes.
pub(super) fn rows(nodes: &[Node]) -> Vec<CheckRow> {
    let linux: Vec<&Node> = nodes.iter().filter(|node| node.is_linux()).collect();
    let mut rows = Vec::new();
    if linux.is_empty() {
        return vec![CheckRow::fail("nodes", "there is no Linux node", "look at `kubectl get nodes`")];
    }
    let info = |node: &Node| node.status.node_info.clone();
    rows.extend(grouped(&linux, |node| info(node).kernel_version).map(|(kernel, nodes)| of_kernel(&kernel, &nodes)));
    for (architecture, nodes) in grouped(&linux, |node| info(node).architecture) {
        rows.push(if ARCHITECTURES.contains(&architecture.as_str()) {
            CheckRow::ok("architecture", format!("{architecture}: {}", names(&nodes)))
        } else {
            let detail = format!("{architecture}: {}", names(&nodes));
            CheckRow::fail("architecture", detail, "build an image for it, or leave these nodes out by `nodeSelector`")
        });
    }
    let unready: Vec<String> =
        linux.iter().filter(|node| !node.is_ready()).map(|node| node.metadata.name.clone()).collect();
    if !unready.is_empty() {
        let remedy = "find out why before anything is changed";
        rows.push(CheckRow::warn("nodes", format!("not Ready: {}", names(&unready)), remedy));
    }
    rows
}

/// Names of nodes by something they have in common.
fn grouped(nodes: &[&Node], by: impl Fn(&Node) -> String) -> impl Iterator<Item = (String, Vec<String>)> {
    let mut groups = std::collections::BTreeMap::<String, Vec<String>>::new();
    for node in nodes {
        groups.entry(by(node)).or_default().push(node.metadata.name.clone());
    }
    groups.into_iter()
}

fn names(nodes: &[String]) -> String {
    match nodes.len() {
        1 => nodes.concat(),
        number => format!("{number} nodes ({})", table::list(nodes, false)),
    }
}

fn of_kernel(release: &str, nodes: &[String]) -> CheckRow {
    let what = "kernel";
    let detail = format!("{release}: {}", names(nodes));
    match version(release) {
        Some(version) if version < NEEDED => {
            CheckRow::fail(what, detail, "Portway needs Linux 5.9: update, or leave these nodes out by `nodeSelector`")
        }
        Some(version) if version < NO_RESETS => {
            CheckRow::warn(what, detail, "set conntrack.tcpBeLiberal: docs/compatibility.md, 6.1")
        }
        Some(version) if version < OWNED => {
            CheckRow::ok(what, format!("{detail}; tables can be changed by others, and are repaired (before 6.9)"))
        }
        Some(_) => CheckRow::ok(what, detail),
        None => CheckRow::warn(what, format!("no version of Linux: {detail}"), "look with `portway check` on the node"),
    }
}

/// `6.18` of `6.18.44-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What nodes answered to `portway check`; what is OK everywhere is one line.
pub(super) fn answers(answers: Vec<(String, Result<Vec<CheckRow>, String>)>) -> Vec<CheckRow> {
    let mut kinds: Vec<(CheckRow, Vec<String>)> = Vec::new();
    let mut fine = Vec::new();
    for (node, answer) in answers {
        let rows = answer.unwrap_or_else(|cause| {
            vec![CheckRow::warn("on the node", format!("does not answer: {cause}"), "see `status`")]
        });
        let (ok, bad): (Vec<CheckRow>, _) = rows.into_iter().partition(|row| row.state == State::Ok);
        if bad.is_empty() && !ok.is_empty() {
            fine.push(node.clone());
        }
        for row in bad {
            match kinds.iter_mut().find(|(kind, _)| *kind == row) {
                Some((_, nodes)) => nodes.push(node.clone()),
                None => kinds.push((row, vec![node.clone()])),
            }
        }
    }
    let line = |(row, mut nodes): (CheckRow, Vec<String>)| {
        nodes.sort();
        CheckRow { detail: format!("{}: {}", names(&nodes), row.detail), ..row }
    };
    let mut rows: Vec<CheckRow> = kinds.into_iter().map(line).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.state));
    if !fine.is_empty() {
        fine.sort();
        rows.push(CheckRow::ok("on the node", format!("everything OK: {}", names(&fine))));
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, kernel: &str, architecture: &str, ready: &str) -> Node {
        let node = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}],
            "nodeInfo": {"kernelVersion": kernel, "architecture": architecture, "operatingSystem": "linux"}}});
        serde_json::from_value(node).expect("a Node")
    }

    #[test]
    fn kernels() {
        let state = |release: &str| of_kernel(release, &["a".to_owned()]).state;
        assert_eq!([state("6.18.44"), state("6.1.0-50-cloud-amd64"), state("10.0")], [State::Ok; 3]);
        assert_eq!([state("5.9.0"), state("5.15.0-1051-aws"), state("unknown")], [State::Warn; 3]);
        assert_eq!([state("5.8.18"), state("4.18.0-553.el8_10.x86_64")], [State::Fail; 2]);
    }

    #[test]
    fn equal_nodes_are_one_line() {
        let nodes = [
            node("a", "6.12.1", "amd64", "True"),
            node("b", "6.12.1", "s390x", "False"),
            node("c", "6.12.1", "amd64", "True"),
        ];
        let lines: Vec<String> =
            rows(&nodes).iter().map(|row| format!("{} {}: {}", row.state, row.what, row.detail)).collect();
        assert_eq!(
            lines,
            [
                "OK kernel: 6.12.1: 3 nodes (a,b,c)",
                "OK architecture: amd64: 2 nodes (a,c)",
                "FAIL architecture: s390x: b",
                "WARN nodes: not Ready: b"
            ]
        );
        assert_eq!(rows(&[]).len(), 1);
    }

    #[test]
    fn equal_answers_are_one_line() {
        let bad = || vec![CheckRow::ok("kernel", "6.18"), CheckRow::fail("numgen", "missing", "build it")];
        let given = vec![
            ("b".to_owned(), Ok(bad())),
            ("a".to_owned(), Ok(bad())),
            ("c".to_owned(), Ok(vec![CheckRow::ok("kernel", "6.18")])),
            ("d".to_owned(), Err("gone".to_owned())),
        ];
        let lines: Vec<String> =
            answers(given).iter().map(|row| format!("{} {}: {}", row.state, row.what, row.detail)).collect();
        assert_eq!(
            lines,
            [
                "FAIL numgen: 2 nodes (a,b): missing",
                "WARN on the node: d: does not answer: gone",
                "OK on the node: everything OK: c"
            ]
        );
    }
}
